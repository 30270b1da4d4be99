package logs_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// benchLines returns lines of so many apps as a cell hands them over.
func benchLines(apps int) []logs.Line {
	all := make([]logs.Line, apps)
	for i := range all {
		all[i] = logs.Line{App: fmt.Sprintf("%036d", i), Source: "APP/PROC/WEB", Index: i, Instance: fmt.Sprintf("%08x-3b3e-4f0c-9d4c-7f8f3c1d6a10", i),
			Time: time.Unix(1, 0), Text: "GET /some/path HTTP/1.1 200 12 ms from 10.0.0.1 in the middle of the night"}
	}
	return all
}

// BenchmarkAppend is how many lines are taken in: by one and by eight callers. Beside it the same
// structs are appended to a slice under a mutex, which is emptied at 20,000.
func BenchmarkAppend(b *testing.B) {
	for _, apps := range []int{1, 100, 10_000} {
		lines := benchLines(apps)
		for _, callers := range []int{1, 8} {
			b.Run(fmt.Sprintf("slice/apps=%d/callers=%d", apps, callers), func(b *testing.B) {
				var mu sync.Mutex
				var all []logs.Line
				appendAll(b, lines, callers, func(l logs.Line) {
					mu.Lock()
					defer mu.Unlock()
					if len(all) == 20_000 {
						all = all[:0]
					}
					all = append(all, l)
				})
			})
			b.Run(fmt.Sprintf("memory/apps=%d/callers=%d", apps, callers), func(b *testing.B) {
				appendAll(b, lines, callers, logs.NewMemory(logs.MemoryConfig{}).Append)
			})
		}
	}
}

func appendAll(b *testing.B, lines []logs.Line, callers int, take func(logs.Line)) {
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			for i := g; i < b.N; i += callers {
				take(lines[i%len(lines)])
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkFollowed is how many lines are taken in while so many follow the app, or another one,
// and how many are read.
func BenchmarkFollowed(b *testing.B) {
	for _, who := range []string{"same", "other"} {
		for _, followers := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/followers=%d", who, followers), func(b *testing.B) {
				m := logs.NewMemory(logs.MemoryConfig{})
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				var wg sync.WaitGroup
				var read atomic.Int64
				for range followers {
					wg.Go(func() {
						n := int64(0)
						for range m.Read(ctx, "followed", 0, true) {
							n++
						}
						read.Add(n)
					})
				}
				app := "followed"
				if who == "other" { // what is followed is written all the time
					app = "measured"
					wg.Go(func() {
						for ctx.Err() == nil {
							m.Append(logs.Line{App: "followed", Text: "line"})
						}
					})
				}
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					m.Append(logs.Line{App: app, Source: "APP/PROC/WEB", Text: "GET /some/path HTTP/1.1 200 12 ms"})
				}
				b.StopTimer()
				cancel()
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
				b.ReportMetric(float64(read.Load())/b.Elapsed().Seconds(), "read/s")
			})
		}
	}
}

// BenchmarkReadFrom is a look-up of one line anywhere in an app's lines, and of its newest hundred.
func BenchmarkReadFrom(b *testing.B) {
	for _, apps := range []int{1, 100, 10_000} {
		for _, kept := range []int{20, 200, 2_000, 20_000} {
			m := logs.NewMemory(logs.MemoryConfig{LinesPerApp: 20_000, BytesPerApp: 64 << 20, TotalBytes: 4 << 30})
			for i := range apps {
				for range min(kept, max(1, 1_000_000/apps)) { // as many as fit
					m.Append(logs.Line{App: fmt.Sprint(i), Source: "APP/PROC/WEB", Text: "x"})
				}
			}
			for i := range kept {
				m.Append(logs.Line{App: "0", Source: []string{"APP/PROC/WEB", "CELL"}[i/50%2], Text: "x"})
			}
			name := fmt.Sprintf("apps=%d/lines=%d", apps, kept)
			last := m.Tail("0", 1)[0].Pos
			b.Run("read/"+name, func(b *testing.B) {
				b.ReportAllocs()
				first := last - logs.Position(min(kept, 10_000))
				for i := range b.N {
					for l := range m.Read(context.Background(), "0", first+logs.Position(i*7919)%(last-first), false) {
						if l.Missing > 0 {
							b.Fatal(l.Text)
						}
						break
					}
				}
			})
			b.Run("tail100/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for range b.N {
					if len(m.Tail("0", 100)) == 0 {
						b.Fatal("no lines")
					}
				}
			})
		}
	}
}
