package jail

import (
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
	env := make([]string, len(s.Env))
	for i, kv := range s.Env {
		if env[i] = string(kv); strings.HasPrefix(env[i], "PATH=") {
			_ = os.Setenv("PATH", env[i][len("PATH="):]) // for find
		}
	}
	path, args, err := find(s, args)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, args, env)
	if errors.Is(err, syscall.ENOEXEC) { // a script without an interpreter line, as execvp does
		err = syscall.Exec("/bin/sh", append([]string{"sh", path}, args[1:]...), env)
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
func Leave(s Spec) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if s.Mounted {
		return nil
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
	if err := fill(s, s.Mount, nil); err != nil {
		return err
	}
	if err := leaveTo(s.Mount); err != nil {
		return err
	}
	return mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|mountFlags, "")
}

const mountFlags = unix.MS_NOSUID | unix.MS_NODEV

// buildImage goes to a root that somebody else has made and may be changing just now, and who is not trusted: names there may be links
// to anywhere. So what comes from the machine is taken hold of before, by descriptors, and the machine's root is let go before
// anything is done by a name in the new one.
func buildImage(s Spec) error {
	binds := s.Binds
	s.Binds = nil
	held := map[string]int{}
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	hold := func(name string, recursive uint) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
		if err != nil {
			return fmt.Errorf("take hold of %s: %w", name, err)
		}
		held[name] = fd
		return nil
	}
	for _, b := range binds {
		if _, err := os.Stat(b.From); b.Optional && errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := hold(b.From, unix.AT_RECURSIVE); err != nil {
			return err
		}
		s.Binds = append(s.Binds, b)
	}
	if err := holdKernel(s, held, hold); err != nil {
		return err
	}
	if err := mount(s.Image, s.Mount, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount("", s.Mount, "", unix.MS_REMOUNT|unix.MS_BIND|mountFlags, ""); err != nil {
		return err
	}
	if err := leaveTo(s.Mount); err != nil {
		return err
	}
	for _, d := range kernelDirs {
		if info, err := os.Lstat(d); err == nil && !info.IsDir() {
			return fmt.Errorf("%s of the image is no folder", d)
		}
	}
	if !s.Mounted {
		if err := os.MkdirAll("/dev", 0o755); err != nil {
			return err
		}
		if err := mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755,size=64k"); err != nil {
			return err
		}
		return fill(s, "", held)
	}
	if err := fill(s, "", held); err != nil {
		return err
	}
	for _, d := range kernelDirs { // after all else: by /proc names could lead to what is held
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := attach(held, d, d, 0); err != nil {
			return err
		}
	}
	return nil
}

// kernelDirs are what the kernel fills.
var kernelDirs = []string{"/dev", "/sys", "/proc"}

// holdKernel takes hold of what they are to show.
func holdKernel(s Spec, held map[string]int, hold func(name string, recursive uint) error) error {
	if s.Mounted {
		for _, d := range kernelDirs {
			if err := hold(d, unix.AT_RECURSIVE); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range deviceNames {
		if err := hold("/dev/"+name, 0); err != nil {
			return err
		}
	}
	// Later there would be no other that shows all of it, and the kernel would refuse.
	fd, err := newProc()
	if err == nil {
		held["proc"] = fd
	}
	return err
}

// leaveTo makes a mount the root, and lets the old one go.
func leaveTo(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the machine's root: %w", err)
	}
	return os.Chdir("/")
}

var deviceNames = []string{"null", "zero", "full", "random", "urandom", "tty"}

// newProc makes a mount that is nowhere yet.
func newProc() (int, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err == nil {
		defer func() { _ = unix.Close(fs) }()
		err = unix.FsconfigCreate(fs)
	}
	if err == nil {
		fs, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		if err == nil {
			return fs, nil
		}
		return 0, fmt.Errorf("mount proc: %w (a container that hides parts of /proc forbids it)", err)
	}
	return 0, fmt.Errorf("mount proc: %w", err)
}

// attach is a mount of what is held, or else of what has the name.
func attach(held map[string]int, from, to string, flags uintptr) error {
	if fd, ok := held[from]; ok {
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s at %s: %w", from, to, err)
		}
		return nil
	}
	return mount(from, to, "", unix.MS_BIND|flags, "")
}

// fill puts into a root what belongs there; what is held is not at hand by its name any more.
func fill(s Spec, root string, held map[string]int) error {
	for _, b := range s.Binds {
		if info, err := os.Lstat(b.To); s.Image != "" && err == nil && info.Mode()&os.ModeSymlink != 0 {
			if err := os.Remove(b.To); err != nil { // it may lead to nothing
				return err
			}
		}
		if err := bind(root, b, held); err != nil {
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
	if s.Mounted {
		return nil
	}
	if err := devices(root+"/dev", held); err != nil {
		return err
	}
	return proc(root, held) // last: by it names could lead to other roots
}

func mount(from, to, kind string, flags uintptr, data string) error {
	if err := unix.Mount(from, to, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", strings.TrimSpace(kind+" "+from), to, err)
	}
	return nil
}

func bind(root string, b Bind, held map[string]int) error {
	var st unix.Stat_t
	var err error
	if fd, ok := held[b.From]; ok {
		err = unix.Fstat(fd, &st)
	} else {
		err = unix.Stat(b.From, &st)
	}
	if b.Optional && errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	to := filepath.Join(root, b.To)
	if _, err := os.Lstat(to); err != nil {
		if err = place(to, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
			if b.Optional {
				return nil
			}
			return fmt.Errorf("a place for %s: %w", b.To, err)
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if !b.Write {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	protect := func(at int, name string, flags uint) error {
		if err := unix.MountSetattr(at, name, unix.AT_RECURSIVE|flags, &attr); err != nil {
			return fmt.Errorf("protect %s: mount_setattr: %w (Linux 5.12 has it)", b.To, err)
		}
		return nil
	}
	if fd, ok := held[b.From]; ok { // before it has a name: that could be another's by then
		if err := protect(fd, "", unix.AT_EMPTY_PATH); err != nil {
			return err
		}
		return attach(held, b.From, to, 0)
	}
	// With what is mounted below: parts of it alone would show what that hides.
	if err := attach(held, b.From, to, unix.MS_REC); err != nil {
		return err
	}
	return protect(unix.AT_FDCWD, to, 0)
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
func proc(root string, held map[string]int) error {
	dir := root + "/proc"
	if err := os.MkdirAll(dir, 0o555); err != nil {
		return err
	}
	if _, ok := held["proc"]; ok {
		if err := attach(held, "proc", dir, 0); err != nil {
			return err
		}
	} else if err := mount("proc", dir, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
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
func devices(dev string, held map[string]int) error {
	for _, d := range []string{dev, filepath.Join(dev, "shm"), filepath.Join(dev, "pts")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, name := range deviceNames {
		to := filepath.Join(dev, name)
		if err := os.WriteFile(to, nil, 0o666); err != nil {
			return err
		}
		if err := attach(held, "/dev/"+name, to, 0); err != nil {
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
