//go:build linux || darwin

package folder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait is how long the lock of a program that has ended is waited for.
const lockWait = 5 * time.Second

// lockDir makes the folder ours until the lock is closed or this program ends. A child that
// a killed program was just forking holds its lock until it executes.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w; give one that this user may write to", dir, err)
	}
	begun := time.Now()
	for err = tryLock(f); errors.Is(err, errDead) && time.Since(begun) < lockWait && ctx.Err() == nil; err = tryLock(f) {
		_ = pause(ctx, 5*time.Millisecond)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0) // for the sentence above, and to know who is dead
	return f, nil
}

var errDead = errors.New("its lock is held by a child of a program that has ended: try again")

func tryLock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	holder := strings.TrimSpace(string(b[:n]))
	if pid, err := strconv.Atoi(holder); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return errDead
	}
	return fmt.Errorf("it is in use by process %s: end it, or give another folder", holder)
}

// gate lets so many in at a time.
type gate chan struct{}

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

// removeAll is os.RemoveAll that also removes what is in folders without write permission.
func removeAll(dir string) error {
	if dir == "" {
		return nil
	}
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // if that fails, so does what follows
			if err != nil {
				return nil //nolint:nilerr // it could not be listed before; RemoveAll tells if it still cannot
			}
		}
		return nil
	})
	return os.RemoveAll(dir)
}
