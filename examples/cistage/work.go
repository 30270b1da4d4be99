package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dewpoint-go/dewpoint/cell/process"
)

// workFolder makes the folder for one staging, and the cell in it. First it clears those
// that runs which were killed have left, with all that still runs there.
func workFolder(ctx context.Context) (dir string, runtime *process.Runtime, clean func(), err error) {
	parent := filepath.Join(os.TempDir(), fmt.Sprintf("cistage-of-%d", max(os.Getuid(), 0)))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", nil, nil, fmt.Errorf("work folder (TMPDIR says where): %w", err)
	}
	// Programs are run from there: it must not be anybody else's.
	if fi, err := os.Lstat(parent); err != nil || !fi.IsDir() || fi.Mode().Perm()&0o022 != 0 || !mine(fi) {
		return "", nil, nil, fmt.Errorf("work folder %s: it is not this user's alone; remove it, or set TMPDIR", parent)
	}
	// Nobody clears a folder that is just being made.
	unlock, err := lockFile(filepath.Join(parent, "lock"))
	if err != nil {
		return "", nil, nil, fmt.Errorf("work folder: %w", err)
	}
	defer unlock()
	old, err := os.ReadDir(parent)
	if err != nil {
		return "", nil, nil, fmt.Errorf("work folder: %w", err)
	}
	for _, e := range old {
		if e.IsDir() {
			sweep(ctx, filepath.Join(parent, e.Name()))
		}
	}
	if dir, err = os.MkdirTemp(parent, "run-"); err != nil {
		return "", nil, nil, fmt.Errorf("work folder: %w", err)
	}
	clean = func() { _ = os.RemoveAll(dir) }
	if runtime, err = process.New(ctx, process.Config{Dir: filepath.Join(dir, "cell")}); err != nil {
		clean()
		return "", nil, nil, err
	}
	return dir, runtime, clean, nil
}

// sweep clears a folder whose run is dead. That of one that lives is locked by it.
func sweep(ctx context.Context, dir string) {
	runtime, err := process.New(ctx, process.Config{Dir: filepath.Join(dir, "cell")})
	if err != nil {
		return
	}
	defer func() { _ = runtime.Close() }()
	all, err := runtime.Containers(ctx)
	if err != nil {
		return
	}
	for _, c := range all {
		if err := c.Destroy(ctx); err != nil {
			return // the next run tries again
		}
	}
	_ = os.RemoveAll(dir)
}
