package scheduler_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
)

// running is a RunTask under way.
type running struct {
	status cell.Status
	err    error
	lines  []string
	took   time.Duration
	done   bool
}

func task(ctx context.Context, s *scheduler.Scheduler, w cell.Work) *running {
	r := &running{}
	go func() {
		from := time.Now()
		r.status, r.err = s.RunTask(ctx, w, func(l logs.Line) { r.lines = append(r.lines, l.Text) })
		r.took, r.done = time.Since(from), true
	}()
	synctest.Wait()
	return r
}

func staging(id string) cell.Work {
	return cell.Work{ID: id, Spec: cell.Spec{Memory: 50}, Process: cell.Process{Path: "lifecycle:builder"}, Log: cell.LogTag{App: "app", Source: "STG"}}
}

func TestRunTask(t *testing.T) {
	for _, code := range []int{0, 223} {
		bubbleRun(t, "exit", func(t *testing.T) {
			c := schedulertest.New(schedulertest.Config{ID: "c1"})
			s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
			r := task(t.Context(), s, staging("t"))
			c.Print("t", "one")
			c.Cut()
			c.Print("t", "two")
			c.Finish("t", code)
			time.Sleep(time.Second)
			synctest.Wait()
			require.True(t, r.done)
			require.NoError(t, r.err, "a failure of the work is in its Status")
			assert.Equal(t, code, r.status.Exit.Code)
			assert.Equal(t, cell.PhaseDone, r.status.Phase)
			assert.Equal(t, []string{"Cell c1 runs task t", "one", "two"}, r.lines)
			assert.Empty(t, c.Works(), "forgotten when it was told")
		})
	}
}

func bubbleRun(t *testing.T, name string, fn func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { bubble(t, fn) })
}

func TestRunTaskPlacement(t *testing.T) {
	bubbleRun(t, "refused elsewhere", func(t *testing.T) {
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		c1.Refuse(func(cell.Work) string { return "insufficient resources: memory" })
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		r := task(t.Context(), s, staging("t"))
		assert.Len(t, c2.Live(), 1)
		c2.Finish("t", 0)
		synctest.Wait()
		require.NoError(t, r.err)
	})
	bubbleRun(t, "refused everywhere", func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		c.Refuse(func(cell.Work) string { return "insufficient resources: memory" })
		s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
		r := task(t.Context(), s, staging("t"))
		var p *scheduler.PlacementError
		require.ErrorAs(t, r.err, &p)
		assert.Equal(t, "insufficient resources: memory", p.Text)
		assert.ErrorContains(t, r.err, "1 cell: refused: insufficient resources: memory")
		c.Refuse(nil)
		w := staging("big")
		w.Spec.Memory = 1 << 50
		require.ErrorAs(t, task(t.Context(), s, w).err, &p)
		assert.Equal(t, []scheduler.Refusal{{Rule: "lacks memory, even when empty", Cells: 1}}, p.Refused)
	})
	bubbleRun(t, "no cells", func(t *testing.T) {
		s := started(t, scheduler.Config{})
		var p *scheduler.PlacementError
		require.ErrorAs(t, task(t.Context(), s, staging("t")).err, &p)
		assert.Equal(t, "unable to communicate to compatible cells", p.Text)
	})
	bubbleRun(t, "tasks are spread, and room is given back", func(t *testing.T) {
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1", Memory: 100}), schedulertest.New(schedulertest.Config{ID: "c2", Memory: 100})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		for _, id := range []string{"1", "2", "3", "4"} {
			task(t.Context(), s, staging(id))
		}
		assert.Len(t, c1.Live(), 2)
		assert.Len(t, c2.Live(), 2)
		full := task(t.Context(), s, staging("5"))
		require.Error(t, full.err)
		c1.Finish("1", 0)
		synctest.Wait()
		r := task(t.Context(), s, staging("6"))
		assert.False(t, r.done)
		assert.Len(t, c1.Live(), 2)
	})
}

func TestRunTaskTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
		r := task(t.Context(), s, staging("t"))
		require.ErrorContains(t, task(t.Context(), s, staging("t")).err, "running already")
		c.Finish("t", 0)
		synctest.Wait()
		require.NoError(t, r.err)
		require.ErrorContains(t, task(t.Context(), s, cell.Work{}).err, "has an id")
	})
}

