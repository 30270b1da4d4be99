package blob

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes a lock that ends with the file or the process. An exclusive one is had at
// once or not at all; a shared one waits for an exclusive one, which is short. Windows adds locks of one handle instead of changing the kind, so the old one is let go first.
func lockFile(f *os.File, exclusive bool) error {
	var flags uint32
	if exclusive {
		flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	}
	h := windows.Handle(f.Fd())
	_ = windows.UnlockFileEx(h, 0, 1, 0, new(windows.Overlapped))
	return windows.LockFileEx(h, flags, 0, 1, 0, new(windows.Overlapped))
}

// syncDir does nothing: NTFS journals names, and a directory cannot be flushed.
func syncDir(*os.File) error { return nil }

func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }
