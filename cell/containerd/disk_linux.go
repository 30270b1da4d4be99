package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
)

// A container with a limit for its disk has a file system of its own, in a file of its folder that takes what is in it and no
// more: an app that fills it reads ENOSPC, as in Cloud Foundry EDQUOT, and the machine's file system and others' do not fill. (Project
// quotas would do without, but few machines have them turned on.)
const (
	diskFile    = "disk.img" // in a container's folder
	diskDir     = "disk"     // where it is mounted
	ballastFile = "ballast"  // in it: what is left besides is the limit
	blanksDir   = "disks"    // <MiB>.img: empty file systems, to be copied
	blankSuffix = ".img"

	// An inode for each 4 KiB, so that blocks end before inodes do, and what ext4 needs in any case, its journal above all.
	diskInode = 4096
	diskSpare = 12 << 20
	// No discard: to give each block back as it becomes free costs the removal of small files fifteenfold. Nobody needs the files after a power cut.
	diskOptions = "noinit_itable,data=writeback,barrier=0"
)

// disks makes the file systems of containers. Nil: none can be made.
type disks struct {
	dir  string
	mkfs string

	loops  sync.Mutex // the kernel names a free device to several at a time
	mu     sync.Mutex // guards what follows
	blanks map[int64]*sync.Mutex
}

// newDisks finds out by trying whether this machine can do it. Else the error says why not.
func newDisks(ctx context.Context, dir string) (*disks, error) {
	path, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
			return nil, fmt.Errorf("%w: install e2fsprogs", err)
		}
	}
	d := &disks{dir: filepath.Join(dir, blanksDir), mkfs: path, blanks: map[int64]*sync.Mutex{}}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	at, err := os.MkdirTemp(d.dir, "try-")
	if err != nil {
		return nil, err
	}
	err = d.mount(ctx, 1, filepath.Join(at, diskFile), at)
	return d, errors.Join(err, unmountBelow(at), os.RemoveAll(at))
}

// sweep removes what programs that were killed have left in the middle.
func (d *disks) sweep() error {
	if d == nil {
		return nil
	}
	left, err := os.ReadDir(d.dir)
	for _, e := range left {
		name := filepath.Join(d.dir, e.Name())
		if strings.HasSuffix(name, blankSuffix) {
			continue
		}
		err = errors.Join(err, unmountBelow(name), os.RemoveAll(name))
	}
	return err
}

// mount mounts the file system of a file, which is made for that limit if it does not exist.
func (d *disks) mount(ctx context.Context, limit int64, file, at string) error {
	_, err := os.Stat(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, d.mountFile(file, at))
	}
	if err := d.clone(ctx, limit, file); err != nil {
		return err
	}
	if d.mountFile(file, at) == nil {
		return nil
	}
	// Then what it was copied from is damaged, or this machine cannot.
	if err := os.Remove(d.blank(limit)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(os.Remove(file), d.clone(ctx, limit, file), d.mountFile(file, at))
}

func (d *disks) mountFile(file, at string) error {
	loop, err := d.loop(file)
	if err != nil {
		return err
	}
	defer func() { _ = loop.Close() }() // the mount holds it
	if err := unix.Mount(loop.Name(), at, "ext4", unix.MS_NOSUID|unix.MS_NODEV, diskOptions); err != nil {
		return fmt.Errorf("mount %s: %w", file, err)
	}
	return nil
}

// loop makes a device of a file.
func (d *disks) loop(file string) (*os.File, error) {
	d.loops.Lock()
	defer d.loops.Unlock()
	// Directly, so that nothing is cached twice; not every file system of the machine can.
	loop, err := mount.SetupLoop(file, mount.LoopParams{Autoclear: true, Direct: true})
	if err != nil {
		loop, err = mount.SetupLoop(file, mount.LoopParams{Autoclear: true})
	}
	return loop, err
}

// diskSize is that of a file system with room for limit.
func diskSize(limit int64) int64 {
	const mib = 1 << 20
	// Of each 4 KiB an inode takes 256 bytes, and ext4 keeps a fiftieth for itself, 16 MiB at most.
	need := limit + limit/diskInode*256 + min(limit/50, 16*mib) + limit/64 + diskSpare
	step := int64(mib) // an eighth of it at most, so that there are few
	for step*16 < need {
		step *= 2
	}
	return (need + step - 1) / step * step
}

// blank is the empty one that is copied.
func (d *disks) blank(limit int64) string {
	return filepath.Join(d.dir, strconv.FormatInt(diskSize(limit)>>20, 10)+blankSuffix)
}

