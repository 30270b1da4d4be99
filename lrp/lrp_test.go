package lrp

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-go/dewpoint/cell"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		crashes int
		wait    time.Duration
		again   bool
	}{
		{0, 0, true}, {1, 0, true}, {2, 0, true},
		{3, 30 * time.Second, true}, {4, 60 * time.Second, true}, {5, 120 * time.Second, true},
		{6, 4 * time.Minute, true}, {7, 8 * time.Minute, true}, {8, 16 * time.Minute, true},
		{9, 16 * time.Minute, true}, {199, 16 * time.Minute, true},
		{200, 0, false}, {201, 0, false},
	} {
		wait, again := Backoff(c.crashes)
		assert.Equal(t, c.wait, wait, "wait after %d", c.crashes)
		assert.Equal(t, c.again, again, "again after %d", c.crashes)
	}
}

// instance in a state, with key "k1", "k2" or "" for none.
func in(state State, key string) Instance {
	i := Instance{LRP: "a", State: state, Since: t0}
	if key != "" {
		i.GUID, i.Cell = "guid-"+key, "cell-"+key
	}
	return i
}

func TestStateTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to Instance
		ok       bool
	}{
		{in(Unclaimed, ""), in(Unclaimed, ""), true},
		{in(Unclaimed, ""), in(Claimed, "k1"), true},
		{in(Unclaimed, ""), in(Running, "k1"), true},
		{in(Unclaimed, ""), in(Crashed, ""), false},
		{in(Claimed, "k1"), in(Unclaimed, ""), true},
		{in(Claimed, "k1"), in(Claimed, "k1"), true},
		{in(Claimed, "k1"), in(Claimed, "k2"), false},
		{in(Claimed, "k1"), in(Running, "k1"), true},
		{in(Claimed, "k1"), in(Running, "k2"), true},
		{in(Claimed, "k1"), in(Crashed, ""), true},
		{in(Running, "k1"), in(Unclaimed, ""), true},
		{in(Running, "k1"), in(Claimed, "k1"), true},
		{in(Running, "k1"), in(Claimed, "k2"), false},
		{in(Running, "k1"), in(Running, "k1"), true},
		{in(Running, "k1"), in(Running, "k2"), false},
		{in(Running, "k1"), in(Crashed, ""), true},
		{in(Crashed, ""), in(Unclaimed, ""), true},
		{in(Crashed, ""), in(Claimed, "k1"), false},
		{in(Crashed, ""), in(Running, "k1"), false},
		{in(Crashed, ""), in(Crashed, ""), false},
		{in(Unclaimed, ""), in(Unclaimed, "k1"), false},
		{in(Unclaimed, ""), in(Claimed, ""), false},
		{in(Unclaimed, ""), in(Running, ""), false},
		{in(Running, "k1"), in(Crashed, "k1"), false},
	} {
		assert.Equal(t, c.ok, c.from.CanBecome(c.to), "%s %s → %s %s", c.from.State, c.from.GUID, c.to.State, c.to.GUID)
	}
	other := in(Claimed, "k1")
	other.LRP = "b"
	assert.False(t, in(Unclaimed, "").CanBecome(other), "another process")
	other = in(Claimed, "k1")
	other.Index = 1
	assert.False(t, in(Unclaimed, "").CanBecome(other), "another index")
	other = in(Claimed, "k1")
	other.Since = time.Time{}
	assert.False(t, in(Unclaimed, "").CanBecome(other), "since is never zero")
}

func status(guid string, p cell.Phase, since time.Time) cell.Status {
	return cell.Status{ID: guid, Phase: p, Since: since}
}

