//go:build linux

package containerd

import "github.com/vishvananda/netlink"

// Links lists the links of the machine.
func Links() ([]netlink.Link, error) { return links() }

// NameOf is what control groups and containerd call the cell of a folder.
func NameOf(dir string) string { return nameOf(dir) }

// Socket is that of the server.
func (r *Runtime) Socket() string { return r.k.server.socket }
