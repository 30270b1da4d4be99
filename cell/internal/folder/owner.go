//go:build linux || darwin

package folder

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// giveAway makes all below dir the property of the cell's user, where that is another than who
// runs this program. Processes may be at work there: no link is followed.
func (r *Runtime) giveAway(root *os.Root, dir string) error {
	uid, ok := r.cfg.Kind.Owner()
	if !ok {
		return nil
	}
	// What is above was perhaps made for it.
	for p := path.Dir(dir); p != "." && p != "/"; p = path.Dir(p) {
		if err := root.Lchown(p, uid, uid); err != nil {
			return err
		}
	}
	return fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) == uid && int(st.Gid) == uid {
			return nil
		}
		if err := root.Lchown(p, uid, uid); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}
