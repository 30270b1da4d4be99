//go:build linux || darwin

package folder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// keepImages is how long the root filesystem of an image stays that no container needs.
const keepImages = time.Hour

// image gets the root filesystem that a container shall have, if it names an image.
func (r *Runtime) image(ctx context.Context, c cell.Creation, m *meta) (release func(), err error) {
	if c.Spec.Image == "" && r.engine != nil {
		if m.Root = r.engine.Root(c.Spec); m.Root != "" {
			return r.cfg.Images.Hold(m.Root)
		}
	}
	if c.Spec.Image == "" {
		return func() {}, nil
	}
	if r.cfg.Images == nil {
		return nil, fmt.Errorf("image %s: %w by this cell: it has stacks only", c.Spec.Image, errors.ErrUnsupported)
	}
	if len(c.Layers) > 0 {
		return nil, fmt.Errorf("image %s: %w with layers: they are for stacks", c.Spec.Image, errors.ErrUnsupported)
	}
	dir, release, err := r.cfg.Images.Root(ctx, c.Spec.Image, c.Login)
	if err != nil {
		return nil, err
	}
	m.Image = &Image{Dir: dir}
	if m.Image.UID, m.Image.GID, err = account(dir, c.Spec.User); err != nil {
		release()
		return nil, fmt.Errorf("image %s: %w", c.Spec.Image, err)
	}
	return release, nil
}

// holdImage keeps the image of a container of an earlier program.
func (r *Runtime) holdImage(c *container) (err error) {
	dir := c.meta.Root
	if c.meta.Image != nil {
		dir = c.meta.Image.Dir
	}
	switch {
	case dir == "":
		return nil
	case r.cfg.Images == nil:
		return fmt.Errorf("it needs the image in %s, and Config.Images is not set any more", dir)
	}
	c.release, err = r.cfg.Images.Hold(dir)
	return err
}

// collectImages removes root filesystems that nobody has needed for long, in the background.
func (r *Runtime) collectImages() {
	r.wg.Go(func() {
		if err := r.cfg.Images.Collect(time.Now().Add(-keepImages)); err != nil {
			r.cfg.Logger.Error("remove images that nobody needs", "error", err)
		}
	})
}

// maxID is the largest number of a user or group: the one after it stands for none.
const maxID = 1<<32 - 2

const rootName = "root"

// account finds the numbers of a user as images name them: NAME or NUMBER, and after a colon a group likewise; "": root. Without
// a group it is the user's, by the image's passwd file, or else 0, as in Docker.
func account(dir, user string) (uid, gid int, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = root.Close() }() // it was only read
	name, group, grouped := strings.Cut(user, ":")
	if name == "" {
		name = rootName
	}
	// passwd(5): name:password:uid:gid:…; group(5): name:password:gid:…
	line, err := entry(root, "etc/passwd", name)
	switch n, e := strconv.ParseUint(name, 10, 32); {
	case err != nil:
		return 0, 0, err
	case line != nil:
		uid, err = number(line[2])
		if err == nil {
			gid, err = number(line[3])
		}
	case e == nil && n <= maxID:
		uid = int(n)
	case name == rootName: // an image of a program alone has no accounts, and root is 0 on any machine
	default:
		return 0, 0, fmt.Errorf("its user %q is not in its /etc/passwd: give a number, or a user that it has", name)
	}
	if err != nil || !grouped || group == "" {
		return uid, gid, err
	}
	line, err = entry(root, "etc/group", group)
	switch n, e := strconv.ParseUint(group, 10, 32); {
	case err != nil:
		return 0, 0, err
	case line != nil:
		gid, err = number(line[2])
	case e == nil && n <= maxID:
		gid = int(n)
	default:
		return 0, 0, fmt.Errorf("its group %q is not in its /etc/group: give a number, or a group that it has", group)
	}
	return uid, gid, err
}

func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxID {
		return 0, fmt.Errorf("its accounts name the number %q, which is none", s)
	}
	return int(n), nil
}

// entry returns the fields of the line of a name or number, nil if there is none. The file is the image's: anything.
func entry(root *os.Root, file, name string) ([]string, error) {
	info, err := root.Stat(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	f, err := root.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		l := strings.Split(lines.Text(), ":")
		if len(l) >= 4 && (l[0] == name || l[2] == name) {
			return l, nil
		}
	}
	return nil, lines.Err()
}
