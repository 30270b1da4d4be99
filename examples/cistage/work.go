package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dewpoint-go/dewpoint/cell/process"
)

// workFolder makes the folder for one staging. First it clears those that runs which were
// killed have left, with all that still runs there.
func workFolder(ctx context.Context) (dir string, clean func(), err error) {
	parent := filepath.Join(os.TempDir(), fmt.Sprintf("cistage-of-%d", max(os.Getuid(), 0)))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", nil, fmt.Errorf("work folder (TMPDIR says where): %w", err)
	}
	// Programs are run from there: it must not be anybody else's.
	if fi, err := os.Lstat(parent); err != nil || !fi.IsDir() || fi.Mode().Perm()&0o022 != 0 || !mine(fi) {
		return "", nil, fmt.Errorf("work folder %s: it is not this user's alone; remove it, or set TMPDIR", parent)
	}
	old, err := os.ReadDir(parent)
	if err != nil {
		return "", nil, fmt.Errorf("work folder: %w", err)
	}
	for _, e := range old {
		sweep(ctx, filepath.Join(parent, e.Name()))
	}
	if dir, err = os.MkdirTemp(parent, "run-"); err != nil {
		return "", nil, fmt.Errorf("work folder: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// sweep clears a folder whose run is dead. That of one that lives is locked by it.
func sweep(ctx context.Context, dir string) {
	cell := filepath.Join(dir, "cell")
	if _, err := os.Stat(cell); err != nil {
		return // just being made, or almost gone
	}
	runtime, err := process.New(ctx, process.Config{Dir: cell})
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
