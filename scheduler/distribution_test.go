package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/cell"
)

// cluster makes n cells of 100 in two zones, with some instances of 1 of other apps each.
func cluster(n int, preload func(i int) int) *View {
	v := &View{}
	for i := range n {
		c := sized(fmt.Sprintf("cell-%03d", i), fmt.Sprint("z", i%2), 100)
		c.Total.Containers = 100
		v.join(c)
		for k := range preload(i) {
			runs(v, c.ID, fmt.Sprint("old-", i, "-", k), 1)
		}
	}
	return v
}

func none(int) int { return 0 }

// place places works in their order and counts the new ones by cell.
func place(p Spread, v *View, works []Want) (placed map[string]int, failed int) {
	placed = map[string]int{}
	for _, w := range works {
		id, err := p.Place(w, v)
		if err != nil {
			failed++
			continue
		}
		placed[id]++
		v.Commit(w, id)
	}
	return placed, failed
}

func unique(n int) (all []Want) {
	for i := range n {
		all = append(all, wants(fmt.Sprint("app-", i), 0, 1))
	}
	return all
}

func ofOneApp(n int) (all []Want) {
	for i := range n {
		all = append(all, wants("app", i, 1))
	}
	return all
}

// even holds that no cell's count is further from the mean than most.
func even(t *testing.T, what string, v *View, placed map[string]int, n, most int) {
	t.Helper()
	for _, c := range v.Cells {
		if d := placed[c.ID]*len(v.Cells) - n; d < -most*len(v.Cells) || d > most*len(v.Cells) {
			t.Errorf("%s, %d cells, %d works: %s has %d", what, len(v.Cells), n, c.ID, placed[c.ID])
		}
	}
}

// The distribution experiments of Cloud Foundry's auction (auctioneer:
// simulation/simulation_test.go).
func TestDistribution(t *testing.T) {
	t.Parallel()
	sizes := [][2]int{{8, 4}, {40, 10}, {200, 20}, {800, 40}} // works, cells
	for _, c := range sizes {
		v := cluster(c[1], none)
		placed, failed := place(Spread{}, v, unique(c[0]))
		assert.Zero(t, failed)
		even(t, "unique apps", v, placed, c[0], 1)
	}
	for _, c := range [][2]int{{2050, 25}, {8200, 100}} {
		v := cluster(c[1], none)
		rng := rand.New(rand.NewPCG(1, uint64(c[0])))
		var works []Want
		index := map[string]int{}
		for i, size := range mixture(c[0]) {
			app := fmt.Sprint("app-", i)
			if i%2 == 1 {
				app = fmt.Sprint("shared-", rng.IntN(12))
			}
			works = append(works, wants(app, index[app], size))
			index[app]++
		}
		Order(works)
		placed, _ := place(Spread{}, v, works)
		n := 0
		for _, k := range placed {
			n += k
		}
		even(t, "a mixture", v, placed, n, 10)
	}
	for _, c := range [][2]int{{500, 95}, {100, 99}} { // the empty cells are not flooded
		v := cluster(100, func(i int) int {
			if i < c[1] {
				return 50
			}
			return 0
		})
		placed, failed := place(Spread{}, v, unique(c[0]))
		assert.Zero(t, failed)
		even(t, "after a deploy", v, placed, c[0], 1)
	}
	for _, c := range [][2]int{{80, 10}, {200, 30}, {400, 100}} { // "Watters"
		v := cluster(c[1], func(i int) int { return 78 + i%3 })
		placed, failed := place(Spread{}, v, ofOneApp(c[0]))
		assert.Zero(t, failed)
		even(t, "nearly full", v, placed, c[0], 1)
	}
	// Two cells in one zone, a loaded one in the other: half of the instances in each zone.
	v := NewView(sized("z0-a", "z0", 100), sized("z0-b", "z0", 100), sized("z1-a", "z1", 100))
	for k := range 50 {
		runs(v, "z1-a", fmt.Sprint("old", k), 1)
	}
	placed, _ := place(Spread{}, v, ofOneApp(40))
	assert.Equal(t, 20, placed["z1-a"])
	assert.Equal(t, 20, placed["z0-a"]+placed["z0-b"])

	// The first large one has its place although the small ones are many.
	works := []Want{wants("red", 0, 50), wants("red", 1, 50)}
	works = append(works, unique(80)...)
	Order(works)
	v = cluster(1, none)
	placed, failed := place(Spread{}, v, works)
	assert.Equal(t, 51, placed["cell-000"])
	assert.Equal(t, 31, failed)
	assert.Equal(t, 1, v.Instances("red", v.Cells[0]))

	for _, weight := range []float64{0.25, 0.5, 0.75} {
		for _, c := range sizes {
			v := cluster(c[1], none)
			placed, failed := place(Spread{BinPack: weight}, v, unique(c[0]))
			assert.Zero(t, failed)
			zone := map[string]int{}
			last := map[string]int{}
			for _, c := range v.Cells {
				if before, ok := last[c.Zone]; ok {
					assert.LessOrEqual(t, placed[c.ID], before, "packed by %v, %s of %d", weight, c.ID, len(v.Cells))
				}
				last[c.Zone] = placed[c.ID]
				zone[c.Zone] += placed[c.ID]
			}
			assert.InDelta(t, zone["z0"], zone["z1"], 1, "packed by %v", weight)

			v = cluster(c[1], none)
			placed, failed = place(Spread{BinPack: weight}, v, ofOneApp(c[0]))
			assert.Zero(t, failed)
			even(t, "packed, one app", v, placed, c[0], 1)
		}
	}
}

