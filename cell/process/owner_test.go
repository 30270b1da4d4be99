//go:build linux || darwin

package process_test

import (
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

func shell(id, script string) cell.Work {
	return cell.Work{ID: id, LRP: "l", Health: &cell.Health{Type: "process"}, Log: cell.LogTag{Source: "APP/PROC/WEB"},
		Process: cell.Process{Path: "/bin/sh", Args: []string{"-c", script}}}
}

// said returns the line that begins with a text.
func said(t *testing.T, a *cell.Agent, id, begin string) string {
	t.Helper()
	var all []string
	for l, err := range a.Logs(t.Context(), id, 0) {
		require.NoError(t, err)
		if strings.HasPrefix(l.Text, begin) {
			return l.Text
		}
		all = append(all, l.Text)
	}
	t.Fatalf("%s never says %q, but %q", id, begin, all)
	return ""
}

// The owner of an app that listens on a port of its own choice is told which.
func TestAnAppThatListensElsewhere(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("it cannot be learned here")
	}
	a := celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, t.TempDir())})
	p := program("elsewhere", "hang")
	w := cell.Work{LRP: "l", Spec: cell.Spec{Ports: []int{8080}}, Process: p}
	// It is a child of what the process started that listens, in a session of its own.
	w.Process = cell.Process{Path: "/bin/sh", Args: append([]string{"-c", `setsid "$0" "$@" & wait`, p.Path}, p.Args...), Env: p.Env}
	for timeout := 300 * time.Millisecond; ; timeout *= 2 { // until it comes so far that it listens
		w.ID, w.Health = timeout.String(), &cell.Health{StartTimeout: timeout}
		require.NoError(t, a.Start(t.Context(), w))
		s := until(t, a, w.ID, is(cell.PhaseDone))
		if timeout < patience && strings.Contains(s.Failure, "the app listens on no port") {
			continue
		}
		other := strings.TrimPrefix(said(t, a, w.ID, "elsewhere"), "elsewhere ")
		assert.Contains(t, s.Failure, "\nthe app listens on port "+other+", not on ")
		break
	}
}

// A command that puts itself into the background ends its instance, and what it has left ends with it.
func TestAnAppThatForksAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, dir)})
	require.NoError(t, a.Start(t.Context(), shell("w", "(setsid sleep 1000 &); sleep 1000 & exit 0")))
	s := until(t, a, "w", is(cell.PhaseDone))
	first, advice, _ := strings.Cut(s.Failure, "\n")
	assert.Equal(t, "APP/PROC/WEB: Exited with status 0", first)
	assert.Contains(t, advice, "keep it in the foreground")
	if runtime.GOOS == "linux" {
		noProcesses(t, dir)
	}
}

// An app that ignores SIGTERM goes on until it is killed, and its owner is told.
func TestAnAppThatIgnoresTerm(t *testing.T) {
	t.Parallel()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, t.TempDir())})
	w := shell("w", "trap '' TERM; echo up; while :; do sleep 1000 & wait; done")
	w.Process.Grace = 100 * time.Millisecond
	require.NoError(t, a.Start(t.Context(), w))
	until(t, a, "w", is(cell.PhaseRunning))
	var all []string
	for l, err := range a.Logs(t.Context(), "w", 0) {
		require.NoError(t, err)
		if all = append(all, l.Text); l.Text == "up" {
			require.NoError(t, a.Stop(t.Context(), "w"))
		}
	}
	assert.Contains(t, all, "Exit status 137 (exceeded 100ms graceful shutdown interval)")
	assert.Contains(t, strings.Join(all, "\n"), "did not end within 100ms of SIGTERM and was killed")
}

// An app that prints without end takes a bounded amount of memory and disk; others are not disturbed, and
// it can be stopped.
func TestAnAppThatFloodsItsLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, dir), LogLines: 1000, LogBytes: 1 << 20})
	require.NoError(t, a.Start(t.Context(), shell("flood", "yes this line comes again and again")))
	n := 0
	for l, err := range a.Logs(t.Context(), "flood", 0) {
		require.NoError(t, err)
		if l.Source == "APP/PROC/WEB" {
			n++
		}
		if n == 100_000 {
			break
		}
	}
	require.NoError(t, a.Start(t.Context(), shell("other", "echo fine; exit 4")))
	s := until(t, a, "other", is(cell.PhaseDone))
	assert.Equal(t, 4, s.Exit.Code)
	assert.Contains(t, s.Last, "fine")
	stopped(t, a, "flood")
	noProcesses(t, dir)
}

// What it says that it enforces it does, and it says nothing else: without control groups RLIMIT_NPROC, which could
// stand for pids, counts the processes of a user on the whole machine, ourselves included.
func TestEnforcedIsTheTruth(t *testing.T) {
	t.Parallel()
	r := openClean(t, t.TempDir())
	res, err := r.Capacity(t.Context())
	require.NoError(t, err)
	assert.Subset(t, []string{"nofile", "memory", "cpu", "pids"}, res.Enforced)
	assert.Contains(t, res.Enforced, "nofile")
	a := celltest.Agent(t, cell.AgentConfig{Runtime: r})
	w := shell("w", "ulimit -n; for i in 1 2 3 4 5; do sleep 1000 & done; echo five; wait")
	w.Spec = cell.Spec{PIDs: 1, Memory: 1 << 10, NoFile: 77} // far too little, if it counted
	if slices.Contains(res.Enforced, "pids") {
		w.Spec.PIDs = 8
	}
	if slices.Contains(res.Enforced, "memory") {
		w.Spec.Memory = 32 << 20
	}
	require.NoError(t, a.Start(t.Context(), w))
	said(t, a, "w", "77")
	said(t, a, "w", "five")
	stopped(t, a, "w")

	w = shell("bomb", "for i in $(seq 100); do sleep 1000 & done; echo hundred; wait")
	w.Spec = cell.Spec{PIDs: 20}
	require.NoError(t, a.Start(t.Context(), w))
	if !slices.Contains(res.Enforced, "pids") {
		said(t, a, "bomb", "hundred")
		stopped(t, a, "bomb")
		return
	}
	s := until(t, a, "bomb", is(cell.PhaseDone)) // the shell gives up
	assert.NotZero(t, s.Exit.Code)
	assert.Contains(t, strings.Join(s.Last, "\n"), "fork")
	stopped(t, a, "bomb")
}
