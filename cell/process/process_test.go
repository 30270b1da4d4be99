//go:build linux || darwin

package process_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// prog is prepared once: each copy of the test binary would take its time.
var prog *lifecycle.Program

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "celltest":
			os.Exit(celltest.Main(os.Args[2:]))
		case "agent":
			os.Exit(agentMain(os.Args[2:]))
		}
	}
	dir, err := os.MkdirTemp("", "process-test")
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

// program runs the suites' program: this test binary.
func program(args ...string) cell.Process {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return cell.Process{Path: exe, Args: append([]string{"celltest"}, args...),
		Env: []string{"GORACE=atexit_sleep_ms=0"}} // else each exit takes a second
}

func open(t *testing.T, dir string) *process.Runtime {
	t.Helper()
	r, err := process.New(t.Context(), process.Config{Dir: dir, Program: prog})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

// openClean is open, and asserts when that is closed that nothing is left below dir.
func openClean(t *testing.T, dir string) *process.Runtime {
	t.Helper()
	t.Cleanup(func() { empty(t, dir); noProcesses(t, dir) })
	return open(t, dir)
}

func TestRuntime(t *testing.T) {
	t.Parallel()
	celltest.Run(t, func(t *testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: openClean(t, t.TempDir()), Program: program}
	})
}

func TestAgent(t *testing.T) {
	t.Parallel()
	celltest.RunCell(t, func(t *testing.T) celltest.Cell {
		return celltest.Cell{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, t.TempDir())}), Program: program}
	})
}

// empty asserts that nothing is left of any container.
func empty(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []string{"containers", "making", "trash"} {
		all, err := os.ReadDir(filepath.Join(dir, d))
		assert.NoError(t, err)
		assert.Empty(t, all, d)
	}
}

// noProcesses asserts that no process works for a container below dir.
func noProcesses(t *testing.T, dir string) {
	t.Helper()
	assert.Empty(t, processesOf(t, dir))
}

// processesOf lists the processes that have dir among their arguments or work below it;
// where there is no /proc, none.
func processesOf(t *testing.T, dir string) []string {
	var all []string
	found, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, p := range found {
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		if strings.Contains(string(args), dir) || strings.HasPrefix(cwd, dir) {
			all = append(all, fmt.Sprintf("%s %q in %s", p, args, cwd))
		}
	}
	return all
}
func TestAPortIsFreeAgain(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	c, err := r.Create(t.Context(), cell.Creation{ID: "c", Spec: cell.Spec{Ports: []int{8080}}})
	require.NoError(t, err)
	host := c.Info().Addresses[0].Host
	require.NoError(t, c.Destroy(t.Context()))
	l, err := net.Listen("tcp", host)
	require.NoError(t, err)
	l.Close()
}

// Not parallel: it counts what this program has.
func TestNothingLeaks(t *testing.T) {
	celltest.RunLeaks(t, func(t *testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: openClean(t, t.TempDir()), Program: program}
	})
}