func TestStepCountsCrashes(t *testing.T) {
	t.Parallel()
	r := NewRow("a", 0, t0)
	now := t0
	for n := 1; n <= 201; n++ {
		r = r.Claim("c1", "g", now)
		s := status("g", cell.PhaseDone, now)
		s.Exit = &cell.Exit{Code: 17}
		s.Work = &cell.Work{Log: cell.LogTag{Source: "APP/PROC/WEB"}}
		r = Step(r, s, now)
		require.Equal(t, n, r.Crashes)
		require.Equal(t, "APP/PROC/WEB: Exited with status 17", r.LastCrash.Failure)
		wait, again := Backoff(n)
		switch {
		case n < 3:
			require.Equal(t, Unclaimed, r.State)
		case again:
			require.Equal(t, Crashed, r.State)
			require.Equal(t, now.Add(wait), r.Next)
			p := Reconcile(&Desired{ID: "a", Instances: 1}, []Row{r}, present, r.Next.Add(-1))
			require.Empty(t, p.Place)
			require.Equal(t, r.Next, p.Wake)
			now = r.Next
			p = Reconcile(&Desired{ID: "a", Instances: 1}, []Row{r}, present, now)
			require.Len(t, p.Place, 1)
			require.Equal(t, Unclaimed, p.Place[0].State)
			require.Equal(t, n, p.Place[0].Crashes)
		default:
			require.Equal(t, Crashed, r.State)
			require.Zero(t, r.Next)
			p := Reconcile(&Desired{ID: "a", Instances: 1}, []Row{r}, present, now.Add(time.Hour))
			require.Equal(t, Plan{}, p)
		}
	}
}

func TestStepForgetsOldCrashes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ran  time.Duration
		want int
	}{{time.Minute, 6}, {CrashReset, 6}, {CrashReset + 1, 1}} {
		r := NewRow("a", 0, t0)
		r.Crashes = 5
		r = r.Claim("c1", "g", t0)
		r = Step(r, status("g", cell.PhaseRunning, t0), t0)
		end := t0.Add(c.ran)
		// The control plane hears of it an hour later: the cell's own times count.
		r = Step(r, status("g", cell.PhaseDone, end), end.Add(time.Hour))
		assert.Equal(t, c.want, r.Crashes, "ran %v", c.ran)
		assert.Equal(t, end, r.LastCrash.Time)
	}
	r := NewRow("a", 0, t0).Claim("c1", "g", t0)
	r.Crashes = 5
	r = Step(r, status("g", cell.PhaseDone, t0.Add(time.Hour)), t0.Add(time.Hour))
	assert.Equal(t, 6, r.Crashes, "an hour of Claimed is not Running")
}

func TestStep(t *testing.T) {
	t.Parallel()
	r := NewRow("a", 0, t0).Claim("c1", "g", t0)
	assert.Equal(t, r, Step(r, status("other", cell.PhaseDone, t0), t0), "another work")
	assert.Equal(t, r, Step(r, status("", cell.PhaseDone, t0), t0), "no work")
	s := status("g", cell.PhaseRunning, t0.Add(time.Second))
	s.Addresses = []cell.Address{{Port: 8080, Host: "127.0.0.1:6000"}}
	run := Step(r, s, t0.Add(2*time.Second))
	assert.Equal(t, Running, run.State)
	assert.Equal(t, t0.Add(time.Second), run.Since)
	assert.Equal(t, s.Addresses, run.Addresses)
	assert.Equal(t, run, Step(run, s, t0.Add(time.Hour)), "repeated")
	assert.Equal(t, t0, Step(r, status("g", cell.PhaseRunning, t0.Add(time.Hour)), t0).Since, "a clock ahead")

	s = status("g", cell.PhaseDone, t0)
	s.Reason = cell.ReasonStopped
	stopped := Step(run, s, t0)
	assert.Equal(t, Unclaimed, stopped.State)
	assert.Zero(t, stopped.Crashes)

	s = status("g", cell.PhaseDone, t0)
	s.Failure = strings.Repeat("é", 1000)
	long := Step(run, s, t0)
	assert.Equal(t, strings.Repeat("é", 512), long.LastCrash.Failure)
}

func present(string) Presence { return Present }

func keys(rows []Row) []string {
	var k []string
	for _, r := range rows {
		k = append(k, r.Key())
	}
	return k
}

