package scheduler

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

var benchTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// benchProcess is a process as an app has it, with some environment.
func benchProcess(i int) lrp.Desired {
	return lrp.Desired{ID: lrp.ID(fmt.Sprintf("%08d-0000-4000-8000-000000000000-1a2b3c4d", i)), Instances: 10, Work: cell.Work{
		Spec:    cell.Spec{Memory: 256 << 20, Disk: 1 << 30, Stack: "cflinuxfs4", Ports: []int{8080}},
		Process: cell.Process{Path: "lifecycle:launcher", Args: []string{"app", "./server", ""}, Env: []string{"VCAP_APPLICATION={}", "PORT=8080", "MEMORY_LIMIT=256m"}},
		Log:     cell.LogTag{App: fmt.Sprint("app-", i), Source: "APP/PROC/WEB"},
	}}
}

// benchStored fills a journal with n instances that run, spread over cells, and returns what the
// cells say of them.
func benchStored(b *testing.B, n, cells int) (*state.Memory, [][]cell.Status) {
	b.Helper()
	j := state.NewMemory()
	db, err := state.Open(context.Background(), state.Config{Journal: j}, Tables()...)
	if err != nil {
		b.Fatal(err)
	}
	says := make([][]cell.Status, cells)
	for from := 0; from < n/10; from += 1000 {
		err := db.Update(context.Background(), func(tx *state.Tx) error {
			for i := from; i < min(from+1000, n/10); i++ {
				d := benchProcess(i)
				if err := desired.Put(tx, d); err != nil {
					return err
				}
				for k := range d.Instances {
					c := (i*10 + k) % cells
					guid := fmt.Sprintf("%08d-%04d-4000-8000-000000000000", i, k)
					w := d.WorkFor(k, guid)
					st := cell.Status{ID: guid, Work: &w, Phase: cell.PhaseRunning, Since: benchTime, Addresses: []cell.Address{{Port: 8080, Host: fmt.Sprintf("10.0.0.%d:61%03d", c%250, k)}}}
					r := lrp.NewRow(d.ID, k, benchTime).Claim(fmt.Sprintf("cell-%05d", c), guid, benchTime)
					r.Placed = "of 1000 cells: zone z1 had 3 of the process, the cell 0; 0 starting, 0.456 full with it"
					if err := rows.Put(tx, lrp.Step(r, st, benchTime)); err != nil {
						return err
					}
					says[c] = append(says[c], st)
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	return j, says
}

// benchBegin starts a Core over a journal and lets the cells tell what they run.
func benchBegin(b *testing.B, j state.Journal, says [][]cell.Status) (*Core, []*Member) {
	b.Helper()
	ctx := context.Background()
	db, err := state.Open(ctx, state.Config{Journal: j}, Tables()...)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	c, err := NewCore(Config{DB: db, NewID: func() string { n++; return fmt.Sprint("new-", n) }}, benchTime)
	if err != nil {
		b.Fatal(err)
	}
	c.Begin(benchTime)
	members := make([]*Member, len(says))
	for i, list := range says {
		m := &Member{}
		members[i] = m
		c.Add(m, benchTime)
		c.Answered(m, cell.State{ID: fmt.Sprintf("cell-%05d", i), Zone: fmt.Sprint("z", i%3), Total: cell.Resources{Memory: 1 << 40, Disk: 1 << 42, Containers: 10_000, Stacks: []string{"cflinuxfs4"}}}, benchTime)
		c.Watching(m)
		for _, st := range list {
			c.Event(m, cell.Event{Status: st}, benchTime)
		}
		c.Event(m, cell.Event{Synced: true}, benchTime)
	}
	benchStep(b, c, benchTime)
	if !c.Ready() {
		b.Fatal("not ready")
	}
	return c, members
}

func benchStep(b *testing.B, c *Core, now time.Time) []Effect {
	b.Helper()
	var all []Effect
	for range 5 {
		e, err := c.Step(context.Background(), now)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, e.Do...)
		if e.Wake.IsZero() || e.Wake.After(now) {
			break
		}
	}
	return all
}

var benchSizes = []struct{ instances, cells int }{{1_000, 10}, {10_000, 100}, {100_000, 1_000}, {250_000, 2_500}}

func heapInUse() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkBegin starts a Core over a journal with instances that run, to Ready. The memory is all
// that stays of it.
func BenchmarkBegin(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint("instances=", size.instances), func(b *testing.B) {
			j, says := benchStored(b, size.instances, size.cells)
			before := heapInUse()
			var c *Core
			for b.Loop() {
				c, _ = benchBegin(b, j, says)
			}
			b.ReportMetric((heapInUse()-before)/float64(size.instances), "B/instance")
			runtime.KeepAlive(c)
			runtime.KeepAlive(says)
		})
	}
}

// BenchmarkCheck looks at everything when nothing has changed.
func BenchmarkCheck(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint("instances=", size.instances), func(b *testing.B) {
			j, says := benchStored(b, size.instances, size.cells)
			c, _ := benchBegin(b, j, says)
			rev := c.db.View().Rev()
			b.ReportAllocs()
			for b.Loop() {
				c.Check()
				if all := benchStep(b, c, benchTime); len(all) > 0 || c.db.View().Rev() != rev {
					b.Fatal("there was something to do", len(all))
				}
			}
		})
	}
}

