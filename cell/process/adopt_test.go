//go:build linux || darwin

package process_test

import (
	"bufio"
	"context"
	"encoding/json"
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

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// agentMain is the program that is killed: an agent over the folder args[0] with the program args[1].
func agentMain(args []string) int {
	r, err := process.New(context.Background(), process.Config{Dir: args[0], Program: &lifecycle.Program{Path: args[1]}})
	if err == nil {
		err = celltest.Serve(r, args[2:])
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// agentProgram is agentMain as a command.
func agentProgram(dir string, works ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return exec.Command(exe, append([]string{"agent", dir, prog.Path}, works...)...)
}

func TestSurvival(t *testing.T) {
	t.Parallel()
	celltest.RunSurvival(t, func(t *testing.T) celltest.Survivor {
		dir := t.TempDir()
		t.Cleanup(func() { empty(t, dir); noProcesses(t, dir) })
		return celltest.Survivor{Program: program,
			Open:    func(t *testing.T) cell.Runtime { return open(t, dir) },
			Command: func(works ...string) *exec.Cmd { return agentProgram(dir, works...) },
		}
	})
}

// killedAgent runs a work in a program of its own, which it kills when the work runs.
func killedAgent(t *testing.T, dir string, w cell.Work) {
	t.Helper()
	b, err := json.Marshal(w)
	require.NoError(t, err)
	cmd := agentProgram(dir, string(b))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), `"phase":"running"`) {
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait() // it was killed
}

const (
	patience = 30 * time.Second // nothing is expected to take so long
	tick     = 10 * time.Millisecond
)

func work(id string, args ...string) cell.Work {
	p := program(args...)
	p.Dir = "/home/vcap"
	return cell.Work{ID: id, Process: p, Log: cell.LogTag{App: "app", Source: "STG"}}
}

func until(t *testing.T, a *cell.Agent, id string, ok func(cell.Event) bool) cell.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last cell.Event
	for e, err := range a.Watch(ctx) {
		require.NoError(t, err)
		if e.Status.ID == id {
			if last = e; ok(e) {
				return e.Status
			}
		}
	}
	t.Fatalf("%s was last %+v", id, last)
	return cell.Status{}
}

func is(p cell.Phase) func(cell.Event) bool {
	return func(e cell.Event) bool { return e.Status.Phase == p }
}

func TestAnInitThatVanishedIsALostWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	killedAgent(t, dir, work("w", "hang"))
	states, err := filepath.Glob(filepath.Join(dir, "containers", "w", "state-*", "main"))
	require.NoError(t, err)
	require.Len(t, states, 1)
	s, err := lifecycle.InitState(states[0])
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(s.PID, syscall.SIGKILL))
	a := celltest.Agent(t, cell.AgentConfig{Runtime: open(t, dir)})
	end := until(t, a, "w", is(cell.PhaseDone))
	assert.Equal(t, cell.ReasonLost, end.Reason)
	assert.Eventually(t, func() bool { return !runs(s.Process) }, 30*time.Second, 10*time.Millisecond, "its process is gone too")
}

// runs tells whether a process runs; one that has ended may still have a number.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS != "linux"
	}
	return !strings.Contains(string(b), ") Z ") && !strings.Contains(string(b), ") X ")
}

func TestTwoProgramsOnOneFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := process.New(t.Context(), process.Config{Dir: dir, Program: prog})
	require.NoError(t, err)
	_, err = process.New(t.Context(), process.Config{Dir: dir, Program: prog})
	assert.ErrorContains(t, err, fmt.Sprintf("it is in use by process %d: end it, or give another folder", os.Getpid()))
	require.NoError(t, r.Close())
	open(t, dir)
}

func TestAFolderThatCannotBe(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := process.New(t.Context(), process.Config{Dir: filepath.Join(file, "sub"), Program: prog})
	assert.ErrorContains(t, err, "give one that this user may write to")
	_, err = process.New(t.Context(), process.Config{})
	assert.ErrorContains(t, err, "Config.Dir is empty")
}

// A child that a killed program was forking holds the lock until it executes.
func TestTheLockOfADeadProgramIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	_, err = fmt.Fprint(f, dead.Process.Pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	opened := make(chan error)
	go func() {
		r, err := process.New(context.Background(), process.Config{Dir: dir, Program: prog})
		if err == nil {
			err = r.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	f.Close()
	require.NoError(t, <-opened)
}

// An init that a killed program has forked may come after its container was destroyed.
func TestAnInitThatComesLateFindsNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openClean(t, dir)
	c, err := r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	states, err := filepath.Glob(filepath.Join(dir, "containers", "x", "state-*"))
	require.NoError(t, err)
	require.Len(t, states, 1)
	require.NoError(t, c.Destroy(t.Context()))
	again, err := r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	err = prog.Start(prog.Command(t.Context(), "init", "-state", filepath.Join(states[0], "main"), "--", "sleep", "1000"))
	require.ErrorContains(t, err, "no such file or directory")
	run, err := again.Run(t.Context(), cell.Process{Path: "true"}, cell.IO{})
	require.NoError(t, err)
	e, err := run.Wait(t.Context())
	require.NoError(t, err)
	assert.Zero(t, e.Code)
	require.NoError(t, again.Destroy(t.Context()))
}
