package droplet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// Files up to this size are read ahead, whole.
const aheadSize = 256 << 10

var errChanged = errors.New("it changed while it was read")

// item is one entry on its way from the walk to the tar.
type item struct {
	path string // as the archive has it
	name string // in dir
	fi   fs.FileInfo
	link string
	dir  *folder

	done chan struct{} // closed when what follows is set
	size int64
	data []byte   // of a small file
	file *os.File // of a large one
	err  error
}

var ready = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// folder is an open directory: the walk and each of its files that waits to be read hold
// it, and the last closes it.
type folder struct {
	root *os.Root
	refs atomic.Int32
}

func (f *folder) release() {
	if f.refs.Add(-1) == 0 {
		f.root.Close()
	}
}

// read opens the file and, if it is small, reads it.
func (it *item) read() {
	defer close(it.done)
	defer it.dir.release()
	f, err := it.dir.root.OpenFile(it.name, os.O_RDONLY|openFlags, 0)
	if err != nil {
		it.err = err
		return
	}
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || !os.SameFile(fi, it.fi)) {
		err = errChanged
	}
	if err != nil {
		f.Close()
		it.err = err
		return
	}
	it.size = fi.Size()
	if it.size > aheadSize {
		it.file = f
		return
	}
	defer f.Close()
	// One byte more than there should be shows a file that grows.
	it.data = make([]byte, it.size+1)
	n, err := io.ReadFull(f, it.data)
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		it.err = err
	case int64(n) != it.size:
		it.err = errChanged
	}
	it.data = it.data[:min(int64(n), it.size)]
}

// drop frees what an item holds; it waits until the item has been read.
func (it *item) drop() {
	<-it.done
	if it.file != nil {
		it.file.Close()
		it.file = nil
	}
	it.data = nil
}

func drain(items <-chan *item) {
	for it := range items {
		it.drop()
	}
}

type walker struct {
	ctx           context.Context
	o             Options
	found, toRead chan<- *item
}

// walk closes root.
func (w *walker) walk(root *os.Root) error {
	f := &folder{root: root}
	f.refs.Add(1)
	fi, err := root.Stat(".")
	if err != nil {
		f.release()
		return err
	}
	return w.folder(f, "./", fi)
}

// folder emits a folder and what is in it, and releases it.
func (w *walker) folder(f *folder, path string, fi fs.FileInfo) error {
	defer f.release()
	if err := w.emit(&item{path: path, fi: fi, done: ready}); err != nil {
		return err
	}
	names, err := list(f.root)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	type sub struct {
		name string
		fi   fs.FileInfo
	}
	var subs []sub
	for _, name := range names {
		fi, err := f.root.Lstat(name)
		if err != nil {
			return fmt.Errorf("%s%s: %w", path, name, err)
		}
		if fi.IsDir() {
			subs = append(subs, sub{name, fi})
			continue
		}
		if err := w.file(f, path, name, fi); err != nil {
			return err
		}
	}
	for _, s := range subs {
		root, err := f.root.OpenRoot(s.name)
		if err != nil {
			return fmt.Errorf("%s%s: %w", path, s.name, err)
		}
		next := &folder{root: root}
		next.refs.Add(1)
		if now, err := root.Stat("."); err != nil || !os.SameFile(now, s.fi) {
			next.release()
			return fmt.Errorf("%s%s: %w", path, s.name, errors.Join(err, errChanged))
		}
		if err := w.folder(next, path+s.name+"/", s.fi); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) file(f *folder, path, name string, fi fs.FileInfo) error {
	path += name
	if strings.IndexByte(name, '\\') >= 0 && os.PathSeparator == '\\' {
		return fmt.Errorf("%s: its name holds a backslash", path)
	}
	it := &item{path: path, name: name, fi: fi, dir: f, done: ready}
	switch {
	case fi.Mode().IsRegular():
		it.done = make(chan struct{})
	case fi.Mode()&fs.ModeSymlink != 0:
		link, err := f.root.Readlink(name)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		it.link = link
	case w.o.Skipped != nil:
		w.o.Skipped(path)
		return nil
	default:
		return fmt.Errorf("%s: it is %s, which no archive can hold; remove it", path, kind(fi.Mode()))
	}
	return w.emit(it)
}

// emit hands an item on; one that must be read goes to the readers first, so that the tar
// never waits for what nobody reads.
func (w *walker) emit(it *item) error {
	if it.done != ready {
		it.dir.refs.Add(1)
		select {
		case w.toRead <- it:
		case <-w.ctx.Done():
			it.dir.release()
			return w.ctx.Err()
		}
	}
	select {
	case w.found <- it:
		return nil
	case <-w.ctx.Done():
		it.drop()
		return w.ctx.Err()
	}
}

func list(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "of an unknown kind"
}
