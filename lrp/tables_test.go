package lrp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
)

// The whole table of an instance's states, from each to each: with no key, the same, or another
// one. Where a state must have a key, or none, other rows are not well-formed.
func TestStateTableWhole(t *testing.T) {
	t.Parallel()
	const (
		none  = ""
		same  = "k1"
		other = "k2"
	)
	keyOf := map[State]string{Unclaimed: none, Claimed: same, Running: same, Crashed: none}
	yes := map[State]map[State][]string{
		Unclaimed: {Unclaimed: {none}, Claimed: {same, other}, Running: {same, other}},
		Claimed:   {Unclaimed: {none}, Claimed: {same}, Running: {same, other}, Crashed: {none}},
		Running:   {Unclaimed: {none}, Claimed: {same}, Running: {same}, Crashed: {none}},
		Crashed:   {Unclaimed: {none}},
	}
	rows := 0
	for _, from := range []State{Unclaimed, Claimed, Running, Crashed} {
		for _, to := range []State{Unclaimed, Claimed, Running, Crashed} {
			for _, key := range []string{none, same, other} {
				want := false
				for _, k := range yes[from][to] {
					want = want || k == key
				}
				rows++
				assert.Equal(t, want, in(from, keyOf[from]).CanBecome(in(to, key)), "%s %q → %s %q", from, keyOf[from], to, key)
			}
		}
	}
	assert.Equal(t, 48, rows)
	for name, change := range map[string]func(*Instance){
		"addresses while unclaimed":       func(i *Instance) { i.State, i.GUID, i.Cell, i.Addresses = Unclaimed, "", "", []cell.Address{{Port: 1}} },
		"addresses while claimed":         func(i *Instance) { i.State, i.Addresses = Claimed, []cell.Address{{Port: 1}} },
		"placement error while claimed":   func(i *Instance) { i.State, i.PlacementError = Claimed, "x" },
		"placement error while running":   func(i *Instance) { i.PlacementError = "x" },
		"placement error while crashed":   func(i *Instance) { i.State, i.GUID, i.Cell, i.PlacementError = Crashed, "", "", "x" },
		"a cell without a work":           func(i *Instance) { i.GUID = "" },
		"a work without a cell":           func(i *Instance) { i.Cell = "" },
		"no moment in which it became so": func(i *Instance) { i.Since = time.Time{} },
	} {
		i := in(Running, same)
		change(&i)
		assert.False(t, in(Claimed, same).CanBecome(i), name)
	}
}

func occupied(s State, as string) *Occupant {
	return &Occupant{GUID: as, Cell: "cell-" + as, State: s, Since: t0, Routable: s == Running}
}

// Which occupant represents an index.
func TestShown(t *testing.T) {
	t.Parallel()
	ord := func(s State) Row {
		r := Row{Instance: Instance{LRP: "a", State: s, Since: t0}}
		if s == Claimed || s == Running {
			r.GUID, r.Cell = "ord", "cell-ord"
		}
		return r
	}
	const sus, eva = "sus", "eva"
	for _, c := range []struct {
		ordinary, suspect, evacuating State // "": none
		shown                         string
		as                            Standing
		others                        []string
	}{
		{Running, "", "", "ord", Ordinary, nil},
		{Unclaimed, "", "", "", Ordinary, nil},
		// With a suspect: RUNNING ordinary, RUNNING suspect, CLAIMED suspect, the others.
		{Running, Running, "", "ord", Ordinary, []string{sus}},
		{Running, Claimed, "", "ord", Ordinary, nil},
		{Claimed, Running, "", sus, Suspect, nil},
		{Unclaimed, Running, "", sus, Suspect, nil},
		{Crashed, Running, "", sus, Suspect, nil},
		{Claimed, Claimed, "", sus, Suspect, nil},
		{Unclaimed, Claimed, "", sus, Suspect, nil},
		{Crashed, Claimed, "", sus, Suspect, nil},
		// With an evacuating one: it, while the instance waits or is made.
		{Unclaimed, "", Running, eva, Evacuating, nil},
		{Claimed, "", Running, eva, Evacuating, nil},
		{Running, "", Running, "ord", Ordinary, []string{eva}},
		{Crashed, "", Running, "", Ordinary, []string{eva}},
		// With both.
		{Unclaimed, Running, Running, sus, Suspect, []string{eva}},
		{Claimed, Claimed, Running, eva, Evacuating, nil},
		{Running, Running, Running, "ord", Ordinary, []string{sus, eva}},
	} {
		r := ord(c.ordinary)
		if c.suspect != "" {
			r.Suspect = occupied(c.suspect, sus)
		}
		if c.evacuating != "" {
			r.Evacuating = occupied(c.evacuating, eva)
		}
		got := r.Shown()
		what := []any{"%s with suspect %q and evacuating %q", c.ordinary, c.suspect, c.evacuating}
		assert.Equal(t, c.shown, got.GUID, what...)
		assert.Equal(t, c.as, got.Standing, what...)
		var others []string
		for _, o := range got.Others {
			others = append(others, o.GUID)
			assert.NotEmpty(t, o.Standing)
			assert.True(t, o.Routable)
		}
		assert.Equal(t, c.others, others, what...)
		assert.Empty(t, r.Standing, "what is shown is not what is stored")
	}
}

