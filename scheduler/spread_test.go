package scheduler

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-go/dewpoint/cell"
)

// sized is a cell that answers, with n of memory and disk.
func sized(id, zone string, n int64) *CellView {
	return &CellView{ID: id, Zone: zone, Reachable: true,
		Total: cell.Resources{Memory: n, Disk: n, Containers: 1000, Stacks: []string{"linux"}, Isolation: "namespaces"}}
}

func wants(lrp string, index int, n int64) Want {
	return Want{LRP: lrp, Index: index, Spec: cell.Spec{Memory: n, Disk: n}}
}

// runs counts a work that runs on a cell already.
func runs(v *View, cellID, lrp string, n int64) {
	v.take(v.Cell(cellID), loadOf(lrp, cell.Spec{Memory: n, Disk: n}, false))
}

// schedule places works as Order says, and tells what became of each, in that order.
func schedule(p Spread, v *View, works ...Want) (placed []string, failed map[string]string) {
	works = append([]Want(nil), works...)
	Order(works)
	failed = map[string]string{}
	for _, w := range works {
		name := fmt.Sprintf("%s.%d", w.LRP, w.Index)
		if w.LRP == "" {
			name = fmt.Sprint("task ", w.Spec.Memory)
		}
		id, err := p.Place(w, v)
		if err != nil {
			failed[name] = err.(*PlacementError).Text
			continue
		}
		v.Commit(w, id)
		placed = append(placed, name+"→"+id)
	}
	return placed, failed
}

