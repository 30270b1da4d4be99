package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/resourcematch"
)

// errApp marks an app that cannot be staged.
var errApp = errors.New("the app cannot be staged")

// scan lists the app as a push would: without what .cfignore names.
func scan(ctx context.Context, dir string) (*resourcematch.Files, error) {
	files, err := resourcematch.ScanPath(ctx, dir, resourcematch.ScanOptions{NoHash: true})
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", errApp, err)
	}
	return files, err
}

// app is what is staged: as it lies in its folder.
type app struct {
	*resourcematch.Files
	mu    sync.Mutex
	fault error // by which it could not be read
}

// tar streams the app as a tar; nothing is written in between.
func (a *app) tar(ctx context.Context) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(ctx, w, a)) }()
	return r
}

// failed notes that a file is at fault, and not the cell that asked for it.
func (a *app) failed(name, why string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fault = fmt.Errorf("%w: %q %s", errApp, name, why)
	return a.fault
}

// blame returns the app's fault in place of what came of it.
func (a *app) blame(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && a.fault != nil {
		return a.fault
	}
	return err
}

func writeTar(ctx context.Context, w io.Writer, a *app) error {
	t := tar.NewWriter(w)
	for _, e := range a.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeEntry(t, a, e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return t.Close()
}

func writeEntry(t *tar.Writer, a *app, e resourcematch.Entry) error {
	h := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm())}
	switch {
	case e.Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		return t.WriteHeader(h)
	case e.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		return t.WriteHeader(h)
	}
	h.Typeflag, h.Size = tar.TypeReg, e.Size
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	f, err := a.Open(e.Path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return a.failed(e.Path, "may not be read; allow that, or name it in .cfignore")
	case errors.Is(err, os.ErrNotExist):
		return a.failed(e.Path, "vanished while the app was read; stage again")
	case err != nil:
		return err
	}
	defer func() { _ = f.Close() }()
	n, err := io.Copy(t, f)
	if n < e.Size && err == nil || errors.Is(err, tar.ErrWriteTooLong) {
		return a.failed(e.Path, "changed while the app was read; stage again")
	}
	return err
}

// target is where a droplet or cache is written to.
type target struct {
	path string
	// direct is set for what must not be replaced by a file: a pipe or a device.
	direct bool
}

// checkTarget tells early whether a file can be written.
func checkTarget(path string) (target, error) {
	t := target{path: path}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		t.path = real // a link stays one
	}
	fi, err := os.Stat(t.path)
	switch {
	case err == nil && fi.IsDir():
		return t, fmt.Errorf("%s is a folder; name a file in it", path)
	case err == nil && !fi.Mode().IsRegular():
		t.direct = true
		return t, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return t, err
	}
	f, err := os.CreateTemp(filepath.Dir(t.path), ".cistage-*")
	if err != nil {
		return t, fmt.Errorf("%s cannot be written: %w", path, errors.Unwrap(err))
	}
	f.Close()
	return t, os.Remove(f.Name())
}

// checkCache tells early whether a build cache can be kept in a folder, which need not be there.
func checkCache(dir string) error {
	fi, err := os.Stat(dir)
	switch {
	case err == nil && !fi.IsDir():
		return fmt.Errorf("%s is a file; give a folder", dir)
	case errors.Is(err, os.ErrNotExist):
		if parent := filepath.Dir(dir); parent != dir {
			return checkCache(parent)
		}
	case err != nil:
		return err
	}
	_, err = checkTarget(filepath.Join(dir, cacheFile))
	return err
}

// save writes a file whole or not at all.
func (t target) save(r io.Reader) (_ blob.Info, err error) {
	if t.direct {
		f, err := os.OpenFile(t.path, os.O_WRONLY, 0)
		if err != nil {
			return blob.Info{}, err
		}
		info, err := copyTo(f, r)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		return info, err
	}
	f, err := os.CreateTemp(filepath.Dir(t.path), ".cistage-*")
	if err != nil {
		return blob.Info{}, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	info, err := copyTo(f, r)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return blob.Info{}, err
	}
	return info, os.Rename(f.Name(), t.path)
}

func copyTo(w io.Writer, r io.Reader) (blob.Info, error) {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), r)
	return blob.Info{Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}
