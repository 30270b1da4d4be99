package tarfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"time"
)

// tree writes entries below one directory.
//
// Names are walked part by part. open holds the directories on the way to the last entry;
// each was seen not to be a symbolic link, and none can become one later, because an entry
// in the place of a directory is refused.
type tree struct {
	ctx   context.Context
	l     Limits
	base  *os.Root
	open  []level
	stats Stats
	left  int64
	names names
	dirs  map[string]folder // modes and times to set at the end
	check []string          // symbolic links to resolve at the end
	buf   []byte
}

type folder struct {
	mode    fs.FileMode
	modTime time.Time
}

type level struct {
	name string // of one part
	root *os.Root
}

func newTree(ctx context.Context, root *os.Root, dir string, l Limits) (*tree, error) {
	if dir == "" {
		dir = "."
	}
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder to unpack into: %w", err)
	}
	base, err := root.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder to unpack into: %w", err)
	}
	return &tree{
		ctx: ctx, l: l, base: base, left: l.Bytes, names: newNames(l),
		dirs: map[string]folder{}, buf: make([]byte, 128<<10),
	}, nil
}

func (t *tree) close() {
	t.pop(0)
	t.base.Close()
}

func (t *tree) pop(n int) {
	for i := len(t.open) - 1; i >= n; i-- {
		t.open[i].root.Close()
	}
	t.open = t.open[:n]
}

func (t *tree) top() *os.Root {
	if n := len(t.open); n > 0 {
		return t.open[n-1].root
	}
	return t.base
}

// enter opens dir ("." is the base), making what is missing if make is set.
func (t *tree) enter(name, dir string, make bool) (*os.Root, error) {
	if dir == "." {
		t.pop(0)
		return t.base, nil
	}
	i := 0
	for part := range strings.SplitSeq(dir, "/") {
		if i < len(t.open) && t.open[i].name == part {
			i++
			continue
		}
		t.pop(i)
		sub, err := t.step(name, part, make)
		if err != nil {
			return nil, err
		}
		t.open = append(t.open, level{part, sub})
		i++
	}
	t.pop(i)
	return t.top(), nil
}

// step opens one part of a name in the directory that was entered last.
func (t *tree) step(name, part string, make bool) (*os.Root, error) {
	at := t.top()
	fi, err := at.Lstat(part)
	if errors.Is(err, fs.ErrNotExist) && make {
		// A name can imply hundreds of folders.
		if err := t.names.implied(name); err != nil {
			return nil, err
		}
		if err := at.Mkdir(part, 0o755); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		if err := t.own(at, part); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		return openDir(at, name, part)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	case fi.Mode()&fs.ModeSymlink != 0:
		return nil, refuse(name, "it lies behind %q, which is a symbolic link", part)
	case !fi.IsDir():
		return nil, refuse(name, "it lies in %q, which is not a folder", part)
	}
	if fi.Mode().Perm()&0o700 != 0o700 {
		t.unlock(at, part, fi)
	}
	return openDir(at, name, part)
}

// own gives a folder or link that was made to the owner that was asked for.
func (t *tree) own(at *os.Root, part string) error {
	if t.l.Owner == 0 {
		return nil
	}
	return at.Lchown(part, t.l.Owner, t.l.Owner)
}

// unlock opens a folder that an earlier archive closed to its owner, until the end.
func (t *tree) unlock(at *os.Root, part string, fi fs.FileInfo) {
	var path strings.Builder
	for _, l := range t.open {
		path.WriteString(l.name + "/")
	}
	path.WriteString(part)
	if at.Chmod(part, fi.Mode().Perm()|0o700) == nil {
		t.dirs[path.String()] = folder{mode: fi.Mode().Perm()}
	}
}

func openDir(at *os.Root, name, part string) (*os.Root, error) {
	sub, err := at.OpenRoot(part)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", name, err)
	}
	return sub, nil
}

// admit is what all entries go through first; it returns the clean name.
func (t *tree) admit(e Entry) (string, error) {
	if err := t.ctx.Err(); err != nil {
		return "", err
	}
	return t.names.admit(e)
}

