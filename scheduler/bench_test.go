package scheduler_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
	"github.com/dewpoint-go/dewpoint/state"
)

func benchScheduler(b *testing.B, cells int) (*scheduler.Scheduler, func()) {
	db, err := state.Open(context.Background(), state.Config{}, scheduler.Tables()...)
	if err != nil {
		b.Fatal(err)
	}
	var all []cell.Cell
	for i := range cells {
		all = append(all, schedulertest.New(schedulertest.Config{ID: fmt.Sprintf("cell-%04d", i), Slots: 1 << 20}))
	}
	s, err := scheduler.New(scheduler.Config{DB: db, Cells: all})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	return s, func() { cancel(); <-ended; db.Close() }
}

// BenchmarkInstances reads the list of an app with three instances.
func BenchmarkInstances(b *testing.B) {
	s, stop := benchScheduler(b, 1)
	defer stop()
	ctx := context.Background()
	for i := range 1000 {
		if err := s.Apply(ctx, web(lrp.ID(fmt.Sprint("app-", i)), 3)); err != nil {
			b.Fatal(err)
		}
	}
	await(b, s, 3000)
	b.ReportAllocs()
	for b.Loop() {
		all, err := s.Instances(ctx, "app-500")
		if err != nil || len(all) != 3 {
			b.Fatal(len(all), err)
		}
	}
}

// await waits until so many instances run.
func await(b *testing.B, s *scheduler.Scheduler, n int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	run := map[string]bool{}
	for e, err := range s.Watch(ctx, 0) {
		if err != nil {
			b.Fatal(err)
		}
		if e.Instance.State == lrp.Running {
			if run[e.Instance.GUID] = true; len(run) == n {
				return
			}
		}
	}
}

// BenchmarkStart takes an app of 100 instances on 100 cells from Apply to all of them
// running and seen by a watcher: per instance, all parts but containers and a journal.
func BenchmarkStart(b *testing.B) {
	const n = 100
	ctx := context.Background()
	s, stop := benchScheduler(b, 100)
	defer stop()
	events := make(chan lrp.Event, 1024)
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(events)
		for e := range s.Watch(wctx, 0) {
			select {
			case events <- e:
			case <-wctx.Done():
			}
		}
	}()
	i := 0
	for b.Loop() {
		i++
		id := lrp.ID(fmt.Sprint("app-", i))
		if err := s.Apply(ctx, web(id, n)); err != nil {
			b.Fatal(err)
		}
		run := map[int]bool{}
		for len(run) < n {
			if e := <-events; e.Instance.LRP == id && e.Instance.State == lrp.Running {
				run[e.Instance.Index] = true
			}
		}
		if err := s.Remove(ctx, id); err != nil {
			b.Fatal(err)
		}
		for len(run) > 0 {
			if e := <-events; e.Instance.LRP == id && e.Gone {
				delete(run, e.Instance.Index)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/instance")
}
