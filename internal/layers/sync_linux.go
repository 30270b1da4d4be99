package layers

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncAll makes a directory and all in it outlive a power cut: with the whole file system, as that is quicker than a
// sync of each of some thousand files.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
