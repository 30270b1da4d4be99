package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
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
	"github.com/dewpoint-go/dewpoint/state"
)

// When Ready is closed, the rows say what the cells told, and no longer what an earlier run
// left: an instance that the cell has ended is not shown as running.
func TestReadyMeansThatTheRowsAreTrue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		stop := run(t, s)
		before := apply(t, s, web("a", 2))
		stop()
		c.Finish(before[0].GUID, 1)
		c.Forget(before[1].GUID)

		gate := make(chan struct{})
		j.Inject(state.Fault{Wait: gate}) // the first pass is not durable yet
		s = open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		select {
		case <-s.Ready():
			t.Error("ready, though the rows are still those of the earlier run")
		default:
		}
		close(gate)
		<-s.Ready() // and no other wait
		for i, in := range instances(t, s, "a") {
			assert.NotEqual(t, before[i].GUID, in.GUID, "%+v", in)
		}
		cancel()
		require.NoError(t, <-ended)
	})
}

// A caller who leaves before its change is certain: the change is made all the same, and so
// is its effect, at once.
func TestUncertainCallsTakeEffect(t *testing.T) {
	for _, done := range []bool{false, true} {
		for name, c := range map[string]struct {
			call func(context.Context, *scheduler.Scheduler) error
			want func(t *testing.T, before, after []lrp.Instance, live int)
		}{
			"Apply": {
				func(ctx context.Context, s *scheduler.Scheduler) error { return s.Apply(ctx, web("a", 3)) },
				func(t *testing.T, _, after []lrp.Instance, live int) {
					assert.Len(t, after, 3)
					assert.Equal(t, 3, live)
				},
			},
			"Remove": {
				func(ctx context.Context, s *scheduler.Scheduler) error { return s.Remove(ctx, "a") },
				func(t *testing.T, _, after []lrp.Instance, live int) {
					assert.Empty(t, after)
					assert.Zero(t, live)
				},
			},
			"Restart": {
				func(ctx context.Context, s *scheduler.Scheduler) error { return s.Restart(ctx, "a", 0) },
				func(t *testing.T, before, after []lrp.Instance, live int) {
					require.Len(t, after, 1)
					assert.Equal(t, lrp.Running, after[0].State)
					assert.NotEqual(t, before[0].GUID, after[0].GUID)
					assert.Equal(t, 1, live)
				},
			},
		} {
			bubbleRun(t, fmt.Sprintf("%s, done=%v", name, done), func(t *testing.T) {
				j := state.NewMemory()
				cl := schedulertest.New(schedulertest.Config{ID: "c1"})
				s := open(t, j, scheduler.Config{Cells: []cell.Cell{cl}})
				run(t, s)
				before := apply(t, s, web("a", 1))
				j.Inject(state.Fault{Err: errors.New("the connection broke"), Done: done})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
				defer cancel()
				require.ErrorIs(t, c.call(ctx, s), state.ErrUncertain)
				time.Sleep(time.Second)
				synctest.Wait()
				c.want(t, before, instances(t, s, "a"), len(cl.Works()))
				assert.Empty(t, s.Audit())
			})
		}
	}
}

// A fenced Scheduler must not go on: another one decides.
func TestRunEndsWhenItIsFenced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		ended := make(chan error, 1)
		go func() { ended <- s.Run(t.Context()) }()
		<-s.Ready()
		before := apply(t, s, web("a", 2))
		j.Fence()
		c.Finish(before[0].GUID, 1)
		synctest.Wait()
		select {
		case err := <-ended:
			require.ErrorIs(t, err, state.ErrFenced)
		default:
			t.Fatal("Run goes on")
		}
		assert.Len(t, c.Works(), 2, "nothing was started or stopped")
	})
}

// A back-off is waited for to its end by the next run, and not anew.
func TestBackoffOutlivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		stop := run(t, s)
		apply(t, s, web("a", 1))
		for range 3 {
			c.Finish(instances(t, s, "a")[0].GUID, 1)
			synctest.Wait()
		}
		crashed := time.Now()
		i := instances(t, s, "a")[0]
		require.Equal(t, lrp.Crashed, i.State)
		time.Sleep(10 * time.Second)
		stop()
		s = open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		run(t, s)
		time.Sleep(time.Until(crashed.Add(30*time.Second - 1)))
		synctest.Wait()
		assert.Equal(t, lrp.Crashed, instances(t, s, "a")[0].State)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		i = instances(t, s, "a")[0]
		assert.Equal(t, lrp.Running, i.State)
		assert.Equal(t, 3, i.Crashes)
	})
}

// A Start that a removed cell answers late: what it started there is stopped.
func TestRemovedCellTakesAWorkLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c1 := schedulertest.New(schedulertest.Config{ID: "c1"})
		c2 := schedulertest.New(schedulertest.Config{ID: "c2"})
		c2.Drain(true)
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		c1.Silence()
		apply(t, s, web("a", 1))
		require.NoError(t, s.RemoveCell("c1"))
		c2.Drain(false)
		synctest.Wait()
		c1.Speak()
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, c1.Works(), "nobody wants it there")
		assert.Equal(t, "c2", instances(t, s, "a")[0].Cell)
	})
}

