package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount mounts it. Whiteouts and the like are kept in attributes that everybody may set if unprivileged, as in
// a user namespace (Linux 5.11).
func (o Overlay) Mount(unprivileged bool) error {
	at, err := o.place()
	if err != nil {
		return fmt.Errorf("a place for an overlay at %s: %w", o.Name(), err)
	}
	defer func() { _ = at.Close() }() // only a name
	// The options of mount(2) have to fit in a page, so folders are named by descriptors.
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			_ = f.Close() // only names
		}
	}()
	name := func(dir string) string {
		f, e := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = errors.Join(err, e)
			return ""
		}
		opened = append(opened, f)
		return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	}
	lower := make([]string, len(o.Lower))
	for i, l := range o.Lower {
		lower[len(lower)-1-i] = name(l)
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + name(o.Upper) + ",workdir=" + name(o.Work)
	if err != nil {
		return err
	}
	if unprivileged {
		options += ",userxattr"
	}
	// By the descriptor: a layer below may have a link in its place.
	if err := unix.Mount("dewpoint", fmt.Sprintf("/proc/self/fd/%d", at.Fd()), "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount an overlay at %s: %w; is the folder itself on an overlay, as in a container? Then give one on another file system", o.Name(), err)
	}
	return nil
}

// Name is the folder in which it is seen.
func (o Overlay) Name() string { return filepath.Join(o.Root, o.At) }

// place makes that folder, if need be, and opens it. No link leads out of Root.
func (o Overlay) place() (*os.File, error) {
	r, err := os.OpenRoot(o.Root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	for i, part := 0, strings.Split(o.At, "/"); i < len(part); i++ {
		name := strings.Join(part[:i+1], "/")
		err := r.Mkdir(name, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		} else if err == nil && o.Owner != 0 {
			err = r.Lchown(name, o.Owner, o.Owner)
		}
		if err != nil {
			return nil, err
		}
	}
	return r.OpenFile(o.At, os.O_RDONLY|unix.O_DIRECTORY, 0)
}
