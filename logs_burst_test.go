package dewpoint_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

// together runs f until the test ends.
func together(t testing.TB, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
}

// TestABurstArrivesWhole holds that 10,000 lines, which 20 instances on three cells print at
// once, arrive whole and in order at one who follows: cell, scheduler, store, reader. One
// who hangs, and one who comes late, disturb nobody.
func TestABurstArrivesWhole(t *testing.T) {
	t.Parallel()
	const instances, each = 20, 500
	start := make(chan struct{})
	var ready sync.WaitGroup
	ready.Add(instances)
	programs := map[string]func(context.Context, cell.MemoryProcess) int{
		"burst": func(ctx context.Context, p cell.MemoryProcess) int {
			ready.Done()
			select {
			case <-start:
			case <-ctx.Done():
				return 0
			}
			for i := range each {
				out := p.Stdout
				if i%2 > 0 {
					out = p.Stderr
				}
				fmt.Fprintf(out, "%d\n", i)
			}
			<-ctx.Done()
			return 0
		},
	}
	var cells []cell.Cell
	for i := range 3 {
		a, err := cell.New(cell.AgentConfig{ID: fmt.Sprint("cell-", i), Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs})})
		require.NoError(t, err)
		together(t, a.Run)
		cells = append(cells, a)
	}
	db, err := state.Open(t.Context(), state.Config{Journal: state.NewMemory()}, scheduler.Tables()...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	store := logs.NewMemory(logs.MemoryConfig{})
	s, err := scheduler.New(scheduler.Config{DB: db, Cells: cells, LogSink: store.Append})
	require.NoError(t, err)
	together(t, s.Run)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	release := make(chan struct{})
	var hang sync.WaitGroup
	hang.Go(func() {
		for range store.Read(ctx, "app", 0, true) {
			<-release
			break
		}
	})
	require.NoError(t, s.Apply(ctx, lrp.Desired{ID: "web", Instances: instances, Work: cell.Work{
		Spec: cell.Spec{Memory: 1 << 20}, Process: cell.Process{Path: "burst"}, Health: &cell.Health{Type: "process"},
		Log: cell.LogTag{App: "app", Source: "APP/PROC/WEB"},
	}}))
	ready.Wait()
	close(start)
	check := func(from logs.Position) {
		next, total := map[int]int{}, 0
		for l, err := range store.Read(ctx, "app", from, true) {
			require.NoError(t, err)
			require.NotEqual(t, "LOGS", l.Source, l.Text)
			if l.Source != "APP/PROC/WEB" {
				continue
			}
			i, err := strconv.Atoi(l.Text)
			require.NoError(t, err)
			require.Equal(t, next[l.Index], i, "instance %d", l.Index)
			assert.Equal(t, i%2 > 0, l.Stderr)
			next[l.Index]++
			if total++; total == instances*each {
				break
			}
		}
		assert.Equal(t, instances*each, total)
		assert.Len(t, next, instances)
	}
	check(0)
	check(0) // who comes late finds all of it
	close(release)
	hang.Wait()
}

// BenchmarkLines is how many lines come from the processes of 20 instances on one cell through its agent
// and the scheduler into the store, and from there to one who follows: as fast as it goes, where
// the follower gets what the processors have left, and at 200,000 lines a second.
func BenchmarkLines(b *testing.B) {
	b.Run("flood", func(b *testing.B) { benchmarkLines(b, 0) })
	b.Run("200k", func(b *testing.B) { benchmarkLines(b, 10*time.Millisecond) })
}

func benchmarkLines(b *testing.B, pace time.Duration) {
	const instances = 20
	each := max(1, b.N/instances)
	line := []byte("GET /some/path HTTP/1.1 200 12 ms from 10.0.0.1 in the middle of the night\n")
	start := make(chan struct{})
	programs := map[string]func(context.Context, cell.MemoryProcess) int{
		"burst": func(ctx context.Context, p cell.MemoryProcess) int {
			select {
			case <-start:
			case <-ctx.Done():
			}
			begin := time.Now()
			for i := range each {
				if i%100 == 0 && pace > 0 { // behind time: no wait
					<-time.After(time.Until(begin.Add(time.Duration(i/100) * pace)))
				}
				_, _ = p.Stdout.Write(line)
			}
			<-ctx.Done()
			return 0
		},
	}
	a, err := cell.New(cell.AgentConfig{ID: "cell", LogLinesPerSecond: 1 << 40, Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs})})
	require.NoError(b, err)
	db, err := state.Open(b.Context(), state.Config{Journal: state.NewMemory()}, scheduler.Tables()...)
	require.NoError(b, err)
	b.Cleanup(func() { assert.NoError(b, db.Close()) })
	store := logs.NewMemory(logs.MemoryConfig{})
	s, err := scheduler.New(scheduler.Config{DB: db, Cells: []cell.Cell{a}, LogSink: store.Append})
	require.NoError(b, err)
	together(b, a.Run)
	together(b, s.Run)
	require.NoError(b, s.Apply(b.Context(), lrp.Desired{ID: "web", Instances: instances, Work: cell.Work{
		Spec: cell.Spec{Memory: 1 << 20}, Process: cell.Process{Path: "burst"}, Health: &cell.Health{Type: "process"},
		Log: cell.LogTag{App: "app", Source: "APP/PROC/WEB"},
	}}))
	b.ReportAllocs()
	b.ResetTimer()
	close(start)
	n, lost := 0, 0
	for l, err := range store.Read(b.Context(), "app", 0, true) {
		require.NoError(b, err)
		switch l.Source {
		case "LOGS":
			lost += int(l.Missing)
		case "APP/PROC/WEB":
			n++
		}
		if n+lost >= instances*each {
			break
		}
	}
	b.ReportMetric(float64(n+lost)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(100*float64(lost)/float64(n+lost), "%lost")
}
