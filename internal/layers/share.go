package layers

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Images of one base share its files on the disk. A root filesystem that begins with layers that an earlier one began with, too, is made
// of that beginning: of its own directory, files are given further names in the new one, and the layers above are unpacked over
// it, which never write into a file that is there. The beginning is a root filesystem as any other: made once, collected if nobody
// needs it.

// prefixesDir holds an empty file for each beginning of layers that there was, by its chain id.
const prefixesDir = "prefixes"

// shared is how many of the layers an earlier root filesystem began with; at least one is left to be unpacked.
func (s *Store) shared(all []Layer) int {
	ids := chainIDs(all)
	for n := len(all) - 1; n > 0; n-- {
		id := nameOf(ids[n-1])
		if _, err := os.Lstat(filepath.Join(s.dir, prefixesDir, id)); err == nil || s.Has(id) {
			return n
		}
	}
	return 0
}

// note writes down all the beginnings of layers.
func (s *Store) note(all []Layer) error {
	dir := filepath.Join(s.dir, prefixesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	now := time.Now()
	for _, id := range chainIDs(all)[:len(all)-1] {
		name := filepath.Join(dir, nameOf(id))
		err := os.Chtimes(name, now, now)
		if errors.Is(err, fs.ErrNotExist) {
			err = os.WriteFile(name, nil, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forget removes the beginnings that nothing has begun with since then.
func (s *Store) forget(then time.Time) error {
	all, err := os.ReadDir(filepath.Join(s.dir, prefixesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range all {
		if info, e2 := e.Info(); e2 == nil && !info.ModTime().After(then) {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, prefixesDir, e.Name())))
		}
	}
	return err
}

// nameOf is the name of a root filesystem in the store.
func nameOf(chainID string) string { return strings.TrimPrefix(chainID, "sha256:") }

// fill unpacks layers into an empty directory.
func (s *Store) fill(ctx context.Context, dir string, all []Layer) error {
	n := s.shared(all)
	if n > 0 {
		base, release, err := s.Get(ctx, all[:n])
		if err != nil {
			return err
		}
		defer release()
		if err := linkTree(ctx, base, dir); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	_, err = Apply(ctx, root, all[n:], s.limit)
	return errors.Join(err, root.Close())
}

// linkTree makes a copy of a directory whose files are those of the first. Nobody changes either meanwhile.
func linkTree(ctx context.Context, from, to string) error {
	var dirs []string
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil || rel == "." {
			return err
		}
		at := filepath.Join(to, rel)
		if d.IsDir() {
			dirs = append(dirs, rel)
			return os.Mkdir(at, 0o700)
		}
		err = os.Link(name, at)
		if errors.Is(err, syscall.EMLINK) && d.Type().IsRegular() { // a file may have so many names, and no more
			err = copyFile(name, at)
		}
		return err
	})
	// Last, as a folder may be closed even to who fills it.
	for _, rel := range slices.Backward(dirs) {
		if err == nil {
			err = likewise(filepath.Join(from, rel), filepath.Join(to, rel))
		}
	}
	return err
}

// copyFile is for what cannot be linked.
func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it was only read
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return likewise(from, to)
}

// likewise gives a file or folder the owner, mode and time of another.
func likewise(of, to string) error {
	info, err := os.Lstat(of)
	if err != nil {
		return err
	}
	if err := chownLike(to, info); err != nil {
		return err
	}
	return errors.Join(os.Chmod(to, info.Mode()&(fs.ModePerm|fs.ModeSticky|fs.ModeSetgid)), os.Chtimes(to, info.ModTime(), info.ModTime()))
}
