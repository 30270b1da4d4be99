package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/uuid"
)

var (
	_ Store  = (*Dir)(nil)
	_ Ranger = (*Dir)(nil)
)

// Folders of a Dir.
const (
	blobFolder = "blobs" // as pathOf says
	tempFolder = "tmp"   // bytes that are not yet a blob
	lockName   = "lock"
)

// DirConfig sets up a [Dir]; the zero value is right for most.
type DirConfig struct {
	// NoSync leaves out every fsync. Blobs then survive the death of the process but not
	// that of the machine: for caches and tests.
	NoSync bool
}

// Dir is a durable Store in a directory of a local file system. A blob is a file whose
// name a person can read; nothing else is kept of it, so Stat and List know no digest.
//
// A Dir is for one process at a time. Should two have the same one open, both stay whole;
// only the folders they make may then be lost in a power cut.
type Dir struct {
	root   *os.Root
	path   string
	sync   bool
	synced func(*os.File) // tests hear of each sync; nil
	unlock func()

	mu sync.Mutex
	// durable holds the folders known to outlive a power cut. Folders are made and removed
	// with mu held, so that nobody relies on one that is not durable yet.
	durable map[string]bool
}

// OpenDir opens the Store in directory path and makes it, and its parents, if needed. It
// removes what writers that died have left behind, unless somebody else has the directory
// open.
func OpenDir(path string, c DirConfig) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("blob: open directory %s: %w", path, err)
	}
	d := &Dir{path: abs, sync: !c.NoSync, durable: map[string]bool{"": true}, unlock: func() {}}
	if err := d.makePath(abs); err != nil {
		return nil, d.unusable(err)
	}
	if d.root, err = os.OpenRoot(abs); err != nil {
		return nil, d.unusable(err)
	}
	if err := d.prepare(); err != nil {
		d.root.Close()
		return nil, d.unusable(err)
	}
	return d, nil
}

func (d *Dir) prepare() error {
	for _, name := range []string{tempFolder, blobFolder} {
		if err := d.makeFolder(name); err != nil {
			return err
		}
	}
	// Proof that we can write, before the first blob is lost to it.
	f, temp, err := d.createTemp()
	if err != nil {
		return err
	}
	f.Close()
	if err := d.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.lockAndClean()
}

// lockAndClean removes old temporary files if no other Dir can be writing one.
func (d *Dir) lockAndClean() error {
	f, err := d.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	alone := lockFile(f, true) == nil
	if alone {
		err = d.clean()
	}
	// Without a lock (some network file systems have none) leftovers stay: to keep too much is safe.
	if err := lockFile(f, false); err != nil {
		f.Close()
	} else {
		d.unlock = func() { f.Close() }
	}
	return err
}

func (d *Dir) clean() error {
	f, err := d.root.Open(tempFolder)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.root.Remove(path.Join(tempFolder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// unusable says in one sentence what is wrong with the directory and what to do.
func (d *Dir) unusable(err error) error {
	cure := "choose another one"
	switch {
	case errors.Is(err, fs.ErrPermission):
		cure = fmt.Sprintf("let user %d write to it, or choose another one", os.Getuid())
		if os.Getuid() < 0 {
			cure = "let this user write to it, or choose another one"
		}
	case isFull(err):
		cure = "free space on its disk, or choose another one"
	case isReadOnly(err):
		cure = "mount its file system for writing, or choose another one"
	}
	return fmt.Errorf("blob: directory %s cannot keep blobs: %w; %s", d.path, err, cure)
}

// Close lets the directory go. Readers that are open stay so; nothing else works any more.
func (d *Dir) Close() error {
	d.unlock()
	return d.root.Close()
}

func (d *Dir) createTemp() (*os.File, string, error) {
	name := path.Join(tempFolder, uuid.NewString())
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return f, name, err
}

// Put implements [Store]: the bytes are synced to the disk, then the name, then the folders.
func (d *Dir) Put(ctx context.Context, key string, r io.Reader) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	info, err := d.put(ctx, key, r)
	if err != nil {
		return Info{}, fmt.Errorf("blob: put %q: %w", key, err)
	}
	return info, nil
}

func (d *Dir) put(ctx context.Context, key string, r io.Reader) (info Info, err error) {
	f, temp, err := d.createTemp()
	if err != nil {
		return info, err
	}
	renamed := false
	defer func() {
		f.Close()
		if !renamed {
			// If this fails too, the next OpenDir does it.
			_ = d.root.Remove(temp)
		}
	}()
	info.Key = key
	if info.Size, info.SHA256, err = ingest(ctx, f, r); err != nil {
		return info, err
	}
	if d.sync {
		if err := f.Sync(); err != nil {
			return info, err
		}
		d.tellSynced(f)
	}
	if st, err := f.Stat(); err == nil {
		info.Modified = st.ModTime()
	}
	if err := f.Close(); err != nil {
		return info, err
	}
	name := pathOf(key)
	if err := d.publish(temp, name); err != nil {
		return info, err
	}
	renamed = true
	return info, d.syncFolder(path.Dir(path.Join(blobFolder, name)))
}

// publish gives a whole file its name. A Delete may remove the folder, empty as it is,
// between its making and the rename; then it is made again.
func (d *Dir) publish(temp, name string) error {
	name = path.Join(blobFolder, name)
	for try := 0; ; try++ {
		if err := d.ensureFolder(path.Dir(name), try > 0); err != nil {
			return err
		}
		err := d.root.Rename(temp, name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || try > 100 {
			return err
		}
	}
}

// Get implements [Store]. The reader is an [*os.File], opened for reading.
func (d *Dir) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	f, err := d.open(ctx, key)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *Dir) open(ctx context.Context, key string) (*os.File, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("blob: get %q: %w", key, err)
	}
	f, err := d.root.Open(path.Join(blobFolder, pathOf(key)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, absent("get", key)
	case err != nil:
		return nil, fmt.Errorf("blob: get %q: %w", key, err)
	}
	return f, nil
}

// GetRange implements [Ranger].
func (d *Dir) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, negativeOffset(key, offset)
	}
	f, err := d.open(ctx, key)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("blob: get %q: %w", key, err)
	}
	if length < 0 {
		return f, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, length), f}, nil
}

// Stat implements [Store]; the Info has no SHA256.
func (d *Dir) Stat(ctx context.Context, key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return Info{}, fmt.Errorf("blob: stat %q: %w", key, err)
	}
	st, err := d.root.Lstat(path.Join(blobFolder, pathOf(key)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Info{}, absent("stat", key)
	case err != nil:
		return Info{}, fmt.Errorf("blob: stat %q: %w", key, err)
	}
	return Info{Key: key, Size: st.Size(), Modified: st.ModTime()}, nil
}

// Delete implements [Store]; folders that are empty then go too. It is not synced: a blob
// may be back after a power cut, which is no loss.
func (d *Dir) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("blob: delete %q: %w", key, err)
	}
	name := path.Join(blobFolder, pathOf(key))
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob: delete %q: %w", key, err)
	}
	d.removeEmpty(path.Dir(name))
	return nil
}

// removeEmpty removes folder and its parents as far as they are empty.
func (d *Dir) removeEmpty(folder string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; strings.Contains(folder, "/"); folder = path.Dir(folder) {
		// A folder with something in it refuses, and that is the test.
		if err := d.root.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
		delete(d.durable, folder)
	}
}
