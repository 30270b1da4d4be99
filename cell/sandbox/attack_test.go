//go:build linux

package sandbox_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
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
		[2]string{"read=/proc/kcore", "EACCES|EPERM|ENOENT"},
		[2]string{"read=/proc/kmsg", "EACCES|EPERM|ENOENT"},
		[2]string{"read=/proc/kpageflags", "EACCES|EPERM|ENOENT"},
		[2]string{"read=/proc/timer_list", "EACCES|EPERM|ENOENT"},
		[2]string{"read=/proc/vmallocinfo", "EACCES|EPERM|ENOENT"},
		[2]string{"read=/proc/slabinfo", "EACCES|EPERM|ENOENT"},
		[2]string{"append=/proc/sysrq-trigger", "EROFS|EACCES|ENOENT"},
		[2]string{"files", "none"},
		[2]string{"writable", "/dev/full /dev/null /dev/pts /dev/random /dev/shm /dev/tty /dev/urandom /dev/zero /home /proc /tmp"},
	)
}

func TestAttackTheStack(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	stack := attacktest.Writable(t)
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

func TestABareStack(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	attacktest.Bare(t, func(stack string) cell.Container {
		dir := t.TempDir()
		r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Stacks: []sandbox.Stack{{Name: "bare", Dir: stack}}})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
		c, err := r.Create(t.Context(), cell.Creation{ID: "x"})
		require.NoError(t, err)
		return c
	})
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
	attacktest.Powers(t, c, "EINVAL", "EAFNOSUPPORT")
	attacktest.Environment(t, c)
}

// A link of a droplet, and one that an app leaves, lead nowhere but into its own container.
func TestAttackByLinks(t *testing.T) {
	t.Parallel()
	attacktest.Links(t, func(l cell.Layer) cell.Container {
		c, _ := contained(t, cell.Spec{}, l)
		return c
	})
}

// A socket of the abstract namespace belongs to the network. Where that is the machine's, Landlock closes it.
func TestAttackAbstractSockets(t *testing.T) {
	t.Parallel()
	name := "@dewpoint-" + strconv.Itoa(os.Getpid())
	l, err := net.Listen("unix", name)
	require.NoError(t, err)
	defer l.Close()
	c, _ := contained(t, cell.Spec{})
	attacktest.Refused(t, c, [2]string{"dial=unix:" + name, "ECONNREFUSED"})
	dir := t.TempDir()
	r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Network: sandbox.HostNetwork})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c, err = r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Destroy(context.Background())) }()
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
