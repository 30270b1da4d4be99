package jail

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// rootPowers are those of a root among users of its own: over their files and processes. They are what Docker gives, without those that
// need more than users.
const rootPowers = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_KILL |
	1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SYS_CHROOT

// disarm lets go of all powers, for ever, but for those of a root among users of its own. The thread must be locked.
func disarm(s Spec) error {
	var kept uint32
	if s.Users != nil && s.User == 0 {
		kept = rootPowers
	}
	for c := uintptr(0); c <= 63; c++ {
		if c < 32 && kept&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break // the last one that the kernel knows was before
		} else if s.Rules != nil && errors.Is(err, unix.EPERM) {
			break // who has none can get none, as there are no new privileges
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if s.User != 0 || s.Users != nil {
		if err := become(s.User, s.Group); err != nil {
			return fmt.Errorf("become user %d: %w", s.User, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	left := [2]unix.CapUserData{{Effective: kept, Permitted: kept}}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &left[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := limit(s); err != nil {
		return err
	}
	if err := landlock(s); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	if s.NoFile > 0 { // by package syscall, which else has Exec take it back; not before, as what is above opens files
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: s.NoFile, Max: s.NoFile}); err != nil {
			return fmt.Errorf("set nofile to %d: %w", s.NoFile, err)
		}
	}
	if err := install(filter(kept != 0)); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

func become(user, group int) error {
	if err := syscall.Setgroups([]int{group}); err != nil {
		return err
	}
	if err := syscall.Setresgid(group, group, group); err != nil {
		return err
	}
	return syscall.Setresuid(user, user, user)
}

func limit(s Spec) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit core dumps: %w", err)
	}
	if s.PIDs == 0 {
		return nil
	}
	n := s.PIDs
	if s.User == 0 && s.Users == nil { // the first process is of the same user, and counts
		n += Threads(1) + spare + s.Others
	}
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: n, Max: n}); err != nil {
		return fmt.Errorf("limit processes to %d: %w", s.PIDs, err)
	}
	return nil
}

// spare is how many threads more the first process may get. The limit is not for it, but it counts.
const spare = 4

// Threads counts those of a process.
func Threads(pid int) uint64 {
	all, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return uint64(len(all))
}

// CountsProcesses tells whether this kernel counts processes for each user namespace (since 5.14), so that
// they can be limited. Before, the limit counts all of a user.
func CountsProcesses() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 5 || major == 5 && minor >= 14)
}
