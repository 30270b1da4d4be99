package logs_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/logs"
)

// heap is how many bytes are in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestHeapStaysWithinTheBounds counts bytes: floods of short, middling, long and mixed lines into
// few and many apps, with readers that hang, never take more than the bounds promise. No test
// runs beside it.
func TestHeapStaysWithinTheBounds(t *testing.T) {
	const total = 16 << 20
	for _, c := range []struct {
		name         string
		apps, length int
		perApp       int64
		readers      int
	}{
		{"one app", 1, 60, 2 << 20, 0},
		{"one app, empty lines", 1, 0, 2 << 20, 0},
		{"one app, long lines", 1, 60_000, 2 << 20, 0},
		{"100 apps", 100, 60, 2 << 20, 0},
		{"100 apps, lines of all lengths", 100, -1, 2 << 20, 0},
		{"5000 apps", 5000, 60, 2 << 20, 0},
		{"100 apps, hanging readers", 100, 60, 2 << 20, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := heap()
			m := logs.NewMemory(logs.MemoryConfig{TotalBytes: total, BytesPerApp: c.perApp})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			started, ended := make(chan struct{}, c.readers), make(chan struct{}, c.readers)
			for i := range c.readers {
				go func() {
					for range m.Read(ctx, fmt.Sprint("app-", i), 0, true) {
						started <- struct{}{}
						<-ctx.Done() // hangs, with what it was given
					}
					ended <- struct{}{}
				}()
			}
			sources := []string{"APP/PROC/WEB", "APP/PROC/WEB", "APP/PROC/WEB", "STG", "CELL"}
			for i, written := 0, 0; written < 4*total; i++ {
				n := c.length
				if n < 0 {
					n = i * i % 3000
				}
				m.Append(logs.Line{App: fmt.Sprint("app-", i%c.apps), Source: strings.Clone(sources[i%len(sources)]),
					Instance: fmt.Sprintf("%036d", i%7), Text: strings.Repeat("x", n)})
				written += n + 200
			}
			for range c.readers {
				<-started
			}
			took := heap() - before
			most := min(int64(total), int64(c.apps)*c.perApp)
			beside := int64(c.apps)<<10 + int64(c.readers)*(32<<10+8<<10) + 256<<10 // a stack for each reader
			t.Logf("%d of %d bytes, %.1f %%", took, most, 100*float64(took)/float64(most))
			if took > most+most/20+beside {
				t.Errorf("%d bytes are in use, %d were promised", took, most)
			}
			if took < most/3 {
				t.Errorf("only %d bytes are in use of %d: lines were dropped without need", took, most)
			}
			cancel()
			for range c.readers {
				<-ended
			}
			for i := range c.apps {
				m.Drop(fmt.Sprint("app-", i))
			}
			if left := heap() - before; left > 1<<20 {
				t.Errorf("%d bytes are in use after every app was dropped", left)
			}
			runtime.KeepAlive(m)
		})
	}
}
