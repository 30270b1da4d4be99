//go:build unix

package router

import "syscall"

const canPeek = true

// nothingToRead tells whether a connection is open and silent. It does not wait.
func nothingToRead(fd uintptr, one []byte) bool {
	n, err := syscall.Read(int(fd), one)
	return n < 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
}