// BenchmarkReplace takes an instance that exits to the Start of its replacement: all that the
// Scheduler itself adds.
func BenchmarkReplace(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint("instances=", size.instances), func(b *testing.B) {
			j, says := benchStored(b, size.instances, size.cells)
			c, members := benchBegin(b, j, says)
			i, now := 0, benchTime
			for b.Loop() {
				if i == size.instances { // each was replaced once: begin anew
					b.StopTimer()
					j, says = benchStored(b, size.instances, size.cells)
					c, members = benchBegin(b, j, says)
					i, now = 0, benchTime
					b.StartTimer()
				}
				m := members[i%len(members)]
				st := says[i%len(members)][i/len(members)%len(says[0])]
				i++
				now = now.Add(time.Millisecond)
				st.Phase, st.Since, st.Reason, st.Exit = cell.PhaseDone, now, cell.ReasonExit, &cell.Exit{Code: 1}
				c.Event(m, cell.Event{Status: st}, now)
				started := false
				for _, e := range benchStep(b, c, now) {
					started = started || e.Op == OpStart
				}
				if !started {
					b.Fatal("nothing was started")
				}
			}
		})
	}
}

// BenchmarkQuality places as BenchmarkFill does and reports how well: the standard deviation of
// the cells' memory in percent of a cell, the worst imbalance of an app over zones, and the most
// instances of one app on a cell. Works come one by one or so many at a time, and run when the next come.
func BenchmarkQuality(b *testing.B) {
	for _, size := range []struct{ cells, instances int }{{10, 1_000}, {100, 10_000}, {1_000, 100_000}, {5_000, 250_000}} {
		for _, batch := range []int{1, 1_000, 10_000} {
			if batch > size.instances {
				continue
			}
			b.Run(fmt.Sprintf("cells=%d/instances=%d/batch=%d", size.cells, size.instances, batch), func(b *testing.B) {
				for b.Loop() {
					v := benchCluster(size.cells)
					for ws := range slices.Chunk(appsOfTen(size.instances), batch) {
						placeBatch(b, v, ws)
					}
					reportQuality(b, v)
				}
				b.ReportMetric(float64(size.instances)*float64(b.N)/b.Elapsed().Seconds(), "placed/s")
			})
		}
	}
}

// placeBatch places works in Order and has them run.
func placeBatch(t testing.TB, v *View, ws []Want) {
	Order(ws)
	on := make([]*CellView, len(ws))
	for i, w := range ws {
		id, err := Spread{}.Place(w, v)
		if err != nil {
			t.Fatal(err)
		}
		v.Commit(w, id)
		on[i] = v.Cell(id)
	}
	for _, c := range on {
		v.started(c, false)
	}
}

// quality is the standard deviation of the cells' memory in percent of a cell, the worst
// imbalance of an app over zones, and the most instances of one app on a cell.
func quality(v *View) (deviation float64, imbalance, together int) {
	var sum, squares float64
	for _, c := range v.Cells {
		f := 100 * float64(c.Used.Memory) / float64(c.Total.Memory)
		sum, squares = sum+f, squares+f*f
	}
	n := float64(len(v.Cells))
	mean := sum / n
	for _, s := range v.spread {
		least, most := math.MaxInt, 0
		for _, zone := range []string{"z0", "z1", "z2"} {
			least, most = min(least, s.inZone(zone)), max(most, s.inZone(zone))
		}
		imbalance = max(imbalance, most-least)
		for _, h := range s.cells {
			together = max(together, h.n)
		}
	}
	return math.Sqrt(max(0, squares/n-mean*mean)), imbalance, together
}

func reportQuality(b *testing.B, v *View) {
	deviation, imbalance, together := quality(v)
	b.ReportMetric(deviation, "%memory-sd")
	b.ReportMetric(float64(imbalance), "zone-imbalance")
	b.ReportMetric(float64(together), "co-located")
}

// Placement is no worse than that of Cloud Foundry's auction on the same works: its figures are
// given, as they were measured. What was placed runs when the next works come.
func TestQuality(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cells, batch        int
		deviation           float64
		imbalance, together int
	}{
		{10, 1, 3.75, 2, 3}, {10, 1_000, 2.03, 1, 2},
		{100, 1, 2.65, 1, 1}, {100, 1_000, 0.58, 1, 1}, {100, 10_000, 1.51, 1, 1},
	} {
		v := benchCluster(c.cells)
		for ws := range slices.Chunk(appsOfTen(100*c.cells), c.batch) {
			placeBatch(t, v, ws)
		}
		deviation, imbalance, together := quality(v)
		assert.LessOrEqual(t, deviation, c.deviation, "%d cells, batches of %d", c.cells, c.batch)
		assert.LessOrEqual(t, imbalance, c.imbalance, "%d cells, batches of %d", c.cells, c.batch)
		assert.LessOrEqual(t, together, c.together, "%d cells, batches of %d", c.cells, c.batch)
	}
}

// appsOfTen are works of apps with ten instances each, of four sizes.
func appsOfTen(n int) []Want {
	all := make([]Want, n)
	for i := range all {
		all[i] = wants(fmt.Sprint("app-", i/10), i%10, int64(1+i%4)<<8)
	}
	return all
}
