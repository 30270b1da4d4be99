package sqlite_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/state"
	"github.com/dewpoint-go/dewpoint/state/sqlite"
)

type record struct {
	ID, App, Cell, State string
	Index                int
	Since                time.Time
	Note                 string
}

var records = state.NewTable("records", func(r record) string { return r.ID },
	state.Index[record]{Name: "cell", Keys: func(r record) []string { return []string{r.Cell} }})

func makeRecord(i int) record {
	return record{ID: fmt.Sprintf("app-%06d/%07d", i/10, i%10), App: fmt.Sprint("app-", i/10), Cell: "cell-0", State: "RUNNING", Index: i % 10,
		Since: time.Unix(1_700_000_000, 0).UTC(), Note: "what else stands in a row, about as long as this sentence is"}
}

// latencies collects how long each call took.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d...)
}

func (l *latencies) report(b *testing.B) {
	slices.Sort(l.all)
	b.ReportMetric(float64(len(l.all))/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64(l.all[len(l.all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(l.all[len(l.all)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkDurable compares what one durable change costs: a bare append and fsync of the
// same bytes, and an Update, by one caller and by 64 at once.
func BenchmarkDurable(b *testing.B) {
	text, err := json.Marshal(makeRecord(7))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("fsync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		var l latencies
		for b.Loop() {
			from := time.Now()
			if _, err := f.Write(text); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			l.add([]time.Duration{time.Since(from)})
		}
		l.report(b)
	})
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("update/callers=%d", callers), func(b *testing.B) { benchUpdate(b, callers) })
	}
}

func benchUpdate(b *testing.B, callers int) {
	ctx := context.Background()
	j, err := sqlite.Open(ctx, filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	db, err := state.Open(ctx, state.Config{Journal: j}, records)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	err = db.Update(ctx, func(tx *state.Tx) error {
		for i := range 10_000 {
			if err := records.Put(tx, makeRecord(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	var l latencies
	var wg sync.WaitGroup
	todo := make(chan int, callers)
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			var mine []time.Duration
			for i := range todo {
				r := makeRecord(i * 7919 % 10_000)
				r.Cell = fmt.Sprint("cell-", i%100)
				from := time.Now()
				if err := db.Update(ctx, func(tx *state.Tx) error { return records.Put(tx, r) }); err != nil {
					b.Error(err)
				}
				mine = append(mine, time.Since(from))
			}
			l.add(mine)
		})
	}
	for i := range b.N {
		todo <- i
	}
	close(todo)
	wg.Wait()
	b.StopTimer()
	l.report(b)
}
