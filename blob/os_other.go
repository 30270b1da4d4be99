//go:build !windows && (!unix || solaris || aix)

package blob

import (
	"errors"
	"os"
)

// lockFile has no lock to take: leftovers of writers that died then stay.
func lockFile(*os.File, bool) error { return errors.ErrUnsupported }

func syncDir(f *os.File) error { return f.Sync() }

func isFull(error) bool { return false }

func isReadOnly(error) bool { return false }
