package celltest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// Cell is a cell.Cell under test. It runs, has at least 64 MiB of memory, and nothing on it.
type Cell struct {
	cell.Cell
	// Program returns the process that runs the suites' program, as in Runtime.
	Program func(args ...string) cell.Process
}

// RunCell tests a Cell. Open returns one that runs until t ends.
func RunCell(t *testing.T, open func(t *testing.T) Cell) {
	cases := []struct {
		name string
		test func(t *testing.T, c Cell)
	}{
		{"TaskRunsToItsEnd", testTask},
		{"TaskThatFails", testTaskFails},
		{"StartIsIdempotent", testStartTwice},
		{"StopForgets", testStop},
		{"StopGivesGrace", testGrace},
		{"StopOfUnknownAndLogsOfUnknown", testUnknown},
		{"WatchBeginsWithEverything", testWatch},
		{"RefusesWhatDoesNotFit", testRefuses},
		{"InputsAndOutputs", testInputs},
		{"InputWithAWrongDigest", testWrongDigest},
		{"OptionalInput", testOptional},
		{"OutputTooLarge", testTooLarge},
		{"OutputsAfterFailure", testOnFailure},
		{"Timeout", testTimeout},
		{"Environment", testEnvironment},
		{"LogsResume", testLogs},
		{"RunTask", testRunTask},
		{"RunTaskCancelled", testRunTaskCancelled},
	}
	for _, c := range append(cases, healthCases...) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

func (c Cell) work(id string, args ...string) cell.Work {
	p := c.Program(args...)
	if p.Dir == "" {
		p.Dir = "/home/vcap"
	}
	return cell.Work{ID: id, Process: p, Log: cell.LogTag{App: "app-1", Source: "STG"}}
}

// instance makes a work that is an instance of a process.
func (c Cell) instance(id string, h cell.Health, args ...string) cell.Work {
	w := c.work(id, args...)
	w.Log.Source, w.LRP, w.Index, w.Health = "APP/PROC/WEB", "lrp-1", 2, &h
	if h.Type != "process" {
		w.Spec.Ports = []int{8080}
	}
	return w
}

// idle tells that nothing is taken.
func idle(st cell.State) bool {
	return st.Free.Memory == st.Total.Memory && st.Free.Disk == st.Total.Disk && st.Free.Containers == st.Total.Containers
}

// until watches until ok, and returns that Event.
func until(t *testing.T, c Cell, id, what string, ok func(cell.Event) bool) cell.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last cell.Event
	for e, err := range c.Watch(ctx) {
		must(t, err)
		if e.Status.ID != id {
			continue
		}
		if last = e; ok(e) {
			return e
		}
	}
	t.Fatalf("work %s never was %s; it was last %+v", id, what, last)
	return last
}

func phase(p cell.Phase) func(cell.Event) bool {
	return func(e cell.Event) bool { return e.Status.Phase == p }
}

func done(t *testing.T, c Cell, id string) cell.Status {
	t.Helper()
	return until(t, c, id, "done", phase(cell.PhaseDone)).Status
}

// ended starts a work and waits for its end.
func ended(t *testing.T, c Cell, w cell.Work) cell.Status {
	t.Helper()
	must(t, c.Start(t.Context(), w))
	return done(t, c, w.ID)
}

func lines(t *testing.T, c Cell, id string) []logs.Line {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []logs.Line
	for l, err := range c.Logs(ctx, id, 0) {
		must(t, err)
		all = append(all, l)
	}
	if ctx.Err() != nil {
		t.Fatalf("the lines of %s do not end", id)
	}
	return all
}

func texts(all []logs.Line) []string {
	out := make([]string, len(all))
	for i, l := range all {
		out[i] = l.Source + " " + l.Text
	}
	return out
}

func expectLines(t *testing.T, have []logs.Line, want ...string) {
	t.Helper()
	got := texts(have)
	at := 0
	for _, w := range want {
		i := slices.Index(got[at:], w)
		if i < 0 {
			t.Errorf("line %q is missing, or not in its place:\n%s", w, strings.Join(got, "\n"))
			return
		}
		at += i + 1
	}
}

func inline(b []byte) cell.Source {
	return cell.Source("inline:" + base64.StdEncoding.EncodeToString(b))
}

