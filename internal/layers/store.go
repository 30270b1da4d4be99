package layers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Store keeps root filesystems in a directory, each under the chain id of its layers (OCI image
// specification, config.md), so that images of the same layers share one, and those that begin with the same share files. One program uses a
// directory at a time; the methods may be called from many goroutines.
type Store struct {
	dir   string
	limit Limits

	mu   sync.Mutex
	busy map[string]chan struct{} // being made; closed when that has ended
	refs map[string]int
}

// Open opens a store, makes its directory if need be, and removes what a killed program left half made.
func Open(dir string, l Limits) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, "tmp-*"))
	if err != nil {
		return nil, err
	}
	for _, p := range left {
		if err := os.RemoveAll(p); err != nil {
			return nil, err
		}
	}
	return &Store{dir: dir, limit: l, busy: map[string]chan struct{}{}, refs: map[string]int{}}, nil
}

// ChainID names what layers make together; "" if there are none. It is pure.
func ChainID(all []Layer) string {
	if len(all) == 0 {
		return ""
	}
	return chainIDs(all)[len(all)-1]
}

// chainIDs names what the first layer makes, the first two, and so on.
func chainIDs(all []Layer) []string {
	ids := make([]string, len(all))
	for i, l := range all {
		if ids[i] = l.DiffID; i > 0 {
			sum := sha256.Sum256([]byte(ids[i-1] + " " + l.DiffID))
			ids[i] = "sha256:" + hex.EncodeToString(sum[:])
		}
	}
	return ids
}

// Get returns the directory of a root filesystem, and unpacks it if it is not there: once, however many ask
// for it. It is whole or absent. It stays until release was called, which may be more than once.
func (s *Store) Get(ctx context.Context, all []Layer) (dir string, release func(), err error) {
	id, ok := strings.CutPrefix(ChainID(all), "sha256:")
	if raw, err := hex.DecodeString(id); !ok || err != nil || len(raw) != sha256.Size {
		return "", nil, fmt.Errorf("unpack image: its layers have no usable ids: %q", id)
	}
	for {
		s.mu.Lock()
		wait := s.busy[id]
		if wait == nil {
			break
		}
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return "", nil, ctx.Err()
		}
	}
	done := make(chan struct{})
	s.busy[id] = done
	s.mu.Unlock()

	dir = filepath.Join(s.dir, id)
	err = s.make(ctx, dir, all)

	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
	close(done)
	if err != nil {
		return "", nil, fmt.Errorf("unpack image: %w", err)
	}
	return dir, s.hold(id), nil
}

// hold counts one more who needs a root filesystem. The lock is held.
func (s *Store) hold(id string) (release func()) {
	s.refs[id]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.refs[id]--; s.refs[id] == 0 {
			delete(s.refs, id)
			now := time.Now()
			dir := filepath.Join(s.dir, id)
			_ = os.Chtimes(dir, now, now) // Collect counts from here
		}
	})
}

// Hold is Get for a root filesystem of which only the directory's name is known; fs.ErrNotExist: it is not there.
func (s *Store) Hold(id string) (dir string, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != sha256.Size || s.busy[id] != nil { // it is being made, or removed
		return "", nil, fs.ErrNotExist
	}
	dir = filepath.Join(s.dir, id)
	if _, err := os.Lstat(dir); err != nil {
		return "", nil, err
	}
	return dir, s.hold(id), nil
}

// make unpacks into a directory of another name, and renames that.
func (s *Store) make(ctx context.Context, dir string, all []Layer) error {
	if _, err := os.Lstat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, "tmp-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // nothing is there if all went well
	err = s.fill(ctx, tmp, all)
	if err == nil {
		err = syncAll(tmp) // before it has a name by which it is taken for whole
	}
	if root := s.limit.root(); err == nil && root != 0 {
		err = os.Chown(tmp, root, root)
	}
	if err == nil {
		err = os.Chmod(tmp, 0o755)
	}
	if err == nil {
		err = s.note(all)
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// Has tells whether a root filesystem is there.
func (s *Store) Has(id string) bool {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != sha256.Size {
		return false
	}
	_, err := os.Lstat(filepath.Join(s.dir, id))
	return err == nil
}

// Collect removes the root filesystems that nobody holds and nobody has held since then.
func (s *Store) Collect(then time.Time) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var all []error
	for _, e := range entries {
		if raw, err := hex.DecodeString(e.Name()); err != nil || len(raw) != sha256.Size {
			continue // half made, or not the store's
		}
		all = append(all, s.collect(e, then))
	}
	return errors.Join(append(all, s.forget(then))...)
}

func (s *Store) collect(e fs.DirEntry, then time.Time) error {
	id := e.Name()
	fi, err := e.Info()
	if err != nil || fi.ModTime().After(then) {
		return nil //nolint:nilerr // it went meanwhile
	}
	s.mu.Lock()
	if s.refs[id] > 0 || s.busy[id] != nil {
		s.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	s.busy[id] = done // who wants it waits, and makes it anew
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, id)
		close(done)
	}()
	// Under another name first: a half of it must not be taken for the whole.
	gone, err := os.MkdirTemp(s.dir, "tmp-")
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(filepath.Join(s.dir, id), filepath.Join(gone, id)), os.RemoveAll(gone))
}
