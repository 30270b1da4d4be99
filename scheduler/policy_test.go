package scheduler

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-go/dewpoint/cell"
)

// floor is a Scheduler without a database, for its accounting only.
func floor(cells ...*CellView) (*Scheduler, []*member) {
	s := &Scheduler{view: View{spread: map[string]map[string]int{}}}
	var ms []*member
	for _, c := range cells {
		m := &member{id: c.ID, view: *c, loads: map[string]load{}}
		m.view.Reachable = true
		ms = append(ms, m)
		s.view.Cells = append(s.view.Cells, &m.view)
	}
	return s, ms
}

func (s *Scheduler) put(ms []*member, cellID, lrp string, index int, size int64) {
	for _, m := range ms {
		if m.id == cellID {
			w := cell.Work{LRP: lrp, Index: index, Spec: cell.Spec{Memory: size, Disk: size}}
			s.load(m, w, fmt.Sprint(lrp, "-", index, "-", len(m.loads)), false)
		}
	}
}

func size(id, zone string, n int64) *CellView {
	return &CellView{ID: id, Zone: zone, Total: cell.Resources{Memory: n, Disk: n, Containers: 1000, Stacks: []string{"linux"}, Isolation: "namespaces"}}
}

func wants(lrp string, index int, n int64) Want {
	return Want{LRP: lrp, Index: index, Spec: cell.Spec{Memory: n, Disk: n}}
}

func TestSpreadPrefersZonesThenScore(t *testing.T) {
	t.Parallel()
	s, ms := floor(size("a", "A", 100), size("b", "B", 100))
	s.put(ms, "a", "pg-1", 0, 10)
	s.put(ms, "a", "pg-2", 0, 10)
	s.put(ms, "b", "pg-3", 0, 10)
	got, err := Spread{}.Place(wants("pg-3", 1, 10), &s.view)
	require.NoError(t, err)
	assert.Equal(t, "a", got, "the zone without an instance, although more loaded")
	got, err = Spread{}.Place(wants("pg-4", 1, 10), &s.view)
	require.NoError(t, err)
	assert.Equal(t, "b", got, "zones tie: the less loaded")
	w := wants("pg-4", 0, 50)
	w.Spec.Memory = 1000
	_, err = Spread{}.Place(w, &s.view)
	assert.Equal(t, "insufficient resources: memory (2 cells: lacks memory)", err.Error())
}

func TestSpreadRefusals(t *testing.T) {
	t.Parallel()
	big := func(mem, disk int64) Want { return Want{LRP: "x", Spec: cell.Spec{Memory: mem, Disk: disk}} }
	for _, c := range []struct {
		name string
		with func([]*member) Want
		want string
	}{
		{"all lack both", func([]*member) Want { return big(500, 500) }, "insufficient resources: disk, memory (3 cells: lacks disk, memory)"},
		{"no slot either", func(ms []*member) Want {
			for _, m := range ms {
				m.view.Total.Containers, m.view.Used.Containers = 1, 1
			}
			return big(500, 500)
		}, "insufficient resources: containers, disk, memory (3 cells: lacks containers, disk, memory)"},
		{"nothing in common", func(ms []*member) Want {
			ms[0].view.Used.Memory, ms[1].view.Used.Memory, ms[2].view.Used.Disk = 100, 100, 100
			return big(10, 10)
		}, "insufficient resources (2 cells: lacks memory; 1 cell: lacks disk)"},
		{"rootfs", func([]*member) Want {
			return Want{Spec: cell.Spec{Stack: "windows"}}
		}, `found no compatible cell for required rootfs (3 cells: has no stack "windows")`},
		{"isolation", func([]*member) Want {
			return Want{Spec: cell.Spec{Isolation: "containerd"}}
		}, `found no compatible cell with isolation "containerd" (3 cells: isolates by "namespaces", not by "containerd")`},
		{"silent", func(ms []*member) Want {
			ms[0].view.Reachable, ms[1].view.Reachable, ms[2].view.Draining = false, false, true
			return big(1, 1)
		}, "unable to communicate to compatible cells (2 cells: does not answer; 1 cell: is draining)"},
		{"the most advanced rule speaks", func(ms []*member) Want {
			ms[0].view.Reachable = false
			ms[1].view.Total.Stacks = nil
			return Want{Spec: cell.Spec{Stack: "linux", Memory: 200}}
		}, `insufficient resources: memory (1 cell: does not answer; 1 cell: has no stack "linux"; 1 cell: lacks memory)`},
		{"refused before", func([]*member) Want {
			w := big(10, 10)
			w.Avoid = map[string]string{"a": "insufficient resources: memory", "b": "insufficient resources: disk, memory", "c": "insufficient resources: memory"}
			return w
		}, "insufficient resources: memory (2 cells: refused: insufficient resources: memory; 1 cell: refused: insufficient resources: disk, memory)"},
	} {
		s, ms := floor(size("a", "A", 100), size("b", "A", 100), size("c", "B", 100))
		_, err := Spread{}.Place(c.with(ms), &s.view)
		var p *PlacementError
		if assert.ErrorAs(t, err, &p, c.name) {
			assert.Equal(t, c.want, err.Error(), c.name)
		}
	}
}

