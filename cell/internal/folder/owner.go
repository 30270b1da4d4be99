//go:build linux || darwin

package folder

import (
	"errors"
	"io/fs"
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

// theirs lists a folder, and those above it up to the root, that are to be the property of the cell's user when they are there: all of
// them, where that is another than who this program runs as; of an image only those that are not there yet.
func (r *Runtime) theirs(root *os.Root, dir string, of *Image) (all []string) {
	if r.owner(of) == 0 {
		return nil
	}
	for p := dir; ; p = path.Dir(p) {
		if of != nil {
			if _, err := root.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
				return all
			}
		}
		if all = append(all, p); p == "." || p == "/" {
			return all
		}
	}
}

// giveAway makes folders that. What is unpacked or copied into them has its owner from the start.
func (r *Runtime) giveAway(root *os.Root, dirs []string, of *Image) error {
	uid := r.owner(of)
	for _, p := range dirs {
		if err := root.Lchown(p, uid, uid); err != nil {
			return err
		}
	}
	return nil
}