// The rows of Cloud Foundry's convergence. Domains are not needed: what is wanted is one database.
func TestConvergence(t *testing.T) {
	t.Parallel()
	run := Step(NewRow("a", 0, t0).Claim("c1", "g1", t0), status("g1", cell.PhaseRunning, t0), t0)
	crashed := func(n int) Row {
		r := NewRow("a", 0, t0)
		for i := range n {
			r = Step(r.Claim("c1", "g", t0), status("g", cell.PhaseDone, t0), t0)
			require.Equal(t, i+1, r.Crashes)
		}
		return r
	}
	withSuspect := func(r Row) Row { r.Suspect = occupied(Running, "sus"); return r }
	withEvacuating := func(r Row) Row {
		r.Evacuating = occupied(Running, "eva")
		r.Evacuating.Until = t0.Add(time.Minute)
		return r
	}
	un, claimed := NewRow("a", 0, t0), NewRow("a", 0, t0).Claim("c1", "g1", t0)
	at := func(p map[string]Presence) func(string) Presence {
		return func(id string) Presence {
			if x, ok := p[id]; ok {
				return x
			}
			return Present
		}
	}
	for name, c := range map[string]struct {
		rows  []Row
		want  int // instances; -1: the process is not desired
		cells map[string]Presence
		after time.Duration
		check func(t *testing.T, p Plan)
	}{
		"waiting: it is placed":   {[]Row{un}, 1, nil, 0, func(t *testing.T, p Plan) { assert.Len(t, p.Place, 1); assert.Empty(t, p.Put) }},
		"waiting, long: likewise": {[]Row{un}, 1, nil, time.Hour, func(t *testing.T, p Plan) { assert.Len(t, p.Place, 1) }},
		"claimed on a lost cell": {[]Row{claimed}, 1, map[string]Presence{"c1": Lost}, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Place, 1)
			assert.Equal(t, Claimed, p.Place[0].Suspect.State)
		}},
		"running on a lost cell": {[]Row{run}, 1, map[string]Presence{"c1": Lost}, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Place, 1)
			assert.Equal(t, "g1", p.Place[0].Suspect.GUID)
		}},
		"running on a cell that is silent briefly": {[]Row{run}, 1, map[string]Presence{"c1": Unknown}, 0, func(t *testing.T, p Plan) { assert.Equal(t, Plan{}, p) }},
		"crashed and due":                          {[]Row{crashed(3)}, 1, nil, 30 * time.Second, func(t *testing.T, p Plan) { assert.Len(t, p.Place, 1) }},
		"crashed and not due": {[]Row{crashed(3)}, 1, nil, 29 * time.Second, func(t *testing.T, p Plan) {
			assert.Empty(t, p.Place)
			assert.Equal(t, t0.Add(30*time.Second), p.Wake)
		}},
		"crashed 200 times": {[]Row{crashed(200)}, 1, nil, time.Hour, func(t *testing.T, p Plan) { assert.Equal(t, Plan{}, p) }},
		"too few":           {nil, 2, nil, 0, func(t *testing.T, p Plan) { assert.Len(t, p.Put, 2); assert.Len(t, p.Place, 2) }},
		"too many": {[]Row{run, {Instance: in1(run.Instance)}}, 1, nil, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Delete, 1)
			assert.Equal(t, 1, p.Delete[0].Index)
		}},
		"not desired":                    {[]Row{withSuspect(run)}, -1, nil, 0, func(t *testing.T, p Plan) { assert.Len(t, p.Delete, 1) }},
		"evacuating on a lost cell":      {[]Row{withEvacuating(claimed)}, 1, map[string]Presence{"cell-eva": Lost}, 0, evacuated},
		"evacuating, and its cell stays": {[]Row{withEvacuating(claimed)}, 1, nil, 0, func(t *testing.T, p Plan) { assert.Equal(t, "eva", p.Put[0].GUID) }},
		"evacuating, in its time":        {[]Row{withEvacuating(claimed)}, 1, map[string]Presence{"cell-eva": Draining}, 59 * time.Second, unchanged},
		"evacuating, too long":           {[]Row{withEvacuating(claimed)}, 1, map[string]Presence{"cell-eva": Draining}, time.Minute, evacuated},
		"evacuating, without a place": {[]Row{withEvacuating(without(un))}, 1, map[string]Presence{"cell-eva": Draining}, time.Minute, func(t *testing.T, p Plan) {
			require.Len(t, p.Put, 1)
			assert.Equal(t, t0.Add(11*time.Minute), p.Put[0].Evacuating.Until)
			assert.Len(t, p.Place, 1)
		}},
		"evacuating, and replaced": {[]Row{withEvacuating(run)}, 1, map[string]Presence{"cell-eva": Draining}, 0, evacuated},
		"on a draining cell, running": {[]Row{run}, 1, map[string]Presence{"c1": Draining}, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Place, 1)
			assert.Equal(t, "g1", p.Place[0].Evacuating.GUID)
			assert.Equal(t, t0.Add(DefaultEvacuation), p.Wake)
		}},
		"on a draining cell, claimed": {[]Row{claimed}, 1, map[string]Presence{"c1": Draining}, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Place, 1)
			assert.Nil(t, p.Place[0].Evacuating)
		}},
		"suspect, and its cell is back": {[]Row{withSuspect(claimed)}, 1, nil, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Put, 1)
			assert.Equal(t, "sus", p.Put[0].GUID)
			assert.Nil(t, p.Put[0].Suspect)
		}},
		"suspect, and its cell is back to drain": {[]Row{withSuspect(claimed)}, 1, map[string]Presence{"cell-sus": Draining}, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Put, 1)
			assert.Equal(t, "sus", p.Put[0].Evacuating.GUID)
			assert.Equal(t, "g1", p.Put[0].GUID, "the replacement goes on")
		}},
		"suspect and a running replacement": {[]Row{withSuspect(run)}, 1, map[string]Presence{"cell-sus": Lost}, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Put, 1)
			assert.Nil(t, p.Put[0].Suspect)
		}},
		"suspect and a replacement that does not run": {[]Row{withSuspect(claimed)}, 1, map[string]Presence{"cell-sus": Lost}, 0, unchanged},
		"suspect, and the replacement's cell is lost": {[]Row{withSuspect(claimed)}, 1, map[string]Presence{"cell-sus": Lost, "c1": Lost}, 0, func(t *testing.T, p Plan) {
			require.Len(t, p.Place, 1)
			assert.Equal(t, "sus", p.Place[0].Suspect.GUID)
		}},
		"no cells at all, waiting": {[]Row{un}, 1, map[string]Presence{"c1": Lost}, 0, func(t *testing.T, p Plan) { assert.Empty(t, p.Put); assert.Len(t, p.Place, 1) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &Desired{ID: "a", Instances: c.want}
			if c.want < 0 {
				d = nil
			}
			p := Reconcile(d, c.rows, at(c.cells), t0.Add(c.after))
			c.check(t, p)
			if len(c.rows) == 1 && len(p.Put) == 1 {
				again := Reconcile(d, p.Put, at(c.cells), t0.Add(c.after))
				assert.Empty(t, again.Put, "applied to its own result it changes nothing")
			}
		})
	}
}

