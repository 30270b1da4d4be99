package scheduler_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
)

// TestLongRunLeavesNothing starts, crashes, restarts and removes processes many times over,
// with tasks and refusals between, and counts what is left: goroutines, rows, works, accounts.
// It runs alone, for the goroutines of other tests would be counted, too.
func TestLongRunLeavesNothing(t *testing.T) { //nolint:paralleltest // see above
	synctest.Test(t, func(t *testing.T) {
		c1 := schedulertest.New(schedulertest.Config{ID: "c1"})
		c2 := schedulertest.New(schedulertest.Config{ID: "c2"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}, LogSink: func(logs.Line) {}})
		n := 0
		c2.Refuse(func(cell.Work) string {
			if n++; n%7 == 0 {
				return "insufficient resources: memory"
			}
			return ""
		})
		round := func(i int) {
			id := lrp.ID(fmt.Sprint("app-", i))
			all := apply(t, s, web(id, 1+i%4))
			for _, in := range all {
				c1.Print(in.GUID, "a line")
			}
			if i%2 == 0 {
				c1.Finish(all[0].GUID, 1)
				c2.Finish(all[0].GUID, 1)
			}
			if i%3 == 0 {
				require.NoError(t, s.Restart(t.Context(), id, 0))
			}
			task := task(t.Context(), s, staging(fmt.Sprint("task-", i)))
			c1.Finish(fmt.Sprint("task-", i), 0)
			c2.Finish(fmt.Sprint("task-", i), 0)
			if i%5 == 0 {
				c1.Cut()
			}
			require.NoError(t, s.Remove(t.Context(), id))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			require.True(t, task.done)
		}
		for i := range 10 {
			round(i)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		before := runtime.NumGoroutine()
		for i := range 300 {
			round(10 + i)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		// The runtime may have begun a few of its own; what a round leaves behind comes 300 times, or at least 40.
		assert.Less(t, runtime.NumGoroutine(), before+10)
		assert.Empty(t, c1.Works())
		assert.Empty(t, c2.Works())
		assert.Empty(t, s.Audit())
	})
}
