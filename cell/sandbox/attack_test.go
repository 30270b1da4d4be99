//go:build linux

package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

func init() { lifecycle.Run("attack", attacktest.Main) }

func contained(t *testing.T, spec cell.Spec, layers ...cell.Layer) (cell.Container, string) {
	t.Helper()
	dir := t.TempDir()
	c, err := openClean(t, dir).Create(t.Context(), cell.Creation{ID: "x", Spec: spec, Layers: layers})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Destroy(context.Background())) })
	return c, dir
}

func TestAttackFilesOfTheMachine(t *testing.T) {
	t.Parallel()
	c, dir := contained(t, cell.Spec{})
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("s"), 0o666))
	attacktest.Refused(t, c,
		[2]string{"read=" + secret, "ENOENT"},
		[2]string{"read=/proc/1/root" + secret, "EACCES"},
		[2]string{"list=/proc/1/cwd/", "EACCES"},
		[2]string{"read=/proc/1/environ", "EACCES|EPERM"},
		[2]string{"append=/proc/1/mem", "EACCES|EPERM"},
		[2]string{"list=/proc/1/fd", "EACCES|EPERM"},
		[2]string{"list=" + filepath.Join(dir, "containers"), "ENOENT"},
		[2]string{"list=" + dir, "ENOENT"},
		[2]string{"list=/home", "vcap"},
		[2]string{"list=/var", "tmp"},
		[2]string{"list=/tmp", ""},
		[2]string{"list=/dev/shm", ""},
		[2]string{"list=/run", "dewpoint"},
		[2]string{"read=/dev/mem", "ENOENT"},
		[2]string{"read=/dev/kmsg", "ENOENT"},
		[2]string{"files", "none"},
		[2]string{"writable", "/dev/full /dev/null /dev/pts /dev/random /dev/shm /dev/tty /dev/urandom /dev/zero /home /proc /tmp"},
	)
}

func TestAttackTheStack(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	// One whose files would be the app's to write, were they not read-only.
	stack := t.TempDir()
	for name, text := range map[string]string{"data/f": "x", "etc/passwd": "root:x:0:0::/:/bin/sh\n"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(stack, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(stack, name), []byte(text), 0o666))
		require.NoError(t, os.Chmod(filepath.Join(stack, name), 0o666))
		require.NoError(t, os.Chmod(filepath.Dir(filepath.Join(stack, name)), 0o777))
	}
	dir := t.TempDir()
	r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Stacks: []sandbox.Stack{{Name: "mine", Dir: stack}}, Share: []string{"/usr/lib"}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c, err := r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Destroy(context.Background())) }()
	attacktest.Refused(t, c,
		[2]string{"read=/data/f", "x"},
		[2]string{"append=/data/f", "EROFS"},
		[2]string{"write=/data/g", "EROFS"},
		[2]string{"append=/etc/passwd", "EROFS|EACCES"},
		[2]string{"write=/usr/lib/x", "EROFS"},
		[2]string{"write=/x", "EROFS"},
		[2]string{"write=/dev/x", "EROFS"},
		[2]string{"write=/run/dewpoint/x", "EROFS"},
		[2]string{"append=/run/dewpoint/dewpoint-lifecycle", "EROFS|EACCES|ETXTBSY"},
		[2]string{"append=/proc/sys/kernel/core_pattern", "EROFS|EACCES"},
		[2]string{"append=/proc/sysrq-trigger", "EROFS|EACCES|ENOENT"},
		[2]string{"read=/etc/passwd", "root:x:0:0::/:/bin/sh vcap:x:2000:2000:vcap:/home/vcap:/bin/bash"},
	)
}