func TestSpreadIsolation(t *testing.T) {
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

// fill places works one after the other and counts them by cell; refused are -1.
func fill(s *Scheduler, ms []*member, lrps []string, sizes []int64) (placed map[string]int, failed int) {
	placed = map[string]int{}
	index := map[string]int{}
	byID := map[string]*member{}
	for _, m := range ms {
		byID[m.id] = m
	}
	for i, l := range lrps {
		w := wants(l, index[l], sizes[i])
		index[l]++
		id, err := Spread{}.Place(w, &s.view)
		if err != nil {
			failed++
			continue
		}
		placed[id]++
		s.load(byID[id], cell.Work{LRP: l, Spec: w.Spec}, fmt.Sprint(i), true)
	}
	return placed, failed
}

// The distribution experiments of Cloud Foundry's auction, 12.8 in our reference: no cell's
// count of new instances is further from the mean than Max.
func TestSpreadDistribution(t *testing.T) {
	t.Parallel()
	build := func(n int, preload func(i int) int) (*Scheduler, []*member) {
		var cells []*CellView
		for i := range n {
			c := size(fmt.Sprintf("cell-%03d", i), fmt.Sprint("z", i%2), 100)
			c.Total.Containers = 100
			cells = append(cells, c)
		}
		s, ms := floor(cells...)
		for i, m := range ms {
			for k := range preload(i) {
				s.load(m, cell.Work{LRP: fmt.Sprint("old-", i, "-", k), Spec: cell.Spec{Memory: 1, Disk: 1}}, fmt.Sprint("old", k), false)
			}
		}
		return s, ms
	}
	check := func(t *testing.T, ms []*member, placed map[string]int, n, most int) {
		t.Helper()
		for _, m := range ms {
			d := placed[m.id]*len(ms) - n
			if d < -most*len(ms) || d > most*len(ms) {
				t.Errorf("%d cells, %d works: %s has %d", len(ms), n, m.id, placed[m.id])
			}
		}
	}
	ones := func(n int) []int64 {
		o := make([]int64, n)
		for i := range o {
			o[i] = 1
		}
		return o
	}
	unique := func(n int) (l []string) {
		for i := range n {
			l = append(l, fmt.Sprint("app-", i))
		}
		return l
	}
	same := func(n int) (l []string) {
		for range n {
			l = append(l, "app")
		}
		return l
	}
	empty := func(int) int { return 0 }
	for _, c := range [][2]int{{8, 4}, {40, 10}, {200, 20}, {800, 40}} {
		s, ms := build(c[1], empty)
		placed, failed := fill(s, ms, unique(c[0]), ones(c[0]))
		assert.Zero(t, failed)
		check(t, ms, placed, c[0], 1)
	}
	for _, c := range [][2]int{{500, 95}, {100, 99}} { // after a deploy: the empty cells are not flooded
		s, ms := build(100, func(i int) int {
			if i < c[1] {
				return 50
			}
			return 0
		})
		placed, failed := fill(s, ms, unique(c[0]), ones(c[0]))
		assert.Zero(t, failed)
		check(t, ms, placed, c[0], 1)
	}
	for _, c := range [][2]int{{80, 10}, {200, 30}, {400, 100}} { // "Watters"
		s, ms := build(c[1], func(i int) int { return 78 + i%3 })
		placed, failed := fill(s, ms, same(c[0]), ones(c[0]))
		assert.Zero(t, failed)
		check(t, ms, placed, c[0], 1)
	}
	// Zones: two cells in one, a loaded one in the other: half of the instances in each.
	s, ms := floor(size("z0-a", "z0", 100), size("z0-b", "z0", 100), size("z1-a", "z1", 100))
	for k := range 50 {
		s.put(ms, "z1-a", fmt.Sprint("old", k), 0, 1)
	}
	placed, _ := fill(s, ms, same(40), ones(40))
	assert.Equal(t, 20, placed["z1-a"])
	assert.Equal(t, 20, placed["z0-a"]+placed["z0-b"])
}

// What is taken of a cell comes back whole, whatever the order.
func TestAccounting(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ms := floor(size("a", "A", 100))
		m := ms[0]
		for range rapid.IntRange(0, 60).Draw(t, "n") {
			guid := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "guid")
			if rapid.Bool().Draw(t, "load") {
				lrp := map[string]string{"1": "", "2": "a", "3": "a", "4": "b"}[guid]
				s.load(m, cell.Work{LRP: lrp, Spec: cell.Spec{Memory: 3, Disk: 5}}, guid, rapid.Bool().Draw(t, "starting"))
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
		if m.view.Starting != 0 || m.view.Tasks != 0 || len(s.view.spread) != 0 || m.view.Used.Containers != 0 {
			t.Fatalf("left: %+v %v", m.view, s.view.spread)
		}
	})
}

