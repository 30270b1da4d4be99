//go:build linux && (amd64 || arm64)

package jail

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// judge runs a filter as the kernel does (seccomp(2), the instructions that are used here).
func judge(t *testing.T, f []unix.SockFilter, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data, nr)
	binary.LittleEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(f); pc++ {
		i := f[pc]
		var yes bool
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[i.K:])
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ:
			yes = acc == i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JGE:
			yes = acc >= i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JSET:
			yes = acc&i.K != 0
		default:
			t.Fatalf("instruction %+v", i)
		}
		if yes {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	t.Fatal("the filter does not end")
	return 0
}

func TestFilter(t *testing.T) {
	t.Parallel()
	f := filter(false)
	require.LessOrEqual(t, len(f), 4096) // BPF_MAXINSNS
	refuse := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	for _, nr := range append(refused[:len(refused):len(refused)], refusedHere...) {
		assert.Equal(t, refuse(unix.EPERM), judge(t, f, arch, nr), nr)
	}
	for _, c := range []struct {
		name string
		arch uint32
		nr   uint32
		args []uint64
		want uint32
	}{
		{"write", arch, unix.SYS_WRITE, nil, unix.SECCOMP_RET_ALLOW},
		{"execve", arch, unix.SYS_EXECVE, nil, unix.SECCOMP_RET_ALLOW},
		{"of another architecture", arch ^ 1, unix.SYS_WRITE, nil, refuse(unix.EPERM)},
		{"clone3", arch, unix.SYS_CLONE3, nil, refuse(unix.ENOSYS)},
		{"a thread", arch, unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD}, unix.SECCOMP_RET_ALLOW},
		{"a process", arch, unix.SYS_CLONE, []uint64{uint64(unix.SIGCHLD)}, unix.SECCOMP_RET_ALLOW},
		{"a user namespace", arch, unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, refuse(unix.EPERM)},
		{"a network", arch, unix.SYS_CLONE, []uint64{unix.CLONE_NEWNET}, refuse(unix.EPERM)},
		{"unshare of files", arch, unix.SYS_UNSHARE, []uint64{unix.CLONE_FILES}, unix.SECCOMP_RET_ALLOW},
		{"unshare of time", arch, unix.SYS_UNSHARE, []uint64{newTime}, refuse(unix.EPERM)},
		{"unshare of mounts", arch, unix.SYS_UNSHARE, []uint64{unix.CLONE_FILES | unix.CLONE_NEWNS}, refuse(unix.EPERM)},
		{"TCP", arch, unix.SYS_SOCKET, []uint64{unix.AF_INET6}, unix.SECCOMP_RET_ALLOW},
		{"vsock", arch, unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, refuse(unix.EAFNOSUPPORT)},
		{"AF_ALG", arch, unix.SYS_SOCKET, []uint64{unix.AF_ALG}, refuse(unix.EAFNOSUPPORT)},
		{"packets", arch, unix.SYS_SOCKET, []uint64{unix.AF_PACKET}, refuse(unix.EAFNOSUPPORT)},
		{"the size of a terminal", arch, unix.SYS_IOCTL, []uint64{0, unix.TIOCGWINSZ}, unix.SECCOMP_RET_ALLOW},
		{"TIOCSTI", arch, unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI}, refuse(unix.EPERM)},
		{"TIOCSTI with bits that the kernel does not look at", arch, unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI | 1<<40}, refuse(unix.EPERM)},
		{"TIOCLINUX", arch, unix.SYS_IOCTL, []uint64{0, tiocLinux}, refuse(unix.EPERM)},
	} {
		assert.Equal(t, c.want, judge(t, f, c.arch, c.nr, c.args...), c.name)
	}
}

func TestChrootIsForRootsAlone(t *testing.T) {
	t.Parallel()
	f := filter(true)
	assert.EqualValues(t, unix.SECCOMP_RET_ALLOW, judge(t, f, arch, unix.SYS_CHROOT))
	assert.NotEqualValues(t, unix.SECCOMP_RET_ALLOW, judge(t, f, arch, unix.SYS_PIVOT_ROOT))
}

func TestMapped(t *testing.T) {
	t.Parallel()
	assert.True(t, Mapped(unix.Getuid()))
	assert.False(t, Mapped(1<<32-1)) // no user has it
}
