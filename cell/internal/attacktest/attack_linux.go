package attacktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Main does what no app should be able to do: attack NAME=ARG…, and prints for each how far it came.
func Main(args []string) int {
	runtime.LockOSThread()
	for _, a := range args {
		name, arg, _ := strings.Cut(a, "=")
		text, err := attack(name, arg)
		if err != nil {
			var e syscall.Errno
			if text = err.Error(); errors.As(err, &e) {
				text = unix.ErrnoName(e)
			}
		}
		fmt.Println(name, strings.ReplaceAll(strings.TrimSpace(text), "\n", " "))
	}
	return 0
}

func call(nr uintptr, args ...uintptr) error {
	args = append(args, 0, 0, 0, 0, 0, 0)
	if _, _, e := syscall.Syscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5]); e != 0 {
		return e
	}
	return nil
}

func attack(name, arg string) (string, error) {
	n, _ := strconv.Atoi(arg)
	switch name {
	case "read":
		b, err := os.ReadFile(arg)
		return string(b), err
	case "list":
		all, err := os.ReadDir(arg)
		var names []string
		for _, e := range all {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	case "write":
		return "done", os.WriteFile(arg, []byte("x"), 0o600)
	case "append":
		f, err := os.OpenFile(arg, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			f.Close()
		}
		return "done", err
	case "link":
		from, to, _ := strings.Cut(arg, ":")
		return "done", errors.Join(os.RemoveAll(to), os.Symlink(from, to))
	case "move":
		from, to, _ := strings.Cut(arg, ":")
		return "done", os.Rename(from, to)
	case "replace": // the lifecycle program and its states, by this program, if the folder can be put aside
		return "done", replace(arg)
	case "watch":
		return watch(arg)
	case "chown":
		return "done", chown(arg)
	case "address":
		return "done", loopbackDown()
	case "kill":
		return "done", syscall.Kill(n, syscall.SIGKILL)
	case "processes":
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		return strconv.Itoa(len(all)), nil
	case "status":
		b, err := os.ReadFile("/proc/self/status")
		for l := range strings.Lines(string(b)) {
			if k, v, _ := strings.Cut(l, ":"); k == arg {
				return strings.TrimSpace(v), nil
			}
		}
		return "absent", err
	case "writable": // mounts, by mountinfo (proc_pid_mountinfo(5))
		b, err := os.ReadFile("/proc/self/mountinfo")
		var all []string
		for l := range strings.Lines(string(b)) {
			if f := strings.Fields(l); !strings.HasPrefix(f[5], "ro,") {
				all = append(all, f[4])
			}
		}
		slices.Sort(all)
		return strings.Join(all, " "), err
	case "ids":
		return fmt.Sprint(os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid()), nil
	case "files":
		all, err := os.ReadDir("/proc/self/fd")
		for _, e := range all {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "/") && to != "/dev/null" && !strings.HasPrefix(to, "/proc/") &&
				!strings.HasPrefix(to, "/sys/fs/cgroup/") { // Go looks there itself
				return to, nil
			}
		}
		return "none", err
	case "handed":
		var own syscall.Stat_t
		for fd := 3; fd < 64; fd++ {
			if syscall.Fstat(fd, &own) == nil && (own.Mode&syscall.S_IFMT == syscall.S_IFSOCK || own.Mode&syscall.S_IFMT == syscall.S_IFCHR) {
				to, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
				return to, nil
			}
		}
		return "none", nil
	case "mount":
		return "done", unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "")
	case "remount":
		return "done", unix.Mount("", "/usr", "", unix.MS_REMOUNT|unix.MS_BIND, "")
	case "umount":
		return "done", unix.Unmount("/usr", unix.MNT_DETACH)
	case "ptrace":
		return "done", call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(n))
	case "seize":
		return "done", call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(n))
	case "peek":
		b := make([]byte, 8)
		return "done", call(unix.SYS_PROCESS_VM_READV, uintptr(n), uintptr(unsafe.Pointer(&unix.Iovec{Base: &b[0], Len: 8})), 1)
	case "setuid":
		return "done", call(unix.SYS_SETUID, uintptr(n))
	case "setgroups":
		return "done", call(unix.SYS_SETGROUPS)
	case "unshare":
		return "done", call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	case "clone":
		cmd := exec.Command("/proc/self/exe")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS}
		return "done", cmd.Start()
	case "clone3":
		args := [11]uint64{unix.CLONE_NEWUSER}
		return "done", call(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
	case "setns":
		f, err := os.Open("/proc/1/ns/mnt")
		if err != nil {
			return "", err
		}
		return "done", call(unix.SYS_SETNS, f.Fd(), 0)
	case "chroot":
		return "done", syscall.Chroot("/tmp")
	case "device":
		return "done", syscall.Mknod("/tmp/device", syscall.S_IFBLK|0o600, 254<<8)
	case "hostname":
		return "done", syscall.Sethostname([]byte("mine"))
	case "keyctl":
		return "done", call(unix.SYS_KEYCTL, 0)
	case "bpf":
		return "done", call(unix.SYS_BPF, 0)
	case "perf":
		return "done", call(unix.SYS_PERF_EVENT_OPEN, 0)
	case "uring":
		return "done", call(unix.SYS_IO_URING_SETUP, 1)
	case "userfault":
		return "done", call(unix.SYS_USERFAULTFD)
	case "othernumbers": // getpid of x32, on amd64
		return "done", call(0x40000000 + unix.SYS_GETPID)
	case "vsock":
		_, err := syscall.Socket(unix.AF_VSOCK, syscall.SOCK_STREAM, 0)
		return "done", err
	case "console":
		return "done", call(unix.SYS_IOCTL, 0, unix.TIOCSTI)
	case "dial":
		network, to, _ := strings.Cut(arg, ":")
		c, err := net.Dial(network, to)
		if err == nil {
			c.Close()
		}
		return "done", err
	case "take": // all that somebody sends
		c, err := net.Dial("tcp", arg)
		if err != nil {
			return "", err
		}
		defer c.Close()
		got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, 256<<10))
		return strconv.FormatInt(got, 10), err
	case "talk":
		return talk(arg)
	case "forks":
		return forks(n)
	case "suid": // of a program that is root's, here and outside
		out, err := exec.Command("su", "-c", "id -u").CombinedOutput()
		if err == nil {
			return "done", nil
		}
		return "refused " + fmt.Sprint(len(out) > 0), nil
	case "sleep":
		<-time.After(time.Hour)
	}
	return "", fmt.Errorf("no attack %q", name)
}