func TestRunTaskCancel(t *testing.T) {
	errWhy := errors.New("the user changed their mind")
	for name, c := range map[string]schedulertest.Config{"prompt": {ID: "c1"}, "slow": {ID: "c1", Linger: true}} {
		bubbleRun(t, name, func(t *testing.T) {
			c := schedulertest.New(c)
			s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
			ctx, cancel := context.WithCancelCause(t.Context())
			r := task(ctx, s, staging("t"))
			from := time.Now()
			cancel(errWhy)
			time.Sleep(time.Second)
			synctest.Wait()
			require.True(t, r.done, "within a second")
			require.ErrorIs(t, r.err, errWhy)
			assert.LessOrEqual(t, r.took-time.Since(from), time.Second)
			assert.Empty(t, c.Live())
		})
	}
	bubbleRun(t, "silent", func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
		ctx, cancel := context.WithCancel(t.Context())
		r := task(ctx, s, staging("t"))
		c.Silence()
		cancel()
		time.Sleep(time.Second)
		synctest.Wait()
		require.True(t, r.done)
		require.ErrorIs(t, r.err, context.Canceled)
		c.Speak()
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, c.Works(), "stopped when the cell is back")
	})
	bubbleRun(t, "while it is sent", func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
		c.FailStart(func(cell.Work) (bool, error) { return true, errors.New("broken") })
		c.Silence()
		ctx, cancel := context.WithCancel(t.Context())
		r := task(ctx, s, staging("t"))
		cancel()
		time.Sleep(time.Second)
		synctest.Wait()
		require.True(t, r.done)
		c.Speak()
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Empty(t, c.Works())
	})
}

func TestRunTaskLost(t *testing.T) {
	for name, lose := range map[string]func(*scheduler.Scheduler, *schedulertest.Cell){
		"forgotten": func(_ *scheduler.Scheduler, c *schedulertest.Cell) { c.Forget("t") },
		"silent":    func(_ *scheduler.Scheduler, c *schedulertest.Cell) { c.Silence(); time.Sleep(10 * time.Second) },
		"removed":   func(s *scheduler.Scheduler, _ *schedulertest.Cell) { _ = s.RemoveCell("c1") },
		"forgotten while cut": func(_ *scheduler.Scheduler, c *schedulertest.Cell) {
			c.Cut()
			c.Forget("t")
			time.Sleep(10 * time.Second)
		},
	} {
		bubbleRun(t, name, func(t *testing.T) {
			c := schedulertest.New(schedulertest.Config{ID: "c1"})
			s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
			r := task(t.Context(), s, staging("t"))
			lose(s, c)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			require.True(t, r.done)
			require.ErrorIs(t, r.err, scheduler.ErrLost)
			c.Speak()
			time.Sleep(time.Minute)
			synctest.Wait()
			assert.Empty(t, c.Live())
		})
	}
	bubbleRun(t, "scheduler ends", func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := open(t, nil, scheduler.Config{Cells: []cell.Cell{c}})
		stop := run(t, s)
		r := task(t.Context(), s, staging("t"))
		stop()
		synctest.Wait()
		require.True(t, r.done)
		require.ErrorIs(t, r.err, scheduler.ErrLost)
	})
}

// The pair "failed, not done" and "failed, but done".
func TestRunTaskFailedStart(t *testing.T) {
	for name, done := range map[string]bool{"not done": false, "done": true} {
		bubbleRun(t, name, func(t *testing.T) {
			c := schedulertest.New(schedulertest.Config{ID: "c1"})
			s := started(t, scheduler.Config{Cells: []cell.Cell{c}})
			left := 1
			c.FailStart(func(cell.Work) (bool, error) {
				if left--; left >= 0 {
					return done, errors.New("broken")
				}
				return false, nil
			})
			r := task(t.Context(), s, staging("t"))
			time.Sleep(time.Second)
			synctest.Wait()
			assert.Len(t, c.Live(), 1)
			c.Finish("t", 0)
			synctest.Wait()
			require.True(t, r.done)
			require.NoError(t, r.err)
		})
	}
}
