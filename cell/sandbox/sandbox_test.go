//go:build linux

package sandbox_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// The suites' program is a role: this binary is the lifecycle program, and that is inside.
func init() { lifecycle.Run("celltest", celltest.Main) }

// prog is prepared once: to copy and check it for each Runtime would take its time.
var prog *lifecycle.Program

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(agentMain(os.Args[2:]))
	}
	dir, err := os.MkdirTemp("", "sandbox-test")
	if err == nil {
		prog, err = lifecycle.Prepare(context.Background(), lifecycle.Config{Dir: dir})
	}
	if err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// isolates says once whether this machine allows what is tested.
var isolates = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "sandbox-test")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := sandbox.New(context.Background(), sandbox.Config{Dir: dir, Program: prog, AtLeast: sandbox.Namespaces})
	if err != nil {
		return err
	}
	return r.Close()
})

func needIsolation(t testing.TB) {
	t.Helper()
	if err := isolates(); err != nil {
		needs.Missing(t, err.Error())
	}
}

// program runs the suites' program.
func program(args ...string) cell.Process {
	return cell.Process{Path: "lifecycle:celltest", Args: args,
		Env: []string{"GORACE=atexit_sleep_ms=0"}} // else each exit takes a second
}

func open(t testing.TB, dir string) *sandbox.Runtime {
	t.Helper()
	needIsolation(t)
	r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, AtLeast: sandbox.Namespaces})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

// openClean is open, and asserts when that is closed that nothing is left below dir.
func openClean(t *testing.T, dir string) *sandbox.Runtime {
	t.Helper()
	t.Cleanup(func() { empty(t, dir) })
	return open(t, dir)
}

// empty asserts that nothing is left of any container, processes included.
func empty(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"containers", "making", "trash", "mount"} {
		all, err := os.ReadDir(filepath.Join(dir, d))
		if !os.IsNotExist(err) {
			assert.NoError(t, err)
		}
		assert.Empty(t, all, d)
	}
	assert.Empty(t, attacktest.Left(dir))
}

func TestRuntime(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	celltest.Run(t, func(t *testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: openClean(t, t.TempDir()), Program: program}
	})
}

func TestAgent(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	celltest.RunCell(t, func(t *testing.T) celltest.Cell {
		return celltest.Cell{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, t.TempDir())}), Program: program}
	})
}

// agentMain is the program that is killed: an agent over the folder args[0] with the program args[1].
func agentMain(args []string) int {
	r, err := sandbox.New(context.Background(), sandbox.Config{Dir: args[0], Program: &lifecycle.Program{Path: args[1]}})
	if err == nil {
		err = celltest.Serve(r, args[2:])
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func TestSurvival(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	survival(t, open)
}

// survival runs the suite over Runtimes that open opens.
func survival(t *testing.T, open func(testing.TB, string) *sandbox.Runtime) {
	exe, err := os.Executable()
	require.NoError(t, err)
	celltest.RunSurvival(t, func(t *testing.T) celltest.Survivor {
		dir := t.TempDir()
		t.Cleanup(func() { empty(t, dir) })
		return celltest.Survivor{Program: program,
			Open: func(t *testing.T) cell.Runtime { return open(t, dir) },
			Command: func(works ...string) *exec.Cmd {
				return exec.Command(exe, append([]string{"agent", dir, prog.Path}, works...)...)
			},
		}
	})
}

// Not parallel: it counts what this program has.
func TestNothingLeaks(t *testing.T) {
	needIsolation(t)
	celltest.RunLeaks(t, func(t *testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: openClean(t, t.TempDir()), Program: program}
	})
}