func TestReconcileCounts(t *testing.T) {
	t.Parallel()
	d := &Desired{ID: "a", Instances: 3}
	p := Reconcile(d, nil, present, t0)
	assert.Equal(t, []string{"a/0000000", "a/0000001", "a/0000002"}, keys(p.Put))
	assert.Equal(t, keys(p.Put), keys(p.Place))
	rows := p.Put
	rows[1] = rows[1].Claim("c1", "g1", t0)
	d.Instances = 1
	p = Reconcile(d, rows, present, t0)
	assert.Equal(t, []string{"a/0000001", "a/0000002"}, keys(p.Delete))
	assert.Empty(t, p.Put)
	p = Reconcile(nil, rows, present, t0)
	assert.Len(t, p.Delete, 3)
	d.Instances = 0
	p = Reconcile(d, rows, present, t0)
	assert.Len(t, p.Delete, 3, "crashed, claimed and waiting rows alike")
}

func TestReconcileLostCell(t *testing.T) {
	t.Parallel()
	d := &Desired{ID: "a", Instances: 1}
	where := map[string]Presence{"c1": Present, "c2": Present}
	at := func(id string) Presence { return where[id] }
	run := Step(NewRow("a", 0, t0).Claim("c1", "g1", t0), status("g1", cell.PhaseRunning, t0), t0)
	only := func(r Row) Row {
		t.Helper()
		p := Reconcile(d, []Row{r}, at, t0)
		require.Len(t, p.Put, 1)
		return p.Put[0]
	}

	where["c1"] = Unknown
	assert.Equal(t, Plan{}, Reconcile(d, []Row{run}, at, t0), "brief silence changes nothing")

	where["c1"] = Lost
	sus := only(run)
	assert.Equal(t, Unclaimed, sus.State)
	assert.Equal(t, "g1", sus.Suspect.GUID)
	assert.Equal(t, Running, sus.Shown().State, "it keeps its routes")
	assert.True(t, sus.Holds("c1", "g1"))

	repl := sus.Claim("c2", "g2", t0)
	assert.Equal(t, "g1", repl.Shown().GUID)
	assert.Equal(t, Plan{}, Reconcile(d, []Row{repl}, at, t0))

	// The replacement runs: the suspect is given up.
	got := Step(repl, status("g2", cell.PhaseRunning, t0), t0)
	assert.Nil(t, got.Suspect)
	assert.Equal(t, "g2", got.Shown().GUID)

	// The cell is back sooner: the replacement is given up.
	where["c1"] = Present
	got = only(repl)
	assert.Equal(t, "g1", got.GUID)
	assert.Equal(t, Running, got.State)
	assert.False(t, got.Holds("c2", "g2"))

	// It is back, without the work.
	assert.Nil(t, Lose(repl, "g1", t0).Suspect)
	assert.Nil(t, Step(repl, status("g1", cell.PhaseDone, t0), t0).Suspect)
	assert.Zero(t, Step(repl, status("g1", cell.PhaseDone, t0), t0).Crashes, "the crash of a suspect is not counted")

	// The replacement's cell is lost, too: the suspect stays the first one.
	where["c1"], where["c2"] = Lost, Lost
	got = only(repl)
	assert.Equal(t, "g1", got.Suspect.GUID)
	assert.Equal(t, Unclaimed, got.State)
}

// Any history of single steps obeys the state machine, and a second Reconcile finds nothing to do.
func TestAnyHistoryObeysTheStateTable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := t0
		d := &Desired{ID: "a", Instances: 1}
		where := map[string]Presence{}
		at := func(id string) Presence { return where[id] }
		r := NewRow("a", 0, now)
		n := 0
		check := func(next Row) {
			promoted := r.Suspect != nil && next.GUID == r.Suspect.GUID
			if !promoted && next.State != r.State && !r.CanBecome(next.Instance) {
				t.Fatalf("%+v became %+v", r, next)
			}
			if !next.wellFormed() {
				t.Fatalf("not well-formed: %+v", next)
			}
			r = next
		}
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Minute)).Draw(t, "d")))
			},
			"cell": func(t *rapid.T) {
				where[rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "cell")] = Presence(rapid.IntRange(0, 3).Draw(t, "presence"))
			},
			"status": func(t *rapid.T) {
				ids := []string{r.GUID, "none"}
				if r.Suspect != nil {
					ids = append(ids, r.Suspect.GUID)
				}
				check(Step(r, cell.Status{ID: rapid.SampledFrom(ids).Draw(t, "id"), Since: now, Phase: rapid.SampledFrom([]cell.Phase{cell.PhaseAccepted,
					cell.PhaseStarting, cell.PhaseRunning, cell.PhaseStopping, cell.PhaseDone}).Draw(t, "phase")}, now))
			},
			"lose": func(t *rapid.T) { check(Lose(r, r.GUID, now)) },
			"reconcile": func(t *rapid.T) {
				p := Reconcile(d, []Row{r}, at, now)
				for _, next := range p.Put {
					check(next)
				}
				if again := Reconcile(d, []Row{r}, at, now); len(again.Put) > 0 || len(again.Delete) > 0 {
					t.Fatalf("Reconcile changes its own result: %+v", again)
				}
				if r.State == Unclaimed {
					n++
					check(r.Claim(rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "cell"), string(rune('a'+n%26))+time.Duration(n).String(), now))
				}
			},
		})
	})
}

