package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
)

// List implements [Store]; the Infos have no SHA256. It holds the names of one folder on
// each level in memory, so a key whose "/" spread the blobs over folders lists with less.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		w := walk{d: d, ctx: ctx, prefix: prefix, yield: yield}
		if _, err := w.folder(blobFolder, ""); err != nil {
			yield(Info{}, fmt.Errorf("blob: list %q: %w", prefix, err))
		}
	}
}

type walk struct {
	d      *Dir
	ctx    context.Context // of one List, which ends before its caller goes on
	prefix string
	yield  func(Info, error) bool
}

// folder yields the blobs in one folder, whose keys begin with raw. It answers false when
// the caller of List has had enough.
func (w *walk) folder(name, raw string) (more bool, err error) {
	entries, err := w.read(name)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if err := w.ctx.Err(); err != nil {
			return false, err
		}
		full := raw + e.raw
		if !strings.HasPrefix(full, w.prefix) && !(e.folder && strings.HasPrefix(w.prefix, full)) {
			continue
		}
		if e.folder {
			if more, err := w.folder(path.Join(name, e.name), full); err != nil || !more {
				return false, err
			}
			continue
		}
		st, err := w.d.root.Lstat(path.Join(name, e.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since
		}
		if err != nil {
			return false, err
		}
		if !w.yield(Info{Key: full, Size: st.Size(), Modified: st.ModTime()}, nil) {
			return false, nil
		}
	}
	return true, w.ctx.Err()
}

// read gives the entries of a folder in the order of their keys.
func (w *walk) read(name string) ([]entry, error) {
	f, err := w.d.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed since, so it was empty
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []entry
	for {
		batch, err := f.ReadDir(1024)
		for _, de := range batch {
			if e, ok := parseEntry(de.Name(), de.IsDir()); ok && (de.IsDir() || de.Type().IsRegular()) {
				all = append(all, e)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) || err == nil && len(batch) == 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, entry.compare)
	return all, nil
}
