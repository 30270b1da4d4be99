package jail

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Enter builds the root, goes there, lets go of all powers, calls ready, and becomes the program. It returns only
// with an error: a *ProgramError, or one of the building. Its process must be good for nothing else.
func Enter(s Spec, args []string, ready func() error) error {
	runtime.LockOSThread() // powers are a thread's own
	// When memory ends, it is programs that go, not what starts and watches them.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0o600); err != nil && s.Built {
		return err
	}
	if !s.Apart() && !s.Built && s.Rules == nil {
		if err := Build(s); err != nil {
			return err
		}
	}
	if err := disarm(s); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	if err := os.Chdir(s.Dir); err != nil {
		return &ProgramError{126, err.Error()}
	}
	path, args, err := find(s, args)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, args, os.Environ())
	if errors.Is(err, syscall.ENOEXEC) { // a script without an interpreter line, as execvp does
		err = syscall.Exec("/bin/sh", append([]string{"sh", path}, args[1:]...), os.Environ())
	}
	if errors.Is(err, syscall.ENOENT) {
		return &ProgramError{127, path + ": its interpreter or loader is not there"}
	}
	return &ProgramError{126, fmt.Sprintf("%s: %v", path, err)}
}

// ByLoader are the arguments of a loader that has its program's libraries beside it. glibc from 2.33 on knows them.
func ByLoader(loader, role, program string) []string {
	return []string{role, "--argv0", role, "--library-path", filepath.Dir(loader), program}
}

// find returns the file to execute, and its arguments.
func find(s Spec, args []string) (string, []string, error) {
	if role, ok := strings.CutPrefix(args[0], "lifecycle:"); ok {
		if s.Loader != "" {
			return s.Loader, append(ByLoader(s.Loader, role, s.Roles), args[1:]...), nil
		}
		return s.Roles, append([]string{role}, args[1:]...), nil
	}
	path, err := exec.LookPath(args[0])
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
		return path, args, nil
	case errors.Is(err, os.ErrPermission):
		return "", nil, &ProgramError{126, args[0] + ": permission denied"}
	}
	return "", nil, &ProgramError{127, args[0] + ": not found"}
}

// Leave gives this thread, which must be locked, mounts of its own, and shows there the processes of its namespace. They are what
// Build needs, and who starts a program Apart before.
func Leave() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// Build makes the root, and takes there whoever shares this thread's mounts.
func Build(s Spec) error {
	if err := build(s); err != nil {
		return fmt.Errorf("root of the container: %w", err)
	}
	if s.Hostname == "" {
		return nil
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	return nil
}

func build(s Spec) error {
	if s.Image != "" {
		return buildImage(s)
	}
	if err := mount("tmpfs", s.Mount, "tmpfs", mountFlags, "mode=755,size=4m"); err != nil {
		return err
	}
	if err := fill(s, s.Mount, ""); err != nil {
		return err
	}
	// The new root over the old one, which is then let go.
	if err := os.Chdir(s.Mount); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the machine's root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|mountFlags, "")
}

const mountFlags = unix.MS_NOSUID | unix.MS_NODEV

// buildImage goes to a root that somebody else has made, and who is not trusted: names there may be links to anywhere, so nothing is done
// by them before it is the root. Meanwhile the machine's root is in a folder of it that nobody could guess.
func buildImage(s Spec) error {
	binds := s.Binds
	s.Binds = nil
	for _, b := range binds { // as long as links lead where they should
		from, err := filepath.EvalSymlinks(b.From)
		if b.Optional && errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		b.From = from
		s.Binds = append(s.Binds, b)
	}
	if err := mount(s.Image, s.Mount, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount("", s.Mount, "", unix.MS_REMOUNT|unix.MS_BIND|mountFlags, ""); err != nil {
		return err
	}
	if err := os.Chdir(s.Mount); err != nil {
		return err
	}
	old := ".dewpoint-" + rand.Text()
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", old); err != nil {
		return errors.Join(fmt.Errorf("pivot_root: %w", err), os.Remove(old))
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for _, d := range []string{"/dev", "/proc"} {
		if info, err := os.Lstat(d); err == nil && !info.IsDir() {
			return fmt.Errorf("%s of the image is no folder", d)
		}
	}
	if err := os.MkdirAll("/dev", 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755,size=64k"); err != nil {
		return err
	}
	old = "/" + old
	if err := fill(s, "", old); err != nil {
		return err
	}
	if err := unix.Unmount(old, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the machine's root: %w", err)
	}
	return os.Remove(old)
}

// fill puts into a root what belongs there. The machine's own root is at from.
func fill(s Spec, root, from string) error {
	for _, b := range s.Binds {
		if info, err := os.Lstat(b.To); s.Image != "" && err == nil && info.Mode()&os.ModeSymlink != 0 {
			if err := os.Remove(b.To); err != nil { // it may lead to nothing
				return err
			}
		}
		b.From = from + b.From
		if err := bind(root, b); err != nil {
			return err
		}
	}
	for name, text := range s.Files {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o444); err != nil {
			return err
		}
	}
	for name, target := range s.Links {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, name); err != nil {
			return err
		}
	}
	if err := devices(root+"/dev", from); err != nil {
		return err
	}
	return proc(root) // last: by it names could lead to other roots
}

func mount(from, to, kind string, flags uintptr, data string) error {
	if err := unix.Mount(from, to, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", strings.TrimSpace(kind+" "+from), to, err)
	}
	return nil
}

func bind(root string, b Bind) error {
	st, err := os.Stat(b.From)
	if b.Optional && errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	to := filepath.Join(root, b.To)
	if _, err := os.Lstat(to); err != nil {
		if err = place(to, st.IsDir()); err != nil {
			if b.Optional {
				return nil
			}
			return fmt.Errorf("a place for %s: %w", b.To, err)
		}
	}
	// With what is mounted below: parts of it alone would show what that hides.
	if err := mount(b.From, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if !b.Write {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, to, unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("protect %s: mount_setattr: %w (Linux 5.12 has it)", b.To, err)
	}
	return nil
}

func place(name string, dir bool) error {
	if dir {
		return os.MkdirAll(name, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, nil, 0o444)
}

// proc shows the processes of the namespace.
func proc(root string) error {
	dir := root + "/proc"
	if err := os.MkdirAll(dir, 0o555); err != nil {
		return err
	}
	if err := mount("proc", dir, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("%w (a container that hides parts of /proc forbids it)", err)
	}
	// What is the whole machine's. Programs lack the power to change it, anyway.
	sys := filepath.Join(dir, "sys")
	if err := mount(sys, sys, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return mount("", sys, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// devices makes a /dev with what every program may expect.
func devices(dev, from string) error {
	for _, d := range []string{dev, filepath.Join(dev, "shm"), filepath.Join(dev, "pts")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		to := filepath.Join(dev, name)
		if err := os.WriteFile(to, nil, 0o666); err != nil {
			return err
		}
		if err := mount(from+"/dev/"+name, to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", flags, "mode=1777,size=64m"); err != nil {
		return err
	}
	if err := mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return err
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}