// watch tells what was put into a folder, and taken from it, until it is asked to end.
func watch(dir string) (string, error) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }() // with what it watches
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE); err != nil {
		return "", err
	}
	fmt.Println("watches")
	<-asked
	b := make([]byte, 64<<10)
	n, err := unix.Read(fd, b)
	if errors.Is(err, unix.EAGAIN) {
		return "nothing", nil
	}
	return fmt.Sprintf("%q", b[:max(n, 0)]), err
}

// loopbackDown takes the network of this process its loopback.
func loopbackDown() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }() // only for its call
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// replace puts a program of the container in the place of the lifecycle program, under all its names.
func replace(dir string) error {
	if err := os.Rename(dir, dir+".old"); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "states"), 0o777); err != nil {
		return err
	}
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	for _, name := range []string{"keeper", "dewpoint-lifecycle", "lib/dewpoint-lifecycle"} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o777), os.WriteFile(name, own, 0o777)); err != nil {
			return err
		}
	}
	return nil
}

// talk sends some MB to who sends back what it gets, and ends its own direction first.
func talk(to string) (string, error) {
	c, err := net.Dial("tcp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 4<<20/16)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, sent) {
		return fmt.Sprintf("%d bytes of %d, or others", len(got), len(sent)), nil
	}
	return "done", err
}

// forks starts so many processes, and tells how many there can be.
func forks(n int) (string, error) {
	for i := range n {
		if err := exec.Command("/bin/sleep", "1000").Start(); err != nil {
			return strconv.Itoa(i), err
		}
	}
	return strconv.Itoa(n), nil
}

// patience is how long anything may take before a test gives up. Nothing is expected to.
const patience = 30 * time.Second

// Said runs attacks in a container, and returns what each has said.
func Said(t *testing.T, c cell.Container, id string, attacks ...string) []string {
	t.Helper()
	var out bytes.Buffer
	run, err := c.Run(t.Context(), cell.Process{ID: id, Path: "lifecycle:attack", Args: attacks, Env: []string{"GORACE=atexit_sleep_ms=0"}}, cell.IO{Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := run.Wait(ctx)
	if err != nil || e.Code != 0 {
		t.Fatalf("the attacks ended with %+v (%v): %s", e, err, out.String())
	}
	return answers(t, out.String(), attacks)
}

// beside is Said, in a session with or without a terminal.
func beside(t *testing.T, c cell.Container, size *cell.TerminalSize, attacks ...string) []string {
	t.Helper()
	s, err := c.(cell.Execer).Exec(t.Context(), cell.Process{Path: "lifecycle:attack", Args: attacks, Env: []string{"GORACE=atexit_sleep_ms=0"}}, size)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(s.Stdout())
	must(t, errors.Join(err, s.Close()))
	return answers(t, strings.ReplaceAll(string(out), "\r\n", "\n"), attacks)
}

func answers(t *testing.T, out string, attacks []string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != len(attacks) {
		t.Fatalf("%d attacks said %q", len(attacks), out)
	}
	for i, a := range attacks {
		name, _, _ := strings.Cut(a, "=")
		lines[i] = strings.TrimPrefix(lines[i], name+" ")
	}
	return lines
}

// Refused runs attacks, of which the second part says how each must be answered; answers that will do too follow after "|".
func Refused(t *testing.T, c cell.Container, want ...[2]string) {
	t.Helper()
	refused(t, c, "main", want)
}

func refused(t *testing.T, c cell.Container, id string, want [][2]string) {
	t.Helper()
	expect(t, want, func(attacks []string) []string { return Said(t, c, id, attacks...) })
}

func expect(t *testing.T, want [][2]string, said func(attacks []string) []string) {
	t.Helper()
	attacks := make([]string, 0, len(want))
	for _, w := range want {
		attacks = append(attacks, w[0])
	}
	for i, got := range said(attacks) {
		if !slices.Contains(strings.Split(want[i][1], "|"), got) {
			t.Errorf("%s says %q, want %s", want[i][0], got, want[i][1])
		}
	}
}
