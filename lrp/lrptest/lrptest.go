// Package lrptest is the conformance suite of lrp.Scheduler.
//
// It gives the Scheduler scripted cells and runs each case in a bubble of testing/synctest,
// so that waits of minutes take no time and are measured exactly.
package lrptest

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
)

// Open makes a Scheduler over the cells, with nothing to do yet. What it starts must end
// by t.Cleanup; if it is an lrp.Runner the suite runs it. It must use the time of package
// time.
type Open func(t *testing.T, cells ...cell.Cell) lrp.Scheduler

// Run holds a Scheduler to the contract of lrp.Scheduler.
func Run(t *testing.T, open Open) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { c.run(t, open) })
		})
	}
}

var cases = []struct {
	name string
	run  func(*testing.T, Open)
}{
	{"runs what is applied", testApply},
	{"scales", testScale},
	{"work is immutable", testImmutable},
	{"refuses nonsense", testNonsense},
	{"removes", testRemove},
	{"removes what is only claimed", testRemoveClaimed},
	{"another work may follow a removal", testRemoveAndApply},
	{"exits while it is scaled", testExitsWhileScaled},
	{"backs off to the moment", testBackoff},
	{"gives up after 200 crashes", testCrashLimit},
	{"forgets crashes after five minutes", testCrashReset},
	{"crashed instances go with their index", testCrashedScaledDown},
	{"restarts one instance", testRestart},
	{"places elsewhere what is refused", testRefused},
	{"says why there is no place, and retries", testNoPlace},
	{"a failed start is not a second instance", testFailedStart},
	{"a failed stop is tried again", testFailedStop},
	{"a lost work is started anew", testForgotten},
	{"broken streams change nothing", testCut},
	{"stops what nobody wants", testUnwanted},
	{"runs a person's process beside an instance", testExec},
	{"watches", testWatch},
	{"watches on from a revision", testWatchAfter},
}

// bench is a Scheduler under test with its cells.
type bench struct {
	*testing.T
	ctx   context.Context
	s     lrp.Scheduler
	cells []*schedulertest.Cell
}

func start(t *testing.T, open Open, configs ...schedulertest.Config) *bench {
	t.Helper()
	b := &bench{T: t, ctx: t.Context()}
	var cells []cell.Cell
	for _, c := range configs {
		x := schedulertest.New(c)
		b.cells = append(b.cells, x)
		cells = append(cells, x)
	}
	b.s = open(t, cells...)
	if r, ok := b.s.(lrp.Runner); ok {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run returned %v; at the end of its context that is no error", err)
			}
		})
		<-r.Ready()
	}
	return b
}

var (
	one = []schedulertest.Config{{ID: "c1"}}
	two = []schedulertest.Config{{ID: "c1"}, {ID: "c2"}}
)

func process(id lrp.ID, n int) lrp.Desired {
	return lrp.Desired{ID: id, Instances: n, Work: cell.Work{
		Spec:    cell.Spec{Memory: 64 << 20, Disk: 64 << 20, Ports: []int{8080}},
		Process: cell.Process{Path: "serve", Env: []string{"A=b"}},
		Log:     cell.LogTag{App: "app", Source: "APP/PROC/WEB"},
	}}
}

func (b *bench) apply(d lrp.Desired) {
	b.Helper()
	if err := b.s.Apply(b.ctx, d); err != nil {
		b.Fatalf("Apply(%s): %v", d.ID, err)
	}
}

func (b *bench) list(id lrp.ID) []lrp.Instance {
	b.Helper()
	all, err := b.s.Instances(b.ctx, id)
	if err != nil {
		b.Fatalf("Instances(%s): %v", id, err)
	}
	for i := range all {
		if all[i].LRP != id || i > 0 && all[i].Index <= all[i-1].Index {
			b.Fatalf("Instances(%s) is not in order of index: %+v", id, all)
		}
	}
	return all
}

// settle waits until nothing happens any more but by time.
func (b *bench) settle() { synctest.Wait() }

// sleep lets time of the fake clock go by.
func (b *bench) sleep(d time.Duration) { time.Sleep(d) }

// await waits up to a minute of the fake clock.
func (b *bench) await(what string, cond func() bool) {
	b.Helper()
	for range 6000 {
		b.settle()
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatalf("after a minute still not: %s", what)
}

// running waits until a process has exactly n instances, all running, and their works are
// all that the cells run for it.
func (b *bench) running(id lrp.ID, n int) []lrp.Instance {
	b.Helper()
	var all []lrp.Instance
	b.await("all instances run", func() bool {
		all = b.list(id)
		return len(all) == n && !slices.ContainsFunc(all, func(i lrp.Instance) bool { return i.State != lrp.Running }) && len(b.live(id)) == n
	})
	live := b.live(id)
	for i, x := range all {
		if x.Index != i || x.GUID != live[i].ID || x.Cell == "" || x.Since.IsZero() {
			b.Fatalf("instance %d is %+v, the cells run %+v", i, x, live[i])
		}
		if !slices.Equal(x.Addresses, live[i].Addresses) {
			b.Fatalf("instance %d has the addresses %v, the cell says %v", i, x.Addresses, live[i].Addresses)
		}
	}
	return all
}

// live returns the works of a process on all cells, in order of index.
func (b *bench) live(id lrp.ID) []cell.Status {
	var all []cell.Status
	for _, c := range b.cells {
		for _, s := range c.Live() {
			if s.Work.LRP == string(id) {
				all = append(all, s)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b cell.Status) int { return a.Work.Index - b.Work.Index })
	return all
}

// finish ends the work of an instance, which counts as a crash.
func (b *bench) finish(i lrp.Instance, code int) {
	b.Helper()
	for _, c := range b.cells {
		if c.ID() == i.Cell {
			if !c.Finish(i.GUID, code) {
				b.Fatalf("cell %s does not know %s", i.Cell, i.GUID)
			}
			return
		}
	}
	b.Fatalf("no cell %q", i.Cell)
}