func TestAttackOtherProcesses(t *testing.T) {
	t.Parallel()
	c, _ := contained(t, cell.Spec{})
	other, _ := contained(t, cell.Spec{})
	victim, err := other.Run(t.Context(), cell.Process{Path: "sleep", Args: []string{"1000"}}, cell.IO{})
	require.NoError(t, err)
	attacktest.Refused(t, c,
		[2]string{"processes", "2"}, // its init and itself
		[2]string{"kill=" + strconv.Itoa(os.Getpid()), "ESRCH"},
		[2]string{"kill=1", "done|EPERM"}, // it is not heard
		[2]string{"read=/proc/1/comm", "init|dewpoint-lifecycle|dewpoint-lifecy"},
		[2]string{"ptrace=1", "EPERM"},
		[2]string{"seize=1", "EPERM"},
		[2]string{"peek=1", "EPERM"},
	)
	// All that it may signal are its own.
	_, err = c.Run(t.Context(), cell.Process{ID: "all", Path: "/bin/sh", Args: []string{"-c", "kill -9 -1"}}, cell.IO{})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = victim.Wait(ctx)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestAttackPowers(t *testing.T) {
	t.Parallel()
	c, _ := contained(t, cell.Spec{})
	all := [][2]string{
		{"ids", "2000 2000 2000 2000"},
		{"status=CapEff", "0000000000000000"}, {"status=CapPrm", "0000000000000000"}, {"status=CapInh", "0000000000000000"},
		{"status=CapBnd", "0000000000000000"}, {"status=CapAmb", "0000000000000000"},
		{"status=NoNewPrivs", "1"}, {"status=Seccomp", "2"},
		{"mount", "EPERM"}, {"remount", "EPERM"}, {"umount", "EPERM"}, {"unshare", "EPERM"}, {"clone", "EPERM"}, {"clone3", "ENOSYS"},
		{"setns", "EPERM|EACCES"}, {"chroot", "EPERM"}, {"device", "EPERM"}, {"hostname", "EPERM"},
		{"setuid=0", "EINVAL|EPERM"}, {"setuid=1", "EINVAL"}, {"setgroups", "EPERM"},
		{"keyctl", "EPERM"}, {"bpf", "EPERM"}, {"perf", "EPERM"}, {"uring", "EPERM"}, {"userfault", "EPERM"},
		{"vsock", "EAFNOSUPPORT"}, {"console", "EPERM"},
	}
	if runtime.GOARCH == "amd64" {
		all = append(all, [2]string{"othernumbers", "ENOSYS"})
	}
	if _, err := exec.LookPath("su"); err == nil {
		all = append(all, [2]string{"suid", "refused true"})
	}
	attacktest.Refused(t, c, all...)
}

// A link of a droplet, and one that an app leaves, lead nowhere but into its own container.
func TestAttackByLinks(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	require.NoError(t, os.Chmod(out, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(out, "secret"), []byte("s"), 0o666))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, to := range map[string]string{"out": out, "up": "../../../../../../../../../../.." + out} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}))
	}
	require.NoError(t, w.Close())
	c, _ := contained(t, cell.Spec{}, cell.Layer{Digest: strings.Repeat("a", 64), Dir: "/home/vcap", Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}})
	attacktest.Refused(t, c,
		[2]string{"read=/home/vcap/out/secret", "ENOENT"},
		[2]string{"read=/home/vcap/up/secret", "ENOENT"},
		[2]string{"link=" + out + ":/home/vcap/result", "done"},
		[2]string{"link=" + out + ":/tmp/app", "done"},
		[2]string{"link=" + out + ":/home/vcap/app", "done"},
	)
	for _, name := range []string{"/home/vcap/out/secret", "/home/vcap/up/secret", "/home/vcap/result/secret", "/tmp/app/secret"} {
		rc, err := c.StreamOut(t.Context(), name)
		if !assert.Error(t, err, name) {
			rc.Close()
		}
	}
	var in bytes.Buffer
	w = tar.NewWriter(&in)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "evil", Typeflag: tar.TypeReg, Mode: 0o600}))
	require.NoError(t, w.Close())
	for _, name := range []string{"/home/vcap/result", "/tmp/app", "/home/vcap/up"} {
		assert.Error(t, c.StreamIn(t.Context(), name, bytes.NewReader(in.Bytes())), name)
	}
	// A process that begins where a link stands.
	_, err := c.Run(t.Context(), cell.Process{ID: "there", Path: "true", Dir: "/home/vcap/app/made"}, cell.IO{})
	assert.Error(t, err)
	all, err := os.ReadDir(out)
	require.NoError(t, err)
	assert.Len(t, all, 1)
	// A stack is no place for files.
	for _, name := range []string{"/usr/x", "/etc", "/proc", "/", "/run/dewpoint"} {
		assert.ErrorContains(t, c.StreamIn(t.Context(), name, bytes.NewReader(in.Bytes())), "read-only", name)
	}
	_, err = c.StreamOut(t.Context(), "/etc/passwd")
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

// A socket of the abstract namespace belongs to the network, which is the machine's: Landlock closes it.
func TestAttackAbstractSockets(t *testing.T) {
	t.Parallel()
	name := "@dewpoint-" + strconv.Itoa(os.Getpid())
	l, err := net.Listen("unix", name)
	require.NoError(t, err)
	defer l.Close()
	c, _ := contained(t, cell.Spec{})
	abi, _, _ := syscall.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1)
	if abi < 6 || abi > 1000 {
		t.Skip("this kernel's Landlock has no scopes (Linux 6.12 has them)")
	}
	attacktest.Refused(t, c, [2]string{"dial=unix:" + name, "EPERM"})
}

// A fork bomb ends at the limit, and nobody else feels it.
func TestAttackByForks(t *testing.T) {
	t.Parallel()
	c, _ := contained(t, cell.Spec{PIDs: 50})
	other, _ := contained(t, cell.Spec{PIDs: 50})
	for _, c := range []cell.Container{c, other} {
		attacktest.Refused(t, c, [2]string{"forks=30", "30"})
	}
	for i, c := range []cell.Container{c, other} {
		assert.Equal(t, []string{"EAGAIN"}, attacktest.Said(t, c, "bomb"+strconv.Itoa(i), "forks=100"))
	}
}
