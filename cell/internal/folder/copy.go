//go:build linux || darwin

package folder

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// copier copies a tree, several folders at a time. It follows no link.
type copier struct {
	g     *errgroup.Group
	plain atomic.Bool // the file system shares no blocks: no use asking again
	owner int         // of the copies; 0: who this program runs as
}

// copyTree copies what is in from into to, for owner, and closes both.
func copyTree(ctx context.Context, from, to *os.Root, owner int) error {
	c := &copier{owner: owner}
	c.g, ctx = errgroup.WithContext(ctx)
	c.g.SetLimit(max(4, 2*runtime.GOMAXPROCS(0)))
	c.g.Go(func() error { return c.folder(ctx, from, to, nil) })
	return c.g.Wait()
}

// folder copies one folder, and closes from and to. The mode comes last: it may forbid to write.
func (c *copier) folder(ctx context.Context, from, to *os.Root, st fs.FileInfo) error {
	defer from.Close()
	defer to.Close()
	dir, err := from.Open(".")
	if err != nil {
		return err
	}
	all, err := dir.ReadDir(-1)
	dir.Close()
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		switch mode := st.Mode(); {
		case mode.IsDir():
			err = c.enter(ctx, from, to, st)
		case mode&fs.ModeSymlink != 0:
			err = c.link(from, to, e.Name())
		case mode.IsRegular():
			err = c.file(ctx, from, to, st)
		}
		if err != nil {
			return err
		}
	}
	if st == nil {
		return nil
	}
	if c.owner != 0 {
		if err := to.Chown(".", c.owner, c.owner); err != nil {
			return err
		}
	}
	if err := to.Chmod(".", st.Mode().Perm()); err != nil {
		return err
	}
	return to.Chtimes(".", time.Time{}, st.ModTime())
}

func (c *copier) enter(ctx context.Context, from, to *os.Root, st fs.FileInfo) error {
	name := st.Name()
	if err := to.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	subFrom, err := from.OpenRoot(name)
	if err != nil {
		return err
	}
	subTo, err := to.OpenRoot(name)
	if err != nil {
		subFrom.Close()
		return err
	}
	sub := func() error { return c.folder(ctx, subFrom, subTo, st) }
	if c.g.TryGo(sub) {
		return nil
	}
	return sub()
}

func (c *copier) link(from, to *os.Root, name string) error {
	target, err := from.Readlink(name)
	if err != nil {
		return err
	}
	err = to.Symlink(target, name)
	if errors.Is(err, fs.ErrExist) {
		if err := to.Remove(name); err != nil {
			return err
		}
		err = to.Symlink(target, name)
	}
	if err != nil || c.owner == 0 {
		return err
	}
	return to.Lchown(name, c.owner, c.owner)
}

func (c *copier) file(ctx context.Context, from, to *os.Root, st fs.FileInfo) error {
	name := st.Name()
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	dst, err := to.OpenFile(name, flags, st.Mode().Perm()|0o200)
	if errors.Is(err, fs.ErrExist) {
		if err := to.Remove(name); err != nil {
			return err
		}
		dst, err = to.OpenFile(name, flags, st.Mode().Perm()|0o200)
	}
	if err != nil {
		return err
	}
	err = c.content(ctx, dst, src, st.Size())
	if err == nil && c.owner != 0 {
		err = dst.Chown(c.owner, c.owner)
	}
	if err == nil {
		err = dst.Chmod(st.Mode().Perm())
	}
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return to.Chtimes(name, time.Time{}, st.ModTime()) // interpreters compare it with what they have compiled
}

// piece is how much is copied before the context is looked at again.
const piece = 16 << 20

func (c *copier) content(ctx context.Context, dst, src *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	if !c.plain.Load() {
		if clone(dst, src) == nil {
			return nil
		}
		c.plain.Store(true)
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := io.CopyN(dst, src, piece) // in the kernel where it can
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