// add makes one entry; body is read only for a file.
func (t *tree) add(e Entry, body io.Reader) error {
	name, err := t.admit(e)
	if err != nil {
		return err
	}
	if name == "." {
		if !e.Mode.IsDir() {
			return refuse(e.Name, "it is in the place of the whole tree and not a folder")
		}
		return nil
	}
	if e.Mode.IsDir() {
		// It counts once, whether it is made now or was before.
		n := t.names.count
		t.names.count--
		if _, err := t.enter(e.Name, name, true); err != nil {
			return err
		}
		t.names.count = max(t.names.count, n)
		if _, ok := t.dirs[name]; !ok {
			if err := t.names.hold(name); err != nil {
				return err
			}
		}
		t.dirs[name] = folder{mode: e.Mode.Perm(), modTime: e.ModTime}
		t.stats.Dirs++
		return nil
	}
	at, err := t.enter(e.Name, path.Dir(name), true)
	if err != nil {
		return err
	}
	if e.Mode&fs.ModeSymlink != 0 {
		return t.symlink(at, e, name)
	}
	return t.file(at, e, path.Base(name), body)
}

// clear makes room for a file or link.
func clearPlace(at *os.Root, e Entry, base string) error {
	fi, err := at.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && fi.IsDir() {
		return refuse(e.Name, "there is a folder of that name")
	}
	if err == nil {
		err = at.Remove(base)
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", e.Name, err)
	}
	return nil
}

func (t *tree) symlink(at *os.Root, e Entry, name string) error {
	check, err := checkLink(e.Name, name, e.Link, t.l.Links)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if err := clearPlace(at, e, base); err != nil {
		return err
	}
	if err := at.Symlink(e.Link, base); err != nil {
		return fmt.Errorf("unpack %s: %w", e.Name, err)
	}
	if err := t.own(at, base); err != nil {
		return fmt.Errorf("unpack %s: %w", e.Name, err)
	}
	if check {
		if err := t.names.hold(name); err != nil {
			return err
		}
		t.check = append(t.check, name)
	}
	t.stats.Links++
	return nil
}

func (t *tree) hardLink(e Entry) error {
	if t.l.Links == NoLinks {
		return refuse(e.Name, "it is a hard link, which is not allowed here")
	}
	name, err := t.admit(e)
	if err != nil {
		return err
	}
	target, err := clean(e.Link, t.l)
	if err != nil {
		return refuse(e.Name, "it is a hard link to %q, which is no name inside the archive", e.Link)
	}
	if target == name || name == "." {
		return refuse(e.Name, "it is a hard link to itself")
	}
	at, err := t.enter(e.Name, path.Dir(target), false)
	var fi fs.FileInfo
	if err == nil {
		fi, err = at.Lstat(path.Base(target))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse(e.Name, "it is a hard link to %q, which does not come before it", e.Link)
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return refuse(e.Name, "it is a hard link to %q, which is not a file", e.Link)
	}
	if at, err = t.enter(e.Name, path.Dir(name), true); err != nil {
		return err
	}
	if err := clearPlace(at, e, path.Base(name)); err != nil {
		return err
	}
	if err := t.base.Link(target, name); err != nil {
		return t.copy(at, e, name, target, fi)
	}
	t.stats.Links++
	return nil
}

// copy stands in for a hard link where the file system has none.
func (t *tree) copy(at *os.Root, e Entry, name, target string, fi fs.FileInfo) error {
	f, err := t.base.Open(target)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", e.Name, err)
	}
	defer f.Close()
	e.Size, e.Mode, e.ModTime = fi.Size(), fi.Mode().Perm(), fi.ModTime()
	return t.file(at, e, path.Base(name), f)
}

// finish sets the modes and times of folders, deepest first, so that those which forbid
// writing do not hinder, and looks at the links that could not be judged before.
func (t *tree) finish() error {
	for _, name := range t.check {
		fi, err := t.base.Lstat(name)
		if err != nil || fi.Mode()&fs.ModeSymlink == 0 {
			continue // a later entry took its place
		}
		if _, err := t.base.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &EntryError{Name: name, Reason: "it is a symbolic link out of the archive", Err: err}
		}
	}
	t.pop(0)
	names := make([]string, 0, len(t.dirs))
	for name := range t.dirs {
		names = append(names, name)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(names)))
	for _, name := range names {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		e := t.dirs[name]
		setTime(t.base, name, e.modTime)
		if err := t.base.Chmod(name, e.mode); err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
	}
	return nil
}