// clone makes an empty file system with room for limit. To copy its few blocks takes a fifth of making one.
func (d *disks) clone(ctx context.Context, limit int64, file string) error {
	size, blank := diskSize(limit), d.blank(limit)
	d.mu.Lock()
	one := d.blanks[size]
	if one == nil {
		one = &sync.Mutex{}
		d.blanks[size] = one
	}
	d.mu.Unlock()
	one.Lock()
	defer one.Unlock()
	if _, err := os.Stat(blank); errors.Is(err, fs.ErrNotExist) {
		if err := d.make(ctx, size, blank); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := copySparse(blank, file+".new"); err != nil {
		return errors.Join(err, os.Remove(file+".new"))
	}
	return os.Rename(file+".new", file)
}

// make makes an empty file system. It has a journal though nobody needs one: without it ext4 uses no inode again that was free for less
// than a minute, and looks for another at a price that grows with their number.
func (d *disks) make(ctx context.Context, size int64, blank string) (err error) {
	// Under a name of its own: another program may be about to learn that the folder is taken.
	f, err := os.CreateTemp(d.dir, "new-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	journal := "size=8" // MiB
	if size < 64<<20 {
		journal = "size=4" // the smallest
	}
	out, err := exec.CommandContext(ctx, d.mkfs, "-q", "-F", "-b", "4096", "-J", journal, "-m", "0", "-i", strconv.Itoa(diskInode),
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", f.Name()).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", d.mkfs, err, strings.TrimSpace(string(out)))
	} else if err = f.Sync(); err == nil { // a power cut must not leave one with holes, which would be copied for ever
		err = os.Rename(f.Name(), blank)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// copySparse copies a file without its holes.
func copySparse(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }() // it was only read
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		begin, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		} else if err != nil {
			return err
		}
		end, err := unix.Seek(int(src.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for in, out := begin, begin; in < end; {
			n, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, int(end-in), 0)
			if err != nil {
				return err
			} else if n == 0 {
				return fmt.Errorf("%s ends in the middle", from)
			}
		}
		at = end
	}
}

// has tells whether a container has a disk of its own, or is to get one: none that was made without, by a program that could not.
func (d *disks) has(c folder.Place) bool {
	if d == nil || c.Spec.Disk <= 0 {
		return false
	}
	_, err := os.Stat(filepath.Join(c.Dir, diskFile))
	return c.New || err == nil
}

// bound gives a container its file system, before anything is seen by overlays: what is written, and where it is seen, lies there.
func (d *disks) bound(ctx context.Context, c folder.Place, mounted []string) error {
	if !d.has(c) {
		return nil
	}
	at := filepath.Join(c.Dir, diskDir)
	parts := map[string]string{"root": c.Root, folder.OverlayDir: filepath.Join(c.Dir, folder.OverlayDir)}
	if !slices.Contains(mounted, at) {
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		if err := d.mount(ctx, c.Spec.Disk, filepath.Join(c.Dir, diskFile), at); err != nil {
			if !c.New { // as after a power cut: what is in it is of no use
				err = fmt.Errorf("%w (%w)", fs.ErrNotExist, err)
			}
			return fmt.Errorf("a disk of its own: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(at, ballastFile)); err != nil && !c.New {
		return fmt.Errorf("its disk was not whole when its program was killed: %w", err)
	}
	for name, to := range parts {
		if slices.Contains(mounted, to) {
			continue
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		from := filepath.Join(at, name)
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			if err := copyFolders(to, from+".new"); err != nil {
				return err
			}
			if err := os.Rename(from+".new", from); err != nil {
				return err
			}
		}
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", to, err)
		}
	}
	return nil
}

// trim leaves as much room in a new container as the limit is, of which layers take their part, when all folders are there.
func (d *disks) trim(c folder.Place) error {
	if !c.New || !d.has(c) {
		return nil
	}
	name := filepath.Join(c.Dir, diskDir, ballastFile)
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err = unix.Fstatfs(int(f.Fd()), &st); err == nil {
		if rest := int64(st.Bavail)*st.Bsize - max(0, c.Spec.Disk-c.Taken); rest > 0 {
			err = unix.Fallocate(int(f.Fd()), 0, 0, rest/st.Bsize*st.Bsize)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("bound the disk: %w", err)
	}
	return os.Rename(name+".new", name)
}

// discard lets go of what is on the disk of a container that ends, without writing any of it to its file: a file system that is
// only unmounted is written first, and whoever still holds its mount, as a process that was just then given a copy of this
// machine's mounts, would hold its space. It does what it can: nothing depends on it.
func discard(dir string) {
	at := filepath.Join(dir, diskDir)
	f, err := os.Open(at)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // it was only read
	var parent, st unix.Stat_t
	if unix.Stat(dir, &parent) != nil || unix.Fstat(int(f.Fd()), &st) != nil || st.Dev == parent.Dev {
		return // nothing is mounted: it would be the machine's file system
	}
	const shutdown, noLogFlush = 0x8004587d, 2 // FS_IOC_SHUTDOWN and its EXT4_GOING_FLAGS_NOLOGFLUSH
	if unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush) == nil {
		_ = os.Truncate(filepath.Join(dir, diskFile), 0)
	}
}

// copyFolders copies folders, with whose they are; there are no files in them yet.
func copyFolders(from, to string) error {
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if !e.IsDir() {
			return fmt.Errorf("%s: not a folder", name)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		dir := filepath.Join(to, rel)
		if err := os.Mkdir(dir, info.Mode().Perm()); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		return errors.Join(os.Chmod(dir, info.Mode().Perm()), os.Lchown(dir, int(st.Uid), int(st.Gid)))
	})
}
