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

// tarOf streams an app as a tar; nothing is written in between.
func tarOf(ctx context.Context, files *resourcematch.Files) io.ReadCloser {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(ctx, w, files)) }()
	return r
}

func writeTar(ctx context.Context, w io.Writer, files *resourcematch.Files) error {
	t := tar.NewWriter(w)
	for _, e := range files.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeEntry(t, files, e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return t.Close()
}

func writeEntry(t *tar.Writer, files *resourcematch.Files, e resourcematch.Entry) error {
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
	f, err := files.Open(e.Path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(t, f)
	return err
}

// save writes a file whole or not at all.
func save(file string, r io.Reader) (_ blob.Info, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".cistage-*")
	if err != nil {
		return blob.Info{}, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), r)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return blob.Info{}, err
	}
	return blob.Info{Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}, os.Rename(f.Name(), file)
}
