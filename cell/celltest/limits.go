package celltest

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// limits are the names that Resources.Enforced may have.
var limits = []string{"memory", "disk", "pids", "cpu", "nofile"}

// An app that listens on a port of its own choice is told which it should be, and which it is if
// that can be learned.
func testElsewhere(t *testing.T, c Cell) {
	neverHealthy(t, c, c.instance("w1", cell.Health{}, "elsewhere", "hang"), func(s cell.Status) bool {
		_, advice, _ := strings.Cut(s.Failure, "\n")
		if !strings.Contains(advice, "environment variable PORT names (here "+port(s)+")") {
			t.Errorf("status is %+v", s)
		}
		all := lines(t, c, s.ID)
		i := slices.IndexFunc(all, func(l logs.Line) bool { return strings.HasPrefix(l.Text, "elsewhere") })
		if i < 0 {
			return false // it has not come so far
		}
		other := strings.TrimPrefix(strings.TrimPrefix(all[i].Text, "elsewhere"), " ")
		return !strings.HasPrefix(advice, "the app listens on") || strings.HasPrefix(advice, "the app listens on port "+other+", not on "+port(s))
	})
}

// What a cell says that it enforces it does, and an app that may have ten open files is told so.
func testFiles(t *testing.T, c Cell) {
	st, err := c.State(t.Context())
	must(t, err)
	for _, l := range st.Total.Enforced {
		if !slices.Contains(limits, l) {
			t.Errorf("limit %q is not known", l)
		}
	}
	w := c.instance("w1", cell.Health{Type: "process"}, "open=100", "exit=3")
	w.Spec.NoFile = 50
	s := ended(t, c, w)
	if !slices.Contains(st.Total.Enforced, "nofile") {
		if s.Failure != "APP/PROC/WEB: Exited with status 3" {
			t.Errorf("the limit of files is not said to be enforced; status is %+v", s)
		}
		return
	}
	first, advice, _ := strings.Cut(s.Failure, "\n")
	if first != "APP/PROC/WEB: Exited with status 1" || !strings.Contains(advice, "may have 50 open files (nofile)") {
		t.Errorf("status is %+v", s)
	}
	if !slices.ContainsFunc(lines(t, c, "w1"), func(l logs.Line) bool { return strings.Contains(l.Text, "too many open files") }) {
		t.Error("it does not say that it has too many open files")
	}
}

// A work that takes more memory than it may is ended alone, and its owner reads the figure.
func testMemory(t *testing.T, c Cell) {
	st, err := c.State(t.Context())
	must(t, err)
	if !slices.Contains(st.Total.Enforced, "memory") {
		t.Skip("memory is not said to be enforced")
	}
	other := c.instance("w2", cell.Health{Type: "process"}, "eat=8", "hang")
	other.Spec.Memory = 64 << 20
	must(t, c.Start(t.Context(), other))
	until(t, c, "w2", "running", phase(cell.PhaseRunning))
	w := c.instance("w1", cell.Health{Type: "process"}, "out=before", "eat=256", "hang")
	w.Spec.Memory = 64 << 20
	s := ended(t, c, w)
	first, advice, _ := strings.Cut(s.Failure, "\n")
	if s.Reason != cell.ReasonExit || s.Exit == nil || !s.Exit.OutOfMemory || first != "APP/PROC/WEB: Exited with status 137 (out of memory)" ||
		!strings.Contains(advice, "its limit of 64M") {
		t.Errorf("status is %+v, exit %+v", s, s.Exit)
	}
	expectLines(t, lines(t, c, "w1"), "APP/PROC/WEB before", "APP/PROC/WEB Exit status 137 (out of memory)", "CELL "+advice)
	for e, err := range c.Watch(t.Context()) {
		must(t, err)
		if e.Status.ID == "w2" && e.Status.Phase != cell.PhaseRunning {
			t.Errorf("the other one is %+v", e.Status)
		}
		if e.Synced {
			break
		}
	}
	must(t, c.Stop(t.Context(), "w2"))
}