// The table of Cloud Foundry's auction (auctioneer: auctionrunner/scheduler_test.go).
func TestAuction(t *testing.T) {
	t.Parallel()
	few := []Want{wants("pg7", 0, 10), wants("pg7", 1, 10), wants("pg8", 1, 40), wants("pg8", 2, 40), wants("", 0, 10), wants("", 0, 20)}
	windows := func(w Want) Want { w.Spec.Stack = "windows"; return w }
	two := func() *View {
		v := NewView(sized("A", "A-zone", 100), sized("B", "B-zone", 100))
		runs(v, "A", "pg1", 10)
		runs(v, "A", "pg2", 10)
		return v
	}
	const insufficient = "insufficient resources: disk, memory"
	for name, c := range map[string]struct {
		v      func() *View
		works  []Want
		placed []string
		failed map[string]string
	}{
		"no cells": {func() *View { return NewView() }, few[:1], nil, map[string]string{"pg7.0": "unable to communicate to compatible cells"}},
		"everything fits": {func() *View { return NewView(sized("c", "", 130)) }, few,
			[]string{"pg7.0→c", "task 20→c", "task 10→c", "pg8.1→c", "pg7.1→c", "pg8.2→c"}, map[string]string{}},
		"the first instance only": {func() *View { return NewView(sized("c", "", 10)) }, few, []string{"pg7.0→c"},
			map[string]string{"task 10": insufficient, "task 20": insufficient, "pg7.1": insufficient, "pg8.1": insufficient, "pg8.2": insufficient}},
		"tasks before further instances": {func() *View { return NewView(sized("c", "", 45)) }, few, []string{"pg7.0→c", "task 20→c", "task 10→c"},
			map[string]string{"pg7.1": insufficient, "pg8.1": insufficient, "pg8.2": insufficient}},
		"the large ones of an index first": {func() *View { return NewView(sized("c", "", 95)) }, few,
			[]string{"pg7.0→c", "task 20→c", "task 10→c", "pg8.1→c", "pg7.1→c"}, map[string]string{"pg8.2": insufficient}},
		"no room for the small one then": {func() *View { return NewView(sized("c", "", 80)) }, few,
			[]string{"pg7.0→c", "task 20→c", "task 10→c", "pg8.1→c"}, map[string]string{"pg7.1": insufficient, "pg8.2": insufficient}},
		"the largest task": {func() *View { return NewView(sized("c", "", 31)) }, []Want{wants("", 0, 10), wants("", 0, 20), wants("", 0, 30)},
			[]string{"task 30→c"}, map[string]string{"task 10": insufficient, "task 20": insufficient}},
		"two zones": {func() *View {
			v := two()
			runs(v, "B", "pg3", 10)
			runs(v, "B", "pg4", 20)
			return v
		}, []Want{wants("pg3", 1, 40), wants("pg2", 1, 5), windows(wants("pg-nope", 1, 1)), wants("", 0, 40), wants("", 0, 5), windows(wants("", 0, 1))},
			[]string{"task 40→A", "task 5→B", "pg3.1→A", "pg2.1→B"},
			map[string]string{"task 1": "found no compatible cell for required rootfs", "pg-nope.1": "found no compatible cell for required rootfs"}},
		"the zone without an instance, although more loaded": {func() *View {
			v := two()
			runs(v, "B", "pg3", 10)
			return v
		}, []Want{wants("pg3", 1, 10)}, []string{"pg3.1→A"}, map[string]string{}},
		"zones tie: the less loaded": {func() *View {
			v := two()
			runs(v, "B", "pg3", 10)
			return v
		}, []Want{wants("pg4", 1, 10)}, []string{"pg4.1→B"}, map[string]string{}},
		"what all lack": {two, []Want{{LRP: "pg4", Index: 1, Spec: cell.Spec{Memory: 1000, Disk: 50}}}, nil,
			map[string]string{"pg4.1": "insufficient resources: memory"}},
		"what all lack, both": {two, []Want{wants("pg4", 1, 1000)}, nil, map[string]string{"pg4.1": insufficient}},
		"nothing that all lack": {func() *View {
			v := NewView(sized("A", "", 100), sized("B", "", 100), sized("C", "", 100))
			v.Cell("A").Used.Memory, v.Cell("B").Used.Memory, v.Cell("C").Used.Disk = 95, 95, 95
			return v
		}, []Want{wants("x", 0, 10)}, nil, map[string]string{"x.0": "insufficient resources"}},
		// The documentation's example: load 2, 5, 4 and 3.
		"documentation": {func() *View { return NewView(sized("c", "", 100)) },
			[]Want{wants("A", 1, 2), wants("A", 0, 2), wants("A", 2, 2), wants("B", 0, 5), wants("B", 1, 5), wants("", 0, 4), wants("", 0, 3)},
			[]string{"B.0→c", "A.0→c", "task 4→c", "task 3→c", "B.1→c", "A.1→c", "A.2→c"}, map[string]string{}},
	} {
		placed, failed := schedule(Spread{}, c.v(), c.works...)
		assert.Equal(t, c.placed, placed, name)
		assert.Equal(t, c.failed, failed, name)
	}
}