// BenchmarkPlace places one instance on cells that run 100 each, of apps of 10.
func BenchmarkPlace(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("cells=%d/instances=%d", n, 100*n), func(b *testing.B) {
			var cells []*CellView
			for i := range n {
				cells = append(cells, size(fmt.Sprintf("cell-%05d", i), fmt.Sprint("z", i%3), 1<<20))
			}
			s, ms := floor(cells...)
			for i := range 100 * n {
				m := ms[i%n]
				s.load(m, cell.Work{LRP: fmt.Sprint("app-", i/10), Spec: cell.Spec{Memory: int64(1 + i%7), Disk: 1}}, fmt.Sprint(i), false)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				w := wants(fmt.Sprint("app-", i%(10*n)), 10, 4)
				i++
				if _, err := (Spread{}).Place(w, &s.view); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Place takes short cuts; what it finds is what the rules say when they are taken at their word.
func TestSpreadIsTheLowest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var cells []*CellView
		for i := range rapid.IntRange(1, 6).Draw(t, "cells") {
			c := size(fmt.Sprint("c", i), rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "zone"), rapid.Int64Range(5, 20).Draw(t, "size"))
			cells = append(cells, c)
		}
		s, ms := floor(cells...)
		for i := range rapid.IntRange(0, 30).Draw(t, "works") {
			m := rapid.SampledFrom(ms).Draw(t, "cell")
			l := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "lrp")
			s.load(m, cell.Work{LRP: l, Spec: cell.Spec{Memory: 1, Disk: 1}}, fmt.Sprint(i), rapid.Bool().Draw(t, "starting"))
		}
		for _, m := range ms {
			m.view.Draining = rapid.IntRange(0, 5).Draw(t, "draining") == 0
		}
		w := wants(rapid.SampledFrom([]string{"", "a"}).Draw(t, "want"), 0, rapid.Int64Range(1, 9).Draw(t, "memory"))
		mine := s.view.Instances(w.LRP)
		zones := map[string]int{}
		for _, c := range s.view.Cells {
			zones[c.Zone] += mine[c.ID]
		}
		want := ""
		var wantZone int
		var wantScore float64
		for _, c := range s.view.Cells {
			if c.Draining || lacks(w.Spec, c) != 0 {
				continue
			}
			z, p := zones[c.Zone], score(w, c)+localityWeight*float64(mine[c.ID])
			if want == "" || z < wantZone || z == wantZone && p < wantScore {
				want, wantZone, wantScore = c.ID, z, p
			}
		}
		got, err := Spread{}.Place(w, &s.view)
		if got != want || (err == nil) != (want != "") {
			t.Fatalf("got %q (%v), want %q", got, err, want)
		}
	})
}