// mixture gives sizes of 1, 2 and 4, of which half are 1.
func mixture(n int) []int64 {
	all := make([]int64, n)
	for i := range all {
		all[i] = []int64{1, 2, 1, 4}[i/2%4]
	}
	return all
}

// BenchmarkFill places instances on empty cells in three zones until all are placed: a fifth of
// them of apps of their own, the others of apps of ten. One operation is one instance.
func BenchmarkFill(b *testing.B) {
	for _, c := range []struct{ cells, instances int }{{100, 10_000}, {1000, 100_000}, {5000, 250_000}} {
		b.Run(fmt.Sprintf("cells=%d/instances=%d", c.cells, c.instances), func(b *testing.B) {
			works := make([]Want, c.instances)
			for i := range works {
				works[i] = wants(fmt.Sprint("app-", i/10), i%10, int64(1+i%4)<<8)
				if i%5 == 0 {
					works[i].LRP, works[i].Index = fmt.Sprint("single-", i), 0
				}
			}
			b.ReportAllocs()
			var v *View
			i := 0
			for b.Loop() {
				if i%len(works) == 0 {
					b.StopTimer()
					v = benchCluster(c.cells)
					v.indexed(0)
					b.StartTimer()
				}
				w := works[i%len(works)]
				i++
				id, err := Spread{}.Place(w, v)
				if err != nil {
					b.Fatal(err)
				}
				v.Commit(w, id)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "placed/s")
		})
	}
}

func benchCluster(n int) *View {
	v := &View{}
	for i := range n {
		c := sized(fmt.Sprintf("cell-%05d", i), fmt.Sprint("z", i%3), 1<<20)
		c.Total.Memory, c.Total.Disk = 64<<10, 64<<10
		v.join(c)
	}
	return v
}

// BenchmarkPlaceNearlyFull places one instance, and takes it away again, on cells that are 95 %
// full.
func BenchmarkPlaceNearlyFull(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("cells=%d", n), func(b *testing.B) {
			v := benchCluster(n)
			rng := rand.New(rand.NewPCG(7, uint64(n)))
			for i, c := range v.Cells {
				for k := 0; c.Used.Memory < c.Total.Memory*95/100; k++ {
					runs(v, c.ID, fmt.Sprint("app-", (i+k*n)/10), int64(256*(1+rng.IntN(8))))
				}
				c.Used.Memory = min(c.Used.Memory, c.Total.Memory)
			}
			v.index = nil
			v.indexed(0)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				w := wants(fmt.Sprint("app-", i%(10*n)), 10, int64(256*(1+i%8)))
				i++
				id, err := Spread{}.Place(w, v)
				if err != nil {
					continue
				}
				v.Commit(w, id)
				v.give(v.Cell(id), loadOf(w.LRP, w.Spec, true))
			}
		})
	}
}

// BenchmarkPlaceByLooking is the same with a look at each cell: what the index spares.
func BenchmarkPlaceByLooking(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("cells=%d", n), func(b *testing.B) {
			v := benchCluster(n)
			for b.Loop() {
				Spread{}.Explain(Want{LRP: "a", Spec: cell.Spec{Memory: 1, Disk: 1}}, v)
			}
		})
	}
}
