package cell_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

// said returns what a program's output became: the lines of its Source, with the second in which they came.
func said(t *testing.T, w cell.Work, linesPerSecond int, program func(cell.MemoryProcess)) (all []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := cell.NewMemory(cell.MemoryConfig{Programs: map[string]func(context.Context, cell.MemoryProcess) int{
			"p": func(_ context.Context, p cell.MemoryProcess) int { program(p); return 0 },
		}})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: m, LogLinesPerSecond: linesPerSecond})
		w.ID, w.Process = "w", cell.Process{Path: "p"}
		if w.Log.Source == "" {
			w.Log.Source = "APP/PROC/WEB"
		}
		begin := time.Now()
		require.NoError(t, a.Start(t.Context(), w))
		until(t, a, "w", is(cell.PhaseDone))
		for l, err := range a.Logs(t.Context(), "w", 0) {
			require.NoError(t, err)
			if l.Source == w.Log.Source && !strings.HasPrefix(l.Text, "Cell ") {
				all = append(all, fmt.Sprint(int(l.Time.Sub(begin).Seconds()), " ", l.Text))
			}
		}
	})
	return all
}

const overBytes = "app instance exceeded log rate limit (10 bytes/sec)"

func TestLogRateInBytes(t *testing.T) {
	t.Parallel()
	got := said(t, cell.Work{Spec: cell.Spec{LogRate: 10}}, 0, func(p cell.MemoryProcess) {
		fmt.Fprint(p.Stdout, "12345\n67890\n") // the burst is what a second brings
		fmt.Fprint(p.Stderr, "over\n")         // both streams count together
		fmt.Fprint(p.Stdout, "silent\n")
		time.Sleep(900 * time.Millisecond)
		fmt.Fprint(p.Stdout, "still\n")
		time.Sleep(100 * time.Millisecond)
		fmt.Fprint(p.Stdout, "1234567890\n\n") // an empty line costs nothing
		time.Sleep(500 * time.Millisecond)
		fmt.Fprint(p.Stdout, "12345\n")
		fmt.Fprint(p.Stdout, "6\n7\n") // the second overage: said again, once
		time.Sleep(2 * time.Second)
		fmt.Fprint(p.Stdout, "a line that is longer than the limit\n")
		time.Sleep(time.Second)
		fmt.Fprint(p.Stdout, "end\n")
	})
	assert.Equal(t, []string{"0 12345", "0 67890", "0 " + overBytes, "1 1234567890", "1 ", "1 12345", "1 " + overBytes,
		"3 " + overBytes, "4 end", "4 Exit status 0"}, got)
}

func TestLogRateInLinesIsTheOperators(t *testing.T) {
	t.Parallel()
	got := said(t, cell.Work{}, 2, func(p cell.MemoryProcess) {
		fmt.Fprint(p.Stdout, "1\n2\n3\n4\n")
		time.Sleep(time.Second)
		fmt.Fprint(p.Stdout, "5\n")
		time.Sleep(500 * time.Millisecond)
		fmt.Fprint(p.Stdout, "6\n7\n8\n")
	})
	over := " app instance exceeded log rate limit (2 log-lines/sec) set by platform operator"
	assert.Equal(t, []string{"0 1", "0 2", "0" + over, "1 5", "1 6", "1 7", "1" + over, "1 Exit status 0"}, got)
}

func TestLogRateNone(t *testing.T) {
	t.Parallel()
	flood := func(p cell.MemoryProcess) {
		for i := range 500 {
			fmt.Fprintln(p.Stdout, "line", i)
		}
	}
	assert.Len(t, said(t, cell.Work{}, 0, flood), 501, "0 is no limit")
	assert.Equal(t, []string{"0 Exit status 0"}, said(t, cell.Work{Spec: cell.Spec{LogRate: -1}}, 0, flood), "negative: nothing is kept")
	staging := cell.Work{Spec: cell.Spec{LogRate: 10}, Log: cell.LogTag{Source: "STG"}}
	assert.Len(t, said(t, staging, 2, flood), 501, "staging is never limited")
}

// An instance that prints without end costs its reader a bounded number of lines, and the work can be stopped.
func TestAFloodIsLimitedForEachInstance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := cell.NewMemory(cell.MemoryConfig{Programs: map[string]func(context.Context, cell.MemoryProcess) int{
			"p": func(ctx context.Context, p cell.MemoryProcess) int {
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for ctx.Err() == nil {
					fmt.Fprintln(p.Stdout, "flood")
					<-tick.C
				}
				return 0
			},
			"quiet": func(ctx context.Context, p cell.MemoryProcess) int {
				fmt.Fprintln(p.Stdout, "quiet")
				<-ctx.Done()
				return 0
			},
		}})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: m, LogLinesPerSecond: 100})
		for _, p := range []string{"p", "quiet"} {
			w := cell.Work{ID: p, LRP: "l", Process: cell.Process{Path: p, Grace: time.Second}, Health: &cell.Health{Type: "process"}, Log: cell.LogTag{Source: "APP"}}
			require.NoError(t, a.Start(t.Context(), w))
		}
		time.Sleep(time.Minute)
		count := map[string]int{}
		for _, id := range []string{"p", "quiet"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			for l := range a.Logs(ctx, id, 0) {
				count[l.Text]++
			}
			cancel()
		}
		assert.InDelta(t, 60*100, count["flood"], 1000)
		over := count["app instance exceeded log rate limit (100 log-lines/sec) set by platform operator"]
		assert.InDelta(t, 55, over, 6, "each burst takes a tenth of a second, and a second of silence follows")
		assert.Equal(t, 1, count["quiet"])
	})
}
