//go:build linux && (amd64 || arm64)

package jail

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// refused are the calls that no program of a container needs, and that reach deep into the kernel or
// at other processes. Most need capabilities that the program lacks; the filter stands also where
// a fault of the kernel would let it have them, as in a user namespace of its own.
var refused = []uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_SETNS,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_PROCESS_MADVISE,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SYSLOG,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_VHANGUP,
	unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES, unix.SYS_MBIND, unix.SYS_SET_MEMPOLICY, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_NFSSERVCTL,
}

const (
	newTime    = 0x80 // CLONE_NEWTIME; in clone those bits are a signal
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	tiocLinux  = 0x541c // TIOCLINUX: paste into a console

	// Where struct seccomp_data has its fields, and the low halves of the arguments on machines of this byte order.
	atNumber, atArch, atFirst, atSecond = 0, 4, 16, 24
)

// program is a filter that is being written.
type program []unix.SockFilter

func (p *program) load(at uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at})
}

// unless skips the next n instructions if the comparison (BPF_JEQ, BPF_JSET, BPF_JGE) fails.
func (p *program) unless(compare uint16, k uint32, n uint8) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | compare, K: k, Jf: n})
}

func (p *program) end(k uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k})
}

func (p *program) refuse(e unix.Errno) { p.end(unix.SECCOMP_RET_ERRNO | uint32(e)) }

// argument refuses a call if one of its arguments compares.
func (p *program) argument(call, at uint32, e unix.Errno, compare uint16, values ...uint32) {
	p.unless(unix.BPF_JEQ, call, uint8(2+2*len(values)))
	p.load(at)
	for _, v := range values {
		p.unless(compare, v, 1)
		p.refuse(e)
	}
	p.end(unix.SECCOMP_RET_ALLOW)
}

// filter allows all but what is refused. With chroot that is not, either: servers that a root starts lock their workers up so.
func filter(chroot bool) []unix.SockFilter {
	var p program
	p.load(atArch)
	p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ, K: arch, Jt: 1})
	p.refuse(unix.EPERM) // the numbers of another architecture mean other calls
	p.load(atNumber)
	if x32 != 0 {
		p.unless(unix.BPF_JGE, x32, 1)
		p.refuse(unix.ENOSYS)
	}
	for _, nr := range append(refused[:len(refused):len(refused)], refusedHere...) {
		if nr == unix.SYS_CHROOT && chroot {
			continue
		}
		p.unless(unix.BPF_JEQ, nr, 1)
		p.refuse(unix.EPERM)
	}
	p.unless(unix.BPF_JEQ, unix.SYS_CLONE3, 1) // its flags are in memory, where a filter cannot look: C libraries use clone then
	p.refuse(unix.ENOSYS)
	p.argument(unix.SYS_CLONE, atFirst, unix.EPERM, unix.BPF_JSET, namespaces)
	p.argument(unix.SYS_UNSHARE, atFirst, unix.EPERM, unix.BPF_JSET, namespaces|newTime)
	p.argument(unix.SYS_SOCKET, atFirst, unix.EAFNOSUPPORT, unix.BPF_JEQ, unix.AF_VSOCK, unix.AF_ALG, unix.AF_PACKET)
	p.argument(unix.SYS_IOCTL, atSecond, unix.EPERM, unix.BPF_JEQ, unix.TIOCSTI, tiocLinux)
	p.end(unix.SECCOMP_RET_ALLOW)
	return p
}

// install puts the filter before this thread and what it starts.
func install(f []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return e
	}
	return nil
}
