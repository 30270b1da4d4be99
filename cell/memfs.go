package cell

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// memFS shows a memTree, as it was when it was asked for, as an fs.FS.
type memFS struct{ tree memTree }

func (t memTree) fsys() fs.FS { return memFS{maps.Clone(t)} }

func (f memFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	at, err := f.tree.resolve(path.Join("/", name))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	n := f.tree[at]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	file := &memFile{memStat: memStat{path.Base(name), n}, Reader: bytes.NewReader(n.data)}
	if n.mode.IsDir() {
		file.entries = f.entries(at)
	}
	return file, nil
}

func (f memFS) entries(dir string) []fs.DirEntry {
	var all []fs.DirEntry
	for p, n := range f.tree {
		if p != "/" && path.Dir(p) == dir {
			all = append(all, fs.FileInfoToDirEntry(memStat{path.Base(p), n}))
		}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all
}

type memFile struct {
	memStat
	*bytes.Reader
	entries []fs.DirEntry
	next    int
}

func (f *memFile) Stat() (fs.FileInfo, error) { return f.memStat, nil }
func (f *memFile) Size() int64                { return f.memStat.Size() }
func (f *memFile) Close() error               { return nil }

func (f *memFile) ReadDir(n int) ([]fs.DirEntry, error) {
	rest := f.entries[f.next:]
	if n > 0 {
		if len(rest) == 0 {
			return nil, io.EOF
		}
		rest = rest[:min(n, len(rest))]
	}
	f.next += len(rest)
	return slices.Clone(rest), nil
}

type memStat struct {
	name string
	n    *memNode
}

func (s memStat) Name() string       { return s.name }
func (s memStat) Size() int64        { return int64(len(s.n.data)) }
func (s memStat) Mode() fs.FileMode  { return s.n.mode }
func (s memStat) ModTime() time.Time { return s.n.mod }
func (s memStat) IsDir() bool        { return s.n.mode.IsDir() }
func (s memStat) Sys() any           { return nil }
