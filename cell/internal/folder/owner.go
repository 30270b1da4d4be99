//go:build linux || darwin

package folder

import (
	"os"
	"path"
)

// owner is the user that works run as, and whose files theirs are; 0: who this program runs as.
func (r *Runtime) owner(of *Image) int {
	uid, ok := r.cfg.Kind.Owner(of)
	if !ok {
		return 0
	}
	return uid
}

// giveAway makes a folder, and those above it up to the root, the property of the cell's user, where that is
// another than who this program runs as. What is unpacked or copied into it has its owner from the start.
func (r *Runtime) giveAway(root *os.Root, dir string, of *Image) error {
	uid := r.owner(of)
	if uid == 0 {
		return nil
	}
	for p := dir; ; p = path.Dir(p) {
		if err := root.Lchown(p, uid, uid); err != nil {
			return err
		}
		if p == "." || p == "/" {
			return nil
		}
	}
}
