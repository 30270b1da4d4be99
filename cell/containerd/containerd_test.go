//go:build linux

package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// The suites' program is a role: this binary is the lifecycle program, and that is inside.
func init() { lifecycle.Run("celltest", celltest.Main) }

var (
	// prog is prepared once: to copy and check it for each Runtime would take its time.
	prog *lifecycle.Program
	// socket is that of a containerd of these tests' own, "" where there can be none, for the reason why.
	socket, why string
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(agentMain(os.Args[2:]))
	}
	if os.Geteuid() == 0 && os.Getenv(ownNetwork) == "" {
		os.Exit(inOwnNetwork())
	}
	dir, err := os.MkdirTemp("", "containerd-test")
	if err == nil {
		prog, err = lifecycle.Prepare(context.Background(), lifecycle.Config{Dir: dir})
	}
	if err != nil {
		panic(err)
	}
	if os.Getenv(ownNetwork) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			panic(err)
		}
	}
	// The server of one Runtime serves the others: that is quicker.
	r, err := containerd.New(context.Background(), containerd.Config{Dir: filepath.Join(dir, "server"), Program: prog})
	if err == nil {
		socket = r.Socket()
	} else {
		why = err.Error()
	}
	code := m.Run()
	if r != nil {
		if err := r.Close(); err != nil {
			panic(err)
		}
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// ownNetwork tells that this runs in a network of its own, in which it may change what it likes.
const ownNetwork = "DEWPOINT_TEST_NETWORK"

// inOwnNetwork runs these tests again, there.
func inOwnNetwork() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), ownNetwork+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // whose end would be ours, to the child
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func need(t testing.TB) {
	t.Helper()
	if socket == "" {
		needs.Missing(t, why)
	}
}

// program runs the suites' program.
func program(args ...string) cell.Process {
	return cell.Process{Path: "lifecycle:celltest", Args: args,
		Env: []string{"GORACE=atexit_sleep_ms=0"}} // else each exit takes a second
}

func open(t testing.TB, dir string) *containerd.Runtime {
	t.Helper()
	need(t)
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

// openClean is open, and asserts when that is closed that nothing is left.
func openClean(t *testing.T, dir string) *containerd.Runtime {
	t.Helper()
	t.Cleanup(func() { empty(t, dir) })
	return open(t, dir)
}

// empty asserts that nothing is left of any container of a folder: files, processes, mounts, control groups.
func empty(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"containers", "making", "trash"} {
		all, err := os.ReadDir(filepath.Join(dir, d))
		if !os.IsNotExist(err) {
			assert.NoError(t, err)
		}
		assert.Empty(t, all, d)
	}
	// A container that is started just then has a copy of all the machine's mounts for a moment.
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		assert.Empty(t, attacktest.Left(dir))
		assert.Empty(t, loops(t, dir))
	}, patience, 10*time.Millisecond)
	groups, err := filepath.Glob("/sys/fs/cgroup/*/dewpoint/" + containerd.NameOf(dir))
	require.NoError(t, err)
	assert.Empty(t, groups)
	links, err := containerd.Links()
	require.NoError(t, err)
	for _, l := range links {
		assert.False(t, strings.HasPrefix(l.Attrs().Name, "dw"+containerd.NameOf(dir)[:6]), l.Attrs().Name)
	}
}

func TestRuntime(t *testing.T) {
	t.Parallel()
	need(t)
	celltest.Run(t, func(t *testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: openClean(t, t.TempDir()), Program: program}
	})
}

func TestAgent(t *testing.T) {
	t.Parallel()
	need(t)
	celltest.RunCell(t, func(t *testing.T) celltest.Cell {
		return celltest.Cell{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, t.TempDir())}), Program: program}
	})
}

// agentMain is the program that is killed: an agent over the folder args[0] with the program args[1] and the containerd args[2].
func agentMain(args []string) int {
	r, err := containerd.New(context.Background(), containerd.Config{Dir: args[0], Program: &lifecycle.Program{Path: args[1]}, Socket: args[2]})
	if err == nil {
		err = celltest.Serve(r, args[3:])
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func TestSurvival(t *testing.T) {
	t.Parallel()
	need(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	celltest.RunSurvival(t, func(t *testing.T) celltest.Survivor {
		dir := t.TempDir()
		t.Cleanup(func() { empty(t, dir) })
		return celltest.Survivor{Program: program,
			Open: func(t *testing.T) cell.Runtime { return open(t, dir) },
			Command: func(works ...string) *exec.Cmd {
				return exec.Command(exe, append([]string{"agent", dir, prog.Path, socket}, works...)...)
			},
		}
	})
}

// Not parallel: it counts what this program has.
func TestNothingLeaks(t *testing.T) {
	need(t)
	celltest.RunLeaks(t, func(t *testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: openClean(t, t.TempDir()), Program: program}
	})
}

func TestImages(t *testing.T) {
	t.Parallel()
	need(t)
	dir := t.TempDir()
	t.Cleanup(func() { empty(t, dir) })
	attacktest.Images(t, 0, false, func(t *testing.T, roots cell.ImageRoots) (cell.Runtime, func()) {
		r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog, Images: roots})
		require.NoError(t, err)
		return r, func() { assert.NoError(t, r.Close()) }
	})
}

func TestUsersOfImages(t *testing.T) {
	t.Parallel()
	need(t)
	dir := t.TempDir()
	t.Cleanup(func() { empty(t, dir) })
	attacktest.Users(t, cell.FirstUser, dir, func(t *testing.T, roots cell.ImageRoots) (cell.Runtime, func()) {
		r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog, Images: roots, FirstUser: cell.FirstUser})
		require.NoError(t, err)
		return r, func() { assert.NoError(t, r.Close()) }
	})
}
