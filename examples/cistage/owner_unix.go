//go:build unix

package main

import (
	"io/fs"
	"os"
	"syscall"
)

// mine tells whether a file is this user's.
func mine(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