func TestPlacementTags(t *testing.T) {
	t.Parallel()
	tags := func(s ...string) []string { return s }
	// One cell (rep: resources_test.go).
	for i, c := range []struct {
		required, optional, want []string
		ok                       bool
	}{
		{nil, nil, nil, true}, {nil, nil, tags("foo"), false},
		{tags("foo", "bar"), nil, nil, false}, {tags("foo", "bar"), nil, tags("foo"), false}, {tags("foo", "bar"), nil, tags("foo", "bar"), true},
		{nil, tags("foo"), nil, true}, {nil, tags("foo"), tags("foo"), true}, {nil, tags("foo"), tags("bar"), false},
		{tags("foo"), tags("bar"), nil, false}, {tags("foo"), tags("bar"), tags("bar"), false}, {tags("foo"), tags("bar"), tags("foo"), true},
		{tags("foo"), tags("bar"), tags("foo", "bar"), true}, {tags("foo"), tags("bar"), tags("foo", "bar", "baz"), false},
	} {
		assert.Equal(t, c.ok, tagged(c.want, &CellView{Tags: c.required, OptionalTags: c.optional}), "row %d", i)
	}
	// Several (auctioneer: auctionrunner/scheduler_test.go).
	v := NewView(
		&CellView{ID: "z1-1", Zone: "z1", Tags: tags("quack", "moo"), OptionalTags: tags("chirp"), Reachable: true},
		&CellView{ID: "z1-2", Zone: "z1", Reachable: true},
		&CellView{ID: "z2-1", Zone: "z2", Tags: tags("quack"), OptionalTags: tags("chirp", "baa"), Reachable: true},
		&CellView{ID: "z2-2", Zone: "z2", Tags: tags("quack", "moo", "oink"), Reachable: true},
	)
	for want, w := range map[string][]string{
		"z1-1": tags("moo", "quack"), "z2-1": tags("quack", "chirp"), "z1-2": nil,
		`found no compatible cell with placement tags "oink" and "kakaaaaa"`:      tags("oink", "kakaaaaa"),
		`found no compatible cell with placement tag "x"`:                         tags("x"),
		`found no compatible cell with placement tags "quack", "moo" and "bleat"`: tags("quack", "moo", "bleat"),
	} {
		got, err := Spread{}.Place(Want{LRP: "a", Spec: cell.Spec{Tags: w}}, v)
		if err != nil {
			got = err.(*PlacementError).Text
		}
		assert.Equal(t, want, got)
	}
	_, err := Spread{}.Place(Want{LRP: "a"}, NewView(&CellView{ID: "c", Tags: tags("x"), OptionalTags: tags("y"), Reachable: true}))
	assert.EqualError(t, err, "found no compatible cell with no placement tags (1 cell: has the tags x, y (optional))")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	big := func(mem, disk int64) Want { return Want{LRP: "x", Spec: cell.Spec{Memory: mem, Disk: disk}} }
	for _, c := range []struct {
		name string
		with func(a, b, c *CellView) Want
		want string
	}{
		{"all lack both", func(_, _, _ *CellView) Want { return big(500, 500) }, "insufficient resources: disk, memory (3 cells: lacks disk, memory, even when empty; 500B of disk asked for, a cell has at most 100B; 500B of memory asked for, a cell has at most 100B)"},
		{"no slot either", func(a, b, c *CellView) Want {
			for _, m := range []*CellView{a, b, c} {
				m.Total.Containers, m.Used.Containers = 1, 1
			}
			return big(500, 500)
		}, "insufficient resources: containers, disk, memory (3 cells: lacks disk, memory, even when empty; 500B of disk asked for, a cell has at most 100B; 500B of memory asked for, a cell has at most 100B)"},
		{"slots only", func(a, b, c *CellView) Want {
			for _, m := range []*CellView{a, b, c} {
				m.Total.Containers, m.Used.Containers = 1, 1
			}
			return big(1, 1)
		}, "insufficient resources: containers (3 cells: lacks containers)"},
		{"disk only", func(_, _, _ *CellView) Want { return big(1, 500) }, "insufficient resources: disk (3 cells: lacks disk, even when empty; 500B of disk asked for, a cell has at most 100B)"},
		{"nothing in common", func(a, b, c *CellView) Want {
			a.Used.Memory, b.Used.Memory, c.Used.Disk = 100, 100, 100
			return big(10, 10)
		}, "insufficient resources (2 cells: lacks memory; 1 cell: lacks disk)"},
		{"rootfs", func(_, _, _ *CellView) Want {
			return Want{Spec: cell.Spec{Stack: "windows"}}
		}, `found no compatible cell for required rootfs (3 cells: has no stack "windows")`},
		{"isolation", func(_, _, _ *CellView) Want {
			return Want{Spec: cell.Spec{Isolation: "containerd"}}
		}, `found no compatible cell with isolation "containerd" (3 cells: isolates by "namespaces", not by "containerd")`},
		{"silent", func(a, b, c *CellView) Want {
			a.Reachable, b.Reachable, c.Draining = false, false, true
			return big(1, 1)
		}, "unable to communicate to compatible cells (2 cells: does not answer; 1 cell: is draining)"},
		{"the most advanced rule speaks", func(a, b, _ *CellView) Want {
			a.Reachable = false
			b.Total.Stacks = nil
			return Want{Spec: cell.Spec{Stack: "linux", Memory: 200}}
		}, `insufficient resources: memory (1 cell: does not answer; 1 cell: has no stack "linux"; 1 cell: lacks memory, even when empty; 200B of memory asked for, a cell has at most 100B)`},
		{"refused before", func(_, _, _ *CellView) Want {
			w := big(10, 10)
			w.Avoid = map[string]string{"a": "insufficient resources: memory", "b": "insufficient resources: disk, memory", "c": "insufficient resources: memory"}
			return w
		}, "insufficient resources: memory (2 cells: refused: insufficient resources: memory; 1 cell: refused: insufficient resources: disk, memory)"},
	} {
		one, two, three := sized("a", "A", 100), sized("b", "A", 100), sized("c", "B", 100)
		w := c.with(one, two, three)
		_, err := Spread{}.Place(w, NewView(one, two, three))
		var p *PlacementError
		if assert.ErrorAs(t, err, &p, c.name) {
			assert.Equal(t, c.want, err.Error(), c.name)
		}
	}
}

