package jail

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock is the version of it that this kernel offers; 0: none. 1 guards files (Linux 5.13), 6 also
// signals and abstract sockets (6.12).
func Landlock() int {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if e != 0 {
		return 0
	}
	return int(abi)
}

// landlock keeps the program from all files but those of the rules, and, where this kernel can, from signals to others
// and from sockets of the abstract namespace, which belongs to the network. With a root of its own this is a second
// wall behind what is mounted read-only, and passed over where the kernel has none.
func landlock(s Spec) error {
	abi, rules := Landlock(), s.Rules
	if rules == nil && abi >= 2 { // the first forbids to move files from folder to folder
		rules = s.inside()
	}
	// struct landlock_ruleset_attr, as far as a version of it goes.
	var attr struct{ fs, net, scoped uint64 }
	size := unsafe.Sizeof(attr.fs)
	if rules != nil {
		if abi == 0 {
			return errors.New("this kernel does not offer it")
		}
		attr.fs = fileRights(abi)
	}
	if abi >= 6 {
		attr.scoped, size = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET|unix.LANDLOCK_SCOPE_SIGNAL, unsafe.Sizeof(attr)
	}
	if rules == nil {
		return nil
	}
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if e != 0 {
		return e
	}
	defer func() { _ = unix.Close(int(fd)) }()
	const read = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	for _, p := range rules.Read {
		if err := allow(int(fd), p, read); err != nil {
			return err
		}
	}
	for _, p := range rules.Write {
		if err := allow(int(fd), p, attr.fs); err != nil {
			return err
		}
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); e != 0 {
		return e
	}
	return nil
}

// inside are the rules for a root of its own.
func (s *Spec) inside() *Rules {
	if s.Image != "" {
		return &Rules{Write: []string{"/"}} // mounts say what may not be written to
	}
	r := &Rules{Read: []string{"/"}, Write: []string{"/proc", "/dev"}}
	for _, b := range s.Binds {
		if b.Write {
			r.Write = append(r.Write, b.To)
		}
	}
	return r
}

// fileRights are all that a version knows.
func fileRights(abi int) uint64 {
	rights := uint64(1)<<13 - 1
	if abi >= 2 {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		rights |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return rights
}

func allow(ruleset int, path string, rights uint64) error {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only a name
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.IsDir() { // others are refused there
		rights &= unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
			unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(f.Fd())}
	if _, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); e != 0 {
		return fmt.Errorf("%s: %w", path, e)
	}
	return nil
}