func in1(i Instance) Instance { i.Index = 1; return i }

func without(r Row) Row { r.PlacementError = "insufficient resources"; return r }

func unchanged(t *testing.T, p Plan) { assert.Empty(t, p.Put); assert.Empty(t, p.Delete) }

func evacuated(t *testing.T, p Plan) {
	require.Len(t, p.Put, 1)
	assert.Nil(t, p.Put[0].Evacuating)
}

// Readiness decides whether an instance is routed, and when the one before it may go.
func TestRoutable(t *testing.T) {
	t.Parallel()
	s := status("g", cell.PhaseRunning, t0)
	s.NotReady = true
	r := NewRow("a", 0, t0).Claim("c", "g", t0)
	r.Evacuating = occupied(Running, "eva")
	r = Step(r, s, t0)
	assert.Equal(t, Running, r.State)
	assert.False(t, r.Routable)
	assert.NotNil(t, r.Evacuating, "it serves as long as the replacement does not")
	s.NotReady = false
	r = Step(r, s, t0)
	assert.True(t, r.Routable)
	assert.Nil(t, r.Evacuating)
	assert.True(t, r.Knows(&s))
	r = Step(r, status("g", cell.PhaseStopping, t0), t0)
	assert.False(t, r.Routable, "it is asked to stop")
	assert.Equal(t, Running, r.State)
}

// A move ends well, or leaves things as they were.
func TestMove(t *testing.T) {
	t.Parallel()
	d := &Desired{ID: "a", Instances: 1}
	run := Step(NewRow("a", 0, t0).Claim("c1", "g1", t0), status("g1", cell.PhaseRunning, t0), t0)
	moved := run.Move(t0.Add(time.Minute), t0).Claim("c2", "g2", t0)
	assert.Equal(t, "g1", moved.Shown().GUID)
	assert.Empty(t, Reconcile(d, []Row{moved}, present, t0).Put)
	assert.Nil(t, Step(moved, status("g2", cell.PhaseRunning, t0), t0).Evacuating)
	back := func(r Row, now time.Time) {
		t.Helper()
		p := Reconcile(d, []Row{r}, present, now)
		require.Len(t, p.Put, 1)
		assert.True(t, p.Put[0].Equal(&run), "%+v", p.Put[0])
		assert.Empty(t, p.Place)
	}
	back(moved.Unclaim(t0), t0)      // refused
	back(moved, t0.Add(time.Minute)) // too slow
	back(Lose(moved, "g2", t0), t0)  // lost
	gone := Lose(moved, "g1", t0)    // the original is lost
	assert.Nil(t, gone.Evacuating)
	assert.Equal(t, "g2", gone.GUID)
}