func TestIsolationLevels(t *testing.T) {
	t.Parallel()
	for want, takes := range map[string][]string{
		"": {"", "memory", "none", "landlock", "namespaces", "containerd"}, "none": {"none", "landlock", "namespaces", "containerd"},
		"landlock": {"landlock", "namespaces", "containerd"}, "containerd": {"containerd"}, "memory": {"memory"}, "magic": {"magic"},
	} {
		for _, have := range []string{"", "memory", "none", "landlock", "namespaces", "containerd", "magic"} {
			ok := false
			for _, x := range takes {
				ok = ok || x == have
			}
			assert.Equal(t, ok || want == "", isolates(want, have), "%q on %q", want, have)
		}
	}
}

// randomView draws a View in the middle of its life: cells of several kinds that joined, changed
// and left, with loads.
func randomView(t *rapid.T) *View {
	v := &View{}
	if rapid.Bool().Draw(t, "early") {
		v.indexed(0) // the index is there from the beginning, and kept up to date
	}
	draw := func() *CellView {
		return &CellView{
			ID: fmt.Sprint("c", rapid.IntRange(0, 99).Draw(t, "id")), Zone: rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "zone"),
			Tags: rapid.SampledFrom([][]string{nil, nil, nil, {"t"}}).Draw(t, "tags"), OptionalTags: rapid.SampledFrom([][]string{nil, {"o"}}).Draw(t, "optional"),
			Total: cell.Resources{
				Memory: rapid.SampledFrom([]int64{0, 20, 20, 35}).Draw(t, "memory"), Disk: rapid.SampledFrom([]int64{0, 40}).Draw(t, "disk"),
				Containers: rapid.SampledFrom([]int{0, 9}).Draw(t, "containers"),
			},
			Reachable: rapid.IntRange(0, 6).Draw(t, "silent") > 0, Draining: rapid.IntRange(0, 6).Draw(t, "draining") == 0,
		}
	}
	for range rapid.IntRange(1, 9).Draw(t, "cells") {
		if c := draw(); v.Cell(c.ID) == nil {
			v.join(c)
		}
	}
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		if len(v.Cells) == 0 {
			break
		}
		c := rapid.SampledFrom(v.Cells).Draw(t, "cell")
		w := wants(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "lrp"), 0, rapid.Int64Range(0, 6).Draw(t, "size"))
		switch rapid.IntRange(0, 12).Draw(t, "what") {
		case 0:
			d := draw()
			v.describe(c, d.Zone, d.Tags, d.OptionalTags, d.Total, d.Draining, d.Reachable)
		case 1:
			v.reachable(c, !c.Reachable)
		case 2:
			v.leave(c)
		case 3:
			if d := draw(); v.Cell(d.ID) == nil {
				v.join(d)
			}
		case 4:
			if n := v.Instances("a", c); n > 0 {
				v.give(c, loadOf("a", cell.Spec{}, false))
			}
		default:
			v.take(c, loadOf(w.LRP, w.Spec, rapid.Bool().Draw(t, "starting")))
		}
		if rapid.IntRange(0, 4).Draw(t, "ask") == 0 {
			v.indexed(0)
		}
	}
	return v
}