func testTask(t *testing.T, c Cell) {
	s := ended(t, c, c.work("w1", "out=hello", "err=oops", "raw=no line feed"))
	if s.Exit == nil || s.Exit.Code != 0 || s.Failure != "" || s.Reason != "" || s.Work == nil || s.Work.ID != "w1" {
		t.Errorf("status is %+v", s)
	}
	st, err := c.State(t.Context())
	must(t, err)
	all := lines(t, c, "w1")
	expectLines(t, all,
		"STG Cell "+st.ID+" creating container for instance w1",
		"STG Cell "+st.ID+" successfully created container for instance w1",
		"STG hello", "STG no line feed", "STG Exit status 0",
		"STG Cell "+st.ID+" destroying container for instance w1",
		"STG Cell "+st.ID+" successfully destroyed container for instance w1")
	var pos logs.Position
	for _, l := range all {
		if l.App != "app-1" || l.Instance != "w1" || l.Time.IsZero() || l.Pos <= pos || l.Stderr != (l.Text == "oops") {
			t.Errorf("line is %+v", l)
		}
		pos = l.Pos
	}
	if len(s.Last) == 0 || !slices.Contains(s.Last, "hello") {
		t.Errorf("the last lines are %q", s.Last)
	}
	if !idle(st) {
		t.Errorf("after the work %+v is free of %+v", st.Free, st.Total)
	}
}

func testTaskFails(t *testing.T, c Cell) {
	s := ended(t, c, c.work("w1", "exit=223"))
	if s.Exit == nil || s.Exit.Code != 223 || s.Failure != "STG: Exited with status 223" || s.Reason != cell.ReasonExit {
		t.Errorf("status is %+v", s)
	}
	expectLines(t, lines(t, c, "w1"), "STG Exit status 223")
}

func testStartTwice(t *testing.T, c Cell) {
	w := c.work("w1", "out=once")
	must(t, c.Start(t.Context(), w))
	must(t, c.Start(t.Context(), w))
	done(t, c, "w1")
	must(t, c.Start(t.Context(), w))
	n := 0
	for _, s := range texts(lines(t, c, "w1")) {
		if s == "STG once" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the work ran %d times", n)
	}
}

func testStop(t *testing.T, c Cell) {
	must(t, c.Start(t.Context(), c.work("w1", "out=up", "hang")))
	until(t, c, "w1", "running", phase(cell.PhaseRunning))
	watch := make(chan cell.Event, 1)
	ready := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for e, err := range c.Watch(ctx) {
			if err != nil {
				break
			}
			if e.Synced {
				close(ready)
			}
			if e.Gone {
				watch <- e
				return
			}
		}
		watch <- cell.Event{}
	}()
	<-ready
	must(t, c.Stop(t.Context(), "w1"))
	must(t, c.Stop(t.Context(), "w1"))
	if e := <-watch; !e.Gone || e.Status.ID != "w1" || e.Status.Reason != cell.ReasonStopped {
		t.Fatalf("the end is %+v, want Gone", e)
	}
	for e, err := range c.Watch(t.Context()) {
		must(t, err)
		if e.Synced {
			break
		}
		t.Errorf("after Stop Watch tells %+v", e)
	}
	st, err := c.State(t.Context())
	must(t, err)
	if !idle(st) {
		t.Errorf("%+v is free of %+v", st.Free, st.Total)
	}
}

func testGrace(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{Type: "process"}, "out=up", "wait", "out=goodbye", "exit=0")
	w.Process.Grace = patience
	must(t, c.Start(t.Context(), w))
	var got []logs.Line
	for l, err := range c.Logs(t.Context(), "w1", 0) {
		must(t, err)
		if got = append(got, l); l.Text == "up" {
			must(t, c.Stop(t.Context(), "w1"))
		}
	}
	st, err := c.State(t.Context())
	must(t, err)
	expectLines(t, got, "APP/PROC/WEB up", "CELL Cell "+st.ID+" stopping instance w1")
	expectLines(t, got, "APP/PROC/WEB up", "APP/PROC/WEB goodbye", "APP/PROC/WEB Exit status 0",
		"CELL Cell "+st.ID+" successfully destroyed container for instance w1")

	w = c.instance("w2", cell.Health{Type: "process"}, "out=up", "hang")
	w.Process.Grace = 10 * time.Millisecond
	must(t, c.Start(t.Context(), w))
	got = nil
	for l, err := range c.Logs(t.Context(), "w2", 0) {
		must(t, err)
		if got = append(got, l); l.Text == "up" {
			must(t, c.Stop(t.Context(), "w2"))
		}
	}
	expectLines(t, got, "APP/PROC/WEB Exit status 137 (exceeded 10ms graceful shutdown interval)")
}