func TestWorkFor(t *testing.T) {
	t.Parallel()
	d := Desired{ID: "a", Work: cell.Work{Process: cell.Process{Path: "x"}, Log: cell.LogTag{App: "app", Source: "APP/PROC/WEB"}}}
	w := d.WorkFor(3, "guid")
	assert.Equal(t, "guid", w.ID)
	assert.Equal(t, "a", w.LRP)
	assert.Equal(t, 3, w.Index)
	assert.Equal(t, 3, w.Log.Index)
	assert.Equal(t, DefaultGrace, w.Process.Grace)
	assert.Equal(t, "process", w.Health.Type)
	assert.Nil(t, d.Work.Health, "the template is untouched")
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := Desired{ID: "a-1", Instances: 2, Work: cell.Work{Spec: cell.Spec{Memory: 1, Ports: []int{8080}}, Process: cell.Process{Path: "x", Env: []string{"A=b"}}}}
	require.NoError(t, Validate(good))
	for want, change := range map[string]func(*Desired){
		"instances is -1: use 0":              func(d *Desired) { d.Instances = -1 },
		`id "a/b": use`:                       func(d *Desired) { d.ID = "a/b" },
		`id "": use`:                          func(d *Desired) { d.ID = "" },
		"memory is -1":                        func(d *Desired) { d.Work.Spec.Memory = -1 },
		"pids is -5":                          func(d *Desired) { d.Work.Spec.PIDs = -5 },
		"cpu is 101":                          func(d *Desired) { d.Work.Spec.CPU = 101 },
		"port 0: use 1 to 65535":              func(d *Desired) { d.Work.Spec.Ports = []int{0} },
		"port 80 is there twice":              func(d *Desired) { d.Work.Spec.Ports = []int{80, 80} },
		"process has no path":                 func(d *Desired) { d.Work.Process.Path = "" },
		"sidecar 0 has no path":               func(d *Desired) { d.Work.Sidecars = []cell.Process{{}} },
		"environment entry 0":                 func(d *Desired) { d.Work.Process.Env = []string{"secret"} },
		`health type "port" needs a port`:     func(d *Desired) { d.Work.Spec.Ports, d.Work.Health = nil, &cell.Health{Type: "port"} },
		`health type "magic"`:                 func(d *Desired) { d.Work.Health = &cell.Health{Type: "magic"} },
		"annotation has 10241 bytes":          func(d *Desired) { d.Annotation = strings.Repeat("x", 10241) },
		"work must leave id, lrp and index":   func(d *Desired) { d.Work.ID = "x" },
		"work has a timeout":                  func(d *Desired) { d.Work.Timeout = 1 },
		"bytes as JSON":                       func(d *Desired) { d.Work.Process.Args = []string{strings.Repeat("x", MaxWork)} },
		`stack "s" and image "i": use one of`: func(d *Desired) { d.Work.Spec.Stack, d.Work.Spec.Image = "s", "i" },
	} {
		d := good
		change(&d)
		err := Validate(d)
		if assert.Error(t, err, want) {
			assert.Contains(t, err.Error(), want)
			assert.NotContains(t, err.Error(), "secret")
		}
	}
}