// A work that takes more than its disk is ended: by the Runtime, which lets it write no more, or by the
// cell that measures it.
func testDisk(t *testing.T, c Cell) {
	w := c.instance("w1", cell.Health{Type: "process"}, "write=big:"+strings.Repeat("x", 100_000), "hang")
	w.Spec.Disk = 50_000
	w.Process.Grace = patience // it is not waited for
	st, err := c.State(t.Context())
	must(t, err)
	if m, ok := c.Cell.(cell.WorkMeter); !slices.Contains(st.Total.Enforced, "disk") {
		must(t, c.Start(t.Context(), w))
		until(t, c, w.ID, "running", func(e cell.Event) bool {
			return e.Status.Phase == cell.PhaseRunning || e.Status.Phase == cell.PhaseDone
		})
		if !ok {
			t.Skip("its works are not measured")
		}
		if _, err := m.Usage(t.Context(), w.ID); errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		s := done(t, c, w.ID)
		first, advice, _ := strings.Cut(s.Failure, "\n")
		if s.Reason != cell.ReasonLimit || !strings.HasPrefix(first, "disk limit exceeded: ") || !strings.HasSuffix(first, " of 48.8K used") || !strings.Contains(advice, "raise the disk limit") {
			t.Errorf("status is %+v", s)
		}
		expectLines(t, lines(t, c, "w1"), "CELL "+first, "CELL "+advice)
		return
	}
	if s := ended(t, c, w); s.Exit == nil || s.Exit.Code != 1 || !strings.Contains(s.Failure, "no room left on its disk (limit 48.8K") {
		t.Errorf("status is %+v", s)
	}
	// What fits is written, and what it gives back is to be had again.
	w = c.instance("w2", cell.Health{Type: "process"}, "write=a:"+strings.Repeat("x", 30_000), "write=a:", "write=b:"+strings.Repeat("x", 30_000), "exit=7")
	w.Spec.Disk = 50_000
	if s := ended(t, c, w); s.Exit == nil || s.Exit.Code != 7 {
		t.Errorf("status is %+v", s)
	}
	// What is put in counts.
	w = c.instance("w3", cell.Health{Type: "process"}, "hang")
	w.Spec.Disk = 50_000
	w.Inputs = []cell.Input{{Source: cell.Source("inline:" + base64.StdEncoding.EncodeToString(archive(t, "big", strings.Repeat("x", 100_000)))), Dir: "/home/vcap/app"}}
	if s := ended(t, c, w); s.Reason != cell.ReasonLimit || !strings.Contains(s.Failure, "disk limit exceeded") || !strings.Contains(s.Failure, "48.8K") {
		t.Errorf("status is %+v", s)
	}
}

func testUsage(t *testing.T, c Cell) {
	m, ok := c.Cell.(cell.WorkMeter)
	if !ok {
		t.Skip("it does not tell what works take")
	}
	if _, err := m.Usage(t.Context(), "unknown"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Usage of no work gives %v, want fs.ErrNotExist", err)
	}
	w := c.instance("w1", cell.Health{Type: "process"}, "write=f:"+strings.Repeat("x", 100_000), "out=up", "hang")
	w.Sidecars = []cell.Process{c.Program("hang")}
	must(t, c.Start(t.Context(), w))
	for l, err := range c.Logs(t.Context(), "w1", 0) {
		must(t, err)
		if l.Text == "up" {
			break
		}
	}
	until(t, c, "w1", "running", phase(cell.PhaseRunning))
	u, err := m.Usage(t.Context(), "w1")
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	if u.Time.IsZero() || u.Disk < 100_000 || u.Processes != 2 || u.CPU < 0 || u.Memory < 0 {
		t.Errorf("usage is %+v", u)
	}
	must(t, c.Stop(t.Context(), "w1"))
}

// What a container takes is told of its processes as they come and go.
func testMeter(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	m, ok := c.(cell.Meter)
	if !ok {
		t.Skip("not a Meter")
	}
	before, err := m.Usage(t.Context())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	out := newLineWaiter("up")
	run, err := c.Run(t.Context(), r.program("write=f:"+strings.Repeat("x", 100_000), "out=up", "hang"), cell.IO{Stdout: out})
	must(t, err)
	<-out.got
	u, err := m.Usage(t.Context())
	must(t, err)
	if before.Processes != 0 || u.Processes != 1 || u.Disk-before.Disk < 100_000 || u.Time.Before(before.Time) {
		t.Errorf("usage was %+v, and is %+v", before, u)
	}
	must(t, run.Signal(t.Context(), "KILL"))
	wait(t, run)
	u, err = m.Usage(t.Context())
	must(t, err)
	if u.Processes != 0 || u.Memory != 0 || u.Disk-before.Disk < 100_000 {
		t.Errorf("when all have ended usage is %+v", u)
	}
	must(t, c.Destroy(t.Context()))
	if _, err := m.Usage(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Destroy Usage gives %v, want fs.ErrNotExist", err)
	}
}

func testPorts(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	l, ok := c.(cell.PortLister)
	if !ok {
		t.Skip("not a PortLister")
	}
	out := newLineWaiter("elsewhere")
	run, err := c.Run(t.Context(), r.program("elsewhere", "hang"), cell.IO{Stdout: out})
	must(t, err)
	<-out.got
	ports, err := l.Listening(t.Context())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	if len(ports) != 1 || !strings.HasPrefix(out.String(), "elsewhere "+strconv.Itoa(ports[0])) {
		t.Errorf("it says %q, and listens on %v", out.String(), ports)
	}
	must(t, run.Signal(t.Context(), "KILL"))
	wait(t, run)
	if ports, err = l.Listening(t.Context()); err != nil || len(ports) != 0 {
		t.Errorf("when it has ended it listens on %v (%v)", ports, err)
	}
}