func testUnknown(t *testing.T, c Cell) {
	must(t, c.Stop(t.Context(), "unknown"))
	n := 0
	for _, err := range c.Logs(t.Context(), "unknown", 0) {
		if n++; !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Logs of no work gives %v, want fs.ErrNotExist", err)
		}
	}
	if n != 1 {
		t.Errorf("Logs of no work yields %d times", n)
	}
}

func testWatch(t *testing.T, c Cell) {
	for _, id := range ids(5) {
		ended(t, c, c.work(id, "exit=0"))
	}
	seen := map[string]bool{}
	synced, told := false, uint64(0)
	for e, err := range c.Watch(t.Context()) {
		must(t, err)
		told = max(told, e.Changes)
		if e.Synced {
			synced = true
			for _, id := range ids(5) {
				if !seen[id] {
					t.Errorf("%s is not told before Synced", id)
				}
			}
			must(t, c.Stop(t.Context(), ids(1)[0]))
		}
		seen[e.Status.ID] = e.Status.Phase == cell.PhaseDone
		st, err := c.State(t.Context())
		must(t, err)
		if told > st.Changes {
			t.Errorf("Watch has told %d changes, State counts %d", told, st.Changes)
		}
		if synced && e.Gone && told == st.Changes {
			return // all that is counted is told
		}
	}
}

func testRefuses(t *testing.T, c Cell) {
	st, err := c.State(t.Context())
	must(t, err)
	w := c.work("w1", "exit=0")
	w.Spec.Memory, w.Spec.Disk = st.Total.Memory+1, st.Total.Disk+1
	var refused *cell.RefusedError
	if err := c.Start(t.Context(), w); !errors.As(err, &refused) || refused.Reason != "insufficient resources: disk, memory" {
		t.Errorf("Start gives %v", err)
	}
	one := c.work("w2", "hang")
	one.Spec.Memory = st.Total.Memory
	must(t, c.Start(t.Context(), one))
	two := c.work("w3", "exit=0")
	two.Spec.Memory = 1
	if err := c.Start(t.Context(), two); !errors.As(err, &refused) || refused.Reason != "insufficient resources: memory" {
		t.Errorf("Start gives %v", err)
	}
	must(t, c.Stop(t.Context(), "w2"))
}

func testTimeout(t *testing.T, c Cell) {
	w := c.work("w1", "hang")
	w.Timeout = 200 * time.Millisecond
	s := ended(t, c, w)
	if s.Failure != "exceeded 200ms timeout" || s.Reason != cell.ReasonTimeout {
		t.Errorf("status is %+v", s)
	}
}

func testEnvironment(t *testing.T, c Cell) {
	names := []string{"MINE", "PORT", "VCAP_APP_PORT", "VCAP_APP_HOST", "INSTANCE_GUID", "INSTANCE_INDEX", "CF_INSTANCE_GUID", "CF_INSTANCE_INDEX",
		"CF_INSTANCE_IP", "CF_INSTANCE_INTERNAL_IP", "CF_INSTANCE_PORT", "CF_INSTANCE_ADDR", "CF_INSTANCE_PORTS"}
	args := make([]string, len(names))
	for i, n := range names {
		args[i] = "env=" + n
	}
	expect := func(w cell.Work, want map[string]string) {
		t.Helper()
		all := lines(t, c, w.ID)
		for _, n := range names {
			expectLines(t, all, w.Log.Source+" "+n+"="+want[n])
		}
	}
	w := c.instance("w1", cell.Health{Type: "process"}, args...)
	w.Process.Env = append(w.Process.Env, "MINE=yes", "PORT=1", "CF_INSTANCE_INDEX=7") // what the cell knows better, it says
	w.Spec.Ports = []int{8080, 9090}
	s := ended(t, c, w)
	if len(s.Addresses) != 2 {
		t.Fatalf("addresses are %v", s.Addresses)
	}
	a, b := s.Addresses[0], s.Addresses[1]
	host, external, _ := strings.Cut(a.Host, ":")
	_, second, _ := strings.Cut(b.Host, ":")
	expect(w, map[string]string{"MINE": "yes", "PORT": port(s), "VCAP_APP_PORT": port(s), "VCAP_APP_HOST": "0.0.0.0",
		"INSTANCE_GUID": "w1", "INSTANCE_INDEX": "2", "CF_INSTANCE_GUID": "w1", "CF_INSTANCE_INDEX": "2",
		"CF_INSTANCE_IP": host, "CF_INSTANCE_INTERNAL_IP": host, "CF_INSTANCE_PORT": external, "CF_INSTANCE_ADDR": a.Host,
		"CF_INSTANCE_PORTS": fmt.Sprintf(`[{"external":%s,"internal":%d},{"external":%s,"internal":%d}]`, external, a.Port, second, b.Port)})
	// A task has no index, and this one no port.
	w = c.work("w2", args...)
	ended(t, c, w)
	expect(w, map[string]string{"INSTANCE_GUID": "w2", "CF_INSTANCE_GUID": "w2", "CF_INSTANCE_PORTS": "[]",
		"CF_INSTANCE_IP": "127.0.0.1", "CF_INSTANCE_INTERNAL_IP": "127.0.0.1"})
}

