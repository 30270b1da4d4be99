package blob

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// maxDurable bounds the memory of durable folders; what is forgotten is only synced again.
const maxDurable = 1 << 16

// ensureFolder makes folder and its parents durable. With again it trusts nothing that it
// remembers, for somebody removed one of them.
func (d *Dir) ensureFolder(folder string, again bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ensure(folder, again)
}

func (d *Dir) ensure(folder string, again bool) error {
	if folder == "." || d.durable[folder] && !again {
		return nil
	}
	if err := d.ensure(path.Dir(folder), again); err != nil {
		return err
	}
	return d.makeFolder(folder)
}

func (d *Dir) makeFolder(folder string) error {
	if err := d.root.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := d.syncFolder(path.Dir(folder)); err != nil {
		return err
	}
	if len(d.durable) >= maxDurable {
		clear(d.durable)
	}
	d.durable[folder] = true
	return nil
}

// syncFolder makes the names in folder durable. A folder that is gone has none.
func (d *Dir) syncFolder(folder string) error {
	if !d.sync {
		return nil
	}
	f, err := d.root.Open(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	d.tellSynced(f)
	return syncDir(f)
}

func (d *Dir) tellSynced(f *os.File) {
	if d.synced != nil {
		d.synced(f)
	}
}

// makePath makes the directory itself and its parents, each durable.
func (d *Dir) makePath(dir string) error {
	st, err := os.Stat(dir)
	if err == nil {
		if !st.IsDir() {
			return &fs.PathError{Op: "open", Path: dir, Err: errors.New("it is a file, not a directory")}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := d.makePath(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !d.sync {
		return nil
	}
	f, err := os.Open(parent)
	if err != nil {
		// A parent that may be written but not read (mode 0300) cannot be synced either.
		if errors.Is(err, fs.ErrPermission) {
			return nil
		}
		return err
	}
	defer f.Close()
	return syncDir(f)
}