// The same for a task.
func TestRemovedCellTakesATaskLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
		c.Silence()
		r := task(t.Context(), s, staging("t"))
		require.NoError(t, s.RemoveCell("c1"))
		synctest.Wait()
		c.Speak()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.ErrorIs(t, r.err, scheduler.ErrLost)
		assert.Empty(t, c.Works(), "nobody wants it there")
	})
}

// deaf is a cell whose lines can't be had any more; it counts how often they are asked for.
type deaf struct {
	*schedulertest.Cell
	broken atomic.Bool
	asked  atomic.Int64
}

func (c *deaf) Logs(ctx context.Context, id string, from logs.Position) iter.Seq2[logs.Line, error] {
	c.asked.Add(1)
	if !c.broken.Load() {
		return c.Cell.Logs(ctx, id, from)
	}
	return func(yield func(logs.Line, error) bool) { yield(logs.Line{}, errors.New("no route to host")) }
}

// A cell that is removed because it is broken is not asked for lines for ever.
func TestRemovedCellIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := &deaf{Cell: schedulertest.New(schedulertest.Config{ID: "c1"})}
		s := started(t, scheduler.Config{Cells: []cell.Cell{c}, LogSink: func(logs.Line) {}})
		apply(t, s, web("a", 3))
		c.broken.Store(true)
		c.Cut()
		require.NoError(t, s.RemoveCell("c1"))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		asked := c.asked.Load()
		assert.Greater(t, asked, int64(3))
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, asked, c.asked.Load())
	})
}

// A task that is asked for after the end begins nowhere.
func TestRunTaskAfterTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := open(t, nil, scheduler.Config{Cells: []cell.Cell{c}})
		run(t, s)()
		for i := range 50 {
			_, err := s.RunTask(t.Context(), staging(fmt.Sprint("t", i)), nil)
			require.Error(t, err)
		}
		starts, _ := c.Calls()
		assert.Zero(t, starts)
	})
}

// A cancelled task whose Stop fails, done or not, is stopped all the same.
func TestCancelledTaskWhoseStopFails(t *testing.T) {
	for _, done := range []bool{false, true} {
		bubbleRun(t, fmt.Sprint("done=", done), func(t *testing.T) {
			c := schedulertest.New(schedulertest.Config{ID: "c1"})
			s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
			left := 2
			c.FailStop(func(string) (bool, error) {
				if left--; left >= 0 {
					return done, errors.New("broken")
				}
				return false, nil
			})
			ctx, cancel := context.WithCancel(t.Context())
			r := task(ctx, s, staging("t"))
			cancel()
			synctest.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
			require.True(t, r.done)
			require.ErrorIs(t, r.err, context.Canceled)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			assert.Empty(t, c.Works())
			assert.Empty(t, s.Audit())
		})
	}
}

// Cells that are added after a restart find their instances as they were: what is not there yet
// is not lost yet.
func TestCellsThatComeLateKeepTheirInstances(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		stop := run(t, s)
		before := apply(t, s, web("a", 4))
		stop()

		s = open(t, j, scheduler.Config{})
		run(t, s)
		require.NoError(t, s.AddCell(c1))
		time.Sleep(5 * time.Second)
		require.NoError(t, s.AddCell(c2))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, guids(before), guids(instances(t, s, "a")))
		assert.Len(t, c1.Works(), 2)
		assert.Len(t, c2.Works(), 2)
		stop()
		assert.Empty(t, s.Audit())
	})
}

// One that does not come is lost when its time is over.
func TestACellThatNeverComesBackIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		stop := run(t, s)
		apply(t, s, web("a", 4))
		stop()

		s = open(t, j, scheduler.Config{Cells: []cell.Cell{c1}})
		run(t, s)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		assert.Len(t, c1.Works(), 2)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Len(t, c1.Works(), 4)
		for _, in := range instances(t, s, "a") {
			assert.Equal(t, "c1", in.Cell)
		}
	})
}

// flooding is a cell whose Watch, once it may, tells without end.
type flooding struct {
	*schedulertest.Cell
	begin chan struct{}
	told  atomic.Int64
}

func (c *flooding) Watch(ctx context.Context) iter.Seq2[cell.Event, error] {
	return func(yield func(cell.Event, error) bool) {
		if !yield(cell.Event{Synced: true}, nil) {
			return
		}
		select {
		case <-c.begin:
		case <-ctx.Done():
			return
		}
		for i := range 10_000 {
			w := cell.Work{ID: fmt.Sprint("x-", i%1000), LRP: "a", Index: i % 1000}
			if !yield(cell.Event{Status: cell.Status{ID: w.ID, Work: &w, Phase: cell.PhaseRunning}}, nil) {
				return
			}
			c.told.Add(1)
		}
		<-ctx.Done()
	}
}

// While something is being stored, a cell that tells without end has to wait.
func TestAFloodOfEventsWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c := &flooding{Cell: schedulertest.New(schedulertest.Config{ID: "c1"}), begin: make(chan struct{})}
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		run(t, s)
		gate := make(chan struct{})
		j.Inject(state.Fault{Wait: gate})
		applied := make(chan error, 1)
		go func() { applied <- s.Apply(t.Context(), web("b", 1)) }()
		synctest.Wait()
		close(c.begin)
		time.Sleep(time.Hour)
		assert.Less(t, c.told.Load(), int64(1000))
		close(gate)
		require.NoError(t, <-applied)
		synctest.Wait()
		assert.EqualValues(t, 10_000, c.told.Load(), "then it goes on")
	})
}
