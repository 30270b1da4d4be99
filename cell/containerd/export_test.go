//go:build linux

package containerd

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// Links lists the listLinks of the machine.
func Links() ([]netlink.Link, error) { return listLinks() }

// NameOf is what control groups and containerd call the cell of a folder.
func NameOf(dir string) string { return nameOf(dir) }

// Socket is that of the server.
func (r *Runtime) Socket() string { return r.k.server.socket }

// Forget removes a container behind the Runtime's back, as if its folder were lost.
func Forget(dir, id string) error {
	dir = filepath.Join(dir, "containers", id)
	return errors.Join(unmountBelow(dir), os.RemoveAll(dir))
}

// Unmount lets go of all that is mounted below a folder.
func Unmount(dir string) error { return unmountBelow(dir) }