// port is what an instance is told as PORT.
func port(s cell.Status) string { return strconv.Itoa(s.Addresses[0].Port) }

// Drainer is what a Cell is expected to be if it can be told to take no more work.
type Drainer interface{ Drain(on bool) }

func testDrain(t *testing.T, c Cell) {
	d, ok := c.Cell.(Drainer)
	if !ok {
		t.Skip("it cannot be told to drain")
	}
	must(t, c.Start(t.Context(), c.work("w1", "out=up", "wait", "exit=3")))
	until(t, c, "w1", "running", phase(cell.PhaseRunning))
	d.Drain(true)
	st, err := c.State(t.Context())
	must(t, err)
	var refused *cell.RefusedError
	if err := c.Start(t.Context(), c.work("w2", "exit=0")); !st.Draining || !errors.As(err, &refused) || refused.Reason != "evacuating" {
		t.Errorf("while it drains its state is %+v, and Start gives %v", st, err)
	}
	if err := c.Start(t.Context(), c.work("w1", "exit=0")); err != nil {
		t.Errorf("Start of what it has gives %v", err)
	}
	until(t, c, "w1", "still running", phase(cell.PhaseRunning))
	d.Drain(false)
	if st, err = c.State(t.Context()); err != nil || st.Draining {
		t.Errorf("afterwards its state is %+v (%v)", st, err)
	}
	ended(t, c, c.work("w2", "exit=0"))
	must(t, c.Stop(t.Context(), "w1"))
}

func testLogs(t *testing.T, c Cell) {
	ended(t, c, c.work("w1", "lines=1000"))
	all := lines(t, c, "w1")
	var rest []logs.Line
	for l, err := range c.Logs(t.Context(), "w1", all[500].Pos) {
		must(t, err)
		rest = append(rest, l)
	}
	if !slices.Equal(rest, all[501:]) {
		t.Errorf("from the middle come %d lines, want %d", len(rest), len(all)-501)
	}
	rest = nil
	for l, err := range c.Logs(t.Context(), "w1", all[len(all)-1].Pos+1000) {
		must(t, err)
		rest = append(rest, l)
	}
	if !slices.Equal(rest, all) {
		t.Errorf("from a place beyond the end, which is that of another stream, come %d lines, want all %d", len(rest), len(all))
	}
}

func testRunTask(t *testing.T, c Cell) {
	var got []logs.Line
	s, err := cell.Tasks{Cell: c.Cell}.RunTask(t.Context(), c.work("w1", "lines=2000", "exit=3"), func(l logs.Line) { got = append(got, l) })
	must(t, err)
	if s.Exit == nil || s.Exit.Code != 3 {
		t.Errorf("status is %+v", s)
	}
	expectLines(t, got, "STG line 1", "STG line 2000", "STG Exit status 3")
}

func testRunTaskCancelled(t *testing.T, c Cell) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := cell.Tasks{Cell: c.Cell}.RunTask(ctx, c.work("w1", "out=up", "hang"), func(l logs.Line) {
		if l.Text == "up" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("RunTask gives %v, want context.Canceled", err)
	}
	for e, err := range c.Watch(t.Context()) {
		must(t, err)
		if e.Synced {
			break
		}
		t.Errorf("the cell still knows %+v", e)
	}
}
