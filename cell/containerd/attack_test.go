//go:build linux

package containerd_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

func init() { lifecycle.Run("attack", attacktest.Main) }

func contained(t *testing.T, spec cell.Spec, layers ...cell.Layer) (cell.Container, string) {
	t.Helper()
	dir := t.TempDir()
	return create(t, openClean(t, dir), spec, layers...), dir
}

func create(t *testing.T, r *containerd.Runtime, spec cell.Spec, layers ...cell.Layer) cell.Container {
	t.Helper()
	c, err := r.Create(t.Context(), cell.Creation{ID: "x" + strconv.Itoa(int(next())), Spec: spec, Layers: layers})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Destroy(context.Background())) })
	return c
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
		[2]string{"list=/run/dewpoint/states", "EACCES"}, // what inits keep, and the keeper's socket
		[2]string{"write=/run/dewpoint/states/.keeper", "EACCES"},
		[2]string{"read=/dev/mem", "ENOENT"},
		[2]string{"read=/dev/kmsg", "ENOENT"},
		[2]string{"read=/proc/kallsyms", ""},
		[2]string{"read=/proc/keys", ""},
		[2]string{"write=/sys/kernel/mm/x", "EROFS|EACCES|EPERM"},
		[2]string{"write=/sys/fs/cgroup/x", "EROFS|EACCES|EPERM"},
		[2]string{"files", "none"},
	)
}

func TestAttackTheStack(t *testing.T) {
	t.Parallel()
	need(t)
	stack := attacktest.Writable(t)
	dir := t.TempDir()
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog,
		Stacks: []containerd.Stack{{Name: "mine", Dir: stack}}, Share: []string{"/usr/share"}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	attacktest.Refused(t, create(t, r, cell.Spec{}),
		[2]string{"read=/data/f", "x"},
		[2]string{"append=/data/f", "EROFS"},
		[2]string{"write=/data/g", "EROFS"},
		[2]string{"append=/etc/passwd", "EROFS|EACCES"},
		[2]string{"write=/usr/share/x", "EROFS|EACCES"},
		[2]string{"write=/x", "EROFS|EACCES"},
		[2]string{"write=/run/dewpoint/x", "EROFS|EACCES"},
		[2]string{"append=/run/dewpoint/dewpoint-lifecycle", "EROFS|EACCES|ETXTBSY"},
		[2]string{"append=/proc/sys/kernel/core_pattern", "EROFS|EACCES"},
		[2]string{"append=/proc/sysrq-trigger", "EROFS|EACCES|ENOENT"},
		[2]string{"read=/etc/passwd", "root:x:0:0::/:/bin/sh vcap:x:2000:2000:vcap:/home/vcap:/bin/bash"},
	)
}

func TestABareStack(t *testing.T) {
	t.Parallel()
	need(t)
	attacktest.Bare(t, func(stack string) cell.Container {
		dir := t.TempDir()
		r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog, HostNetwork: true,
			Stacks: []containerd.Stack{{Name: "bare", Dir: stack}}})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
		return create(t, r, cell.Spec{})
	})
}

func TestAttackOtherProcesses(t *testing.T) {
	t.Parallel()
	r := openClean(t, t.TempDir())
	c, other := create(t, r, cell.Spec{}), create(t, r, cell.Spec{})
	victim, err := other.Run(t.Context(), cell.Process{Path: "sleep", Args: []string{"1000"}}, cell.IO{})
	require.NoError(t, err)
	attacktest.Refused(t, c,
		[2]string{"processes", "3"}, // the keeper, its init and itself
		[2]string{"kill=" + strconv.Itoa(os.Getpid()), "ESRCH"},
		[2]string{"kill=1", "EPERM"},
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
	attacktest.Powers(t, c, "EINVAL|EPERM", "EAFNOSUPPORT|EPERM")
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

// A fork bomb ends at the limit, and nobody else feels it.
func TestAttackByForks(t *testing.T) {
	t.Parallel()
	r := openClean(t, t.TempDir())
	c, other := create(t, r, cell.Spec{PIDs: 50}), create(t, r, cell.Spec{PIDs: 50})
	for _, c := range []cell.Container{c, other} {
		attacktest.Refused(t, c, [2]string{"forks=30", "30"})
	}
	for i, c := range []cell.Container{c, other} {
		assert.Equal(t, []string{"EAGAIN"}, attacktest.Said(t, c, "bomb"+strconv.Itoa(i), "forks=150"))
	}
}

// The machine answers nobody in a container, be it at its own addresses, its loopback or a socket without a file; another
// instance neither, though the machine reaches both.
func TestAttackTheNetwork(t *testing.T) {
	t.Parallel()
	need(t)
	world, stranger := outside(t)
	loopback, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer loopback.Close()
	everywhere, err := net.Listen("tcp4", "0.0.0.0:0")
	require.NoError(t, err)
	defer everywhere.Close()
	abstract, err := net.Listen("unix", "@dewpoint-"+strconv.Itoa(os.Getpid()))
	require.NoError(t, err)
	defer abstract.Close()
	_, port, err := net.SplitHostPort(everywhere.Addr().String())
	require.NoError(t, err)

	dir := t.TempDir()
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog, Subnet: netip.MustParsePrefix("10.253.0.0/16"),
		Egress: []cell.EgressRule{
			{Network: netip.MustParsePrefix(world.open.Addr().String() + "/32"), Protocol: "tcp", From: world.open.Port(), To: world.open.Port()},
			{Network: netip.MustParsePrefix("127.0.0.0/8")},
			{Network: netip.MustParsePrefix("10.0.0.0/8")},
		}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c, other := create(t, r, cell.Spec{Ports: []int{8080}}), create(t, r, cell.Spec{Ports: []int{8080}})
	elsewhere := create(t, openClean(t, t.TempDir()), cell.Spec{Ports: []int{8080}}) // of another cell
	for _, o := range []cell.Container{c, other, elsewhere} {
		p := program("serve")
		p.ID, p.Env = "web", append(p.Env, "PORT=8080")
		_, err := o.Run(t.Context(), p, cell.IO{})
		require.NoError(t, err)
		conn, err := dial(o.Info().Addresses[0].Host)
		require.NoError(t, err)
		conn.Close()
	}
	const no = "EHOSTUNREACH|ECONNREFUSED|EACCES|ENETUNREACH|EPERM"
	attacktest.Refused(t, c,
		[2]string{"dial=tcp:" + c.Info().Addresses[0].Host, "done"},
		[2]string{"dial=tcp:127.0.0.1:8080", "done"}, // its own
		[2]string{"dial=tcp:" + world.open.String(), "done"},
		[2]string{"dial=tcp:" + world.closed.String(), no},
		[2]string{"dial=tcp:" + loopback.Addr().String(), no},
		[2]string{"dial=tcp:169.254.207.1:" + port, no},
		[2]string{"dial=tcp:" + world.machine.String() + ":" + port, no},
		[2]string{"dial=tcp:" + other.Info().Addresses[0].Host, no},
		[2]string{"dial=tcp:" + elsewhere.Info().Addresses[0].Host, no},
		[2]string{"dial=unix:@dewpoint-" + strconv.Itoa(os.Getpid()), no},
		[2]string{"dial=tcp:169.254.169.254:80", no},
	)
	assert.Error(t, stranger(c.Info().Addresses[0].Host), "nobody comes in but from the machine")
}
