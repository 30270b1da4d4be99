//go:build linux || darwin

package process_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// agentMain is a program with an agent: it starts the works of its arguments, says so when
// they have the phase wanted, and runs until it is killed.
func agentMain(args []string) int {
	if err := agentProgram(args); err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

func agentProgram(args []string) error {
	ctx := context.Background()
	r, err := process.New(ctx, process.Config{Dir: args[0], Program: &lifecycle.Program{Path: args[1]}})
	if err != nil {
		return err
	}
	a, err := cell.New(cell.AgentConfig{ID: "cell-1", Runtime: r})
	if err != nil {
		return err
	}
	go a.Run(ctx)
	wanted := map[string]cell.Phase{}
	for i := 2; i < len(args); i += 2 {
		var w cell.Work
		if err := json.Unmarshal([]byte(args[i]), &w); err != nil {
			return err
		}
		if err := a.Start(ctx, w); err != nil {
			return err
		}
		wanted[w.ID] = cell.Phase(args[i+1])
	}
	for e, err := range a.Watch(ctx) {
		if err != nil {
			return err
		}
		if wanted[e.Status.ID] == e.Status.Phase {
			delete(wanted, e.Status.ID)
		}
		if len(wanted) == 0 {
			break
		}
	}
	fmt.Println("ready")
	select {}
}

// killedAgent runs the works in a program of its own, which it kills when they have their phases.
func killedAgent(t *testing.T, dir string, works ...any) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	args := []string{"agent", dir, prog.Path}
	for _, w := range works {
		if p, ok := w.(cell.Phase); ok {
			args = append(args, string(p))
			continue
		}
		b, err := json.Marshal(w)
		require.NoError(t, err)
		args = append(args, string(b))
	}
	cmd := exec.Command(exe, args...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait() // it was killed
	require.Equal(t, "ready\n", line)
}

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

func TestWorksOutliveAKilledAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	web := work("web", "out=up", "serve", "out=goodbye")
	web.Health, web.LRP, web.Spec.Ports, web.Process.Grace = &cell.Health{}, "lrp-1", []int{8080}, 20*time.Second
	task := work("task", "lines=5000", "wait", "err=last words", "exit=9")
	brief := work("brief", "out=short", "exit=4")
	killedAgent(t, dir, web, cell.PhaseRunning, task, cell.PhaseRunning, brief, cell.PhaseDone)

	r := open(t, dir)
	t.Cleanup(func() { empty(t, dir) })
	a := runAgent(t, cell.AgentConfig{Runtime: r})
	var first []string
	var addr string
	for e, err := range a.Watch(t.Context()) { // right from the first moment
		require.NoError(t, err)
		if e.Synced {
			break
		}
		first = append(first, e.Status.ID+" "+string(e.Status.Phase))
		if e.Status.ID == "web" {
			addr = e.Status.Addresses[0].Host
		}
	}
	assert.ElementsMatch(t, []string{"web running", "task running", "brief done"}, first)
	resp, err := http.Get("http://" + addr)
	require.NoError(t, err)
	resp.Body.Close()

	brief2 := until(t, a, "brief", is(cell.PhaseDone))
	assert.Equal(t, "STG: Exited with status 4", brief2.Failure)
	assert.Contains(t, brief2.Last, "short")
	require.NotNil(t, brief2.Exit)

	for l, err := range a.Logs(t.Context(), "task", 0) {
		require.NoError(t, err)
		if l.Text == "line 5000" { // now it listens to signals
			break
		}
	}
	containers, err := r.Containers(t.Context())
	require.NoError(t, err)
	for _, c := range containers {
		if c.Info().ID == "task" { // a signal from outside: the process is what it was
			run, err := c.(cell.Attacher).Attach(t.Context(), "main", cell.IO{})
			require.NoError(t, err)
			require.NoError(t, run.Signal(t.Context(), "TERM"))
		}
	}
	end := until(t, a, "task", is(cell.PhaseDone))
	require.NotNil(t, end.Exit)
	assert.Equal(t, 9, end.Exit.Code)
	n := 0
	for l, err := range a.Logs(t.Context(), "task", 0) {
		require.NoError(t, err)
		if l.Text == fmt.Sprintf("line %d", n+1) {
			n++
		}
	}
	assert.Equal(t, 5000, n, "lines in order")

	require.NoError(t, a.Stop(t.Context(), "web"))
	until(t, a, "web", func(e cell.Event) bool { return e.Gone })
	require.NoError(t, a.Stop(t.Context(), "brief"))
	until(t, a, "brief", func(e cell.Event) bool { return e.Gone })
}

func TestAWorkThatEndedMeanwhileIsFinished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := work("w", "out=up", "wait", "write=result:kept", "exit=0")
	w.Outputs = []cell.Output{{Path: "/home/vcap/result", Inline: true}}
	killedAgent(t, dir, w, cell.PhaseRunning)
	state := filepath.Join(dir, "containers", "w", "state", "main")
	out, err := lifecycle.OpenOutput(state)
	require.NoError(t, err)
	_, err = out.Next(t.Context()) // "up"
	require.NoError(t, err)
	require.NoError(t, lifecycle.SignalInit(state, syscall.SIGTERM))
	for err == nil {
		_, err = out.Next(t.Context())
	}
	out.Close()
	a := runAgent(t, cell.AgentConfig{Runtime: open(t, dir)})
	s := until(t, a, "w", is(cell.PhaseDone))
	assert.Empty(t, s.Failure)
	assert.Equal(t, "kept", string(s.Outputs["/home/vcap/result"].Data))
}

func TestAnInitThatVanishedIsALostWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	killedAgent(t, dir, work("w", "hang"), cell.PhaseRunning)
	s, err := lifecycle.InitState(filepath.Join(dir, "containers", "w", "state", "main"))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(s.PID, syscall.SIGKILL))
	a := runAgent(t, cell.AgentConfig{Runtime: open(t, dir)})
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
	assert.ErrorContains(t, err, fmt.Sprintf("is in use by process %d: end it, or give another folder", os.Getpid()))
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