// What the index finds is what a look at every cell finds.
func TestTheIndexAnswersAsALookAtEachCellWould(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := randomView(t)
		w := wants(rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "want"), 0, rapid.Int64Range(0, 12).Draw(t, "size"))
		w.Spec.Tags = rapid.SampledFrom([][]string{nil, nil, {"t"}, {"o"}}).Draw(t, "tags")
		if len(v.Cells) > 0 && rapid.Bool().Draw(t, "avoids") {
			w.Avoid = map[string]string{rapid.SampledFrom(v.Cells).Draw(t, "avoid").ID: "no"}
		}
		p := Spread{BinPack: rapid.SampledFrom([]float64{0, 0, 0.25}).Draw(t, "pack")}
		e := p.Explain(w, v)
		got, err := p.Place(w, v)
		if got != e.Cell || (err == nil) != (e.Cell != "") {
			t.Fatalf("got %q (%v), want %q of %+v", got, err, e.Cell, e.Candidates)
		}
		if err != nil && err.Error() != e.Err.Error() {
			t.Fatalf("got %v, want %v", err, e.Err)
		}
	})
}

// What is taken of a cell comes back whole, whatever the order.
func TestAccounting(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &Member{id: "a", view: *sized("a", "A", 100), loads: map[string]load{}}
		s := &Core{}
		s.view.join(&m.view)
		for range rapid.IntRange(0, 60).Draw(t, "n") {
			guid := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "guid")
			if rapid.Bool().Draw(t, "load") {
				lrp := map[string]string{"1": "", "2": "a", "3": "a", "4": "b"}[guid]
				s.load(m, &cell.Work{LRP: lrp, Spec: cell.Spec{Memory: 3, Disk: 5}}, guid, rapid.Bool().Draw(t, "starting"))
			} else {
				s.unload(m, guid)
			}
			n := len(m.loads)
			if u := m.view.Used; u.Containers != n || u.Memory != int64(3*n) || u.Disk != int64(5*n) {
				t.Fatalf("%d loads, used %+v", n, u)
			}
		}
		for _, g := range []string{"1", "2", "3", "4"} {
			s.unload(m, g)
		}
		if m.view.Starting != 0 || m.view.Tasks != 0 || s.view.starting != 0 || len(s.view.spread) != 0 || m.view.Used.Containers != 0 {
			t.Fatalf("left: %+v %v", m.view, s.view.spread)
		}
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	v := NewView(sized("a", "A", 100), sized("b", "A", 100), sized("c", "B", 100), sized("d", "B", 5))
	runs(v, "a", "app", 10)
	v.Commit(wants("other", 0, 20), "c")
	e := Spread{}.Explain(wants("app", 1, 10), v)
	assert.Equal(t, "c", e.Cell)
	assert.Equal(t, 3, e.Fitting)
	assert.Equal(t, []Refusal{{Rule: "lacks disk, memory, even when empty", Cells: 1}}, e.Refused)
	require.Len(t, e.Candidates, 3)
	assert.Equal(t, "c", e.Candidates[0].Cell)
	assert.InDelta(t, 0.25, e.Candidates[0].Starting, 1e-9)
	assert.InDelta(t, (0.3+0.3+0.002)/3, e.Candidates[0].Resources, 1e-9)
	assert.Equal(t, "b", e.Candidates[1].Cell, "of a zone with an instance")
	assert.InDelta(t, 1000, e.Candidates[2].Colocated, 1e-9)
	assert.Equal(t, 1, e.Candidates[2].InZone)

	e = Spread{}.Explain(wants("app", 1, 1000), v)
	assert.Empty(t, e.Cell)
	assert.EqualError(t, e.Err, "insufficient resources: disk, memory (4 cells: lacks disk, memory, even when empty; 1000B of disk asked for, a cell has at most 100B; 1000B of memory asked for, a cell has at most 100B)")
}
