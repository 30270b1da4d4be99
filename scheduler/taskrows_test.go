package scheduler_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
	"github.com/dewpoint-go/dewpoint/state"
)

func oneOff() cell.Work {
	return cell.Work{Spec: cell.Spec{Memory: 10}, Process: cell.Process{Path: "migrate"}, Log: cell.LogTag{App: "app", Source: "APP/TASK/x"}}
}

func desire(t *testing.T, s *scheduler.Scheduler, id string) scheduler.Task {
	t.Helper()
	require.NoError(t, s.DesireTask(t.Context(), id, oneOff(), "note"))
	synctest.Wait()
	return taskOf(t, s, id)
}

func taskOf(t *testing.T, s *scheduler.Scheduler, id string) scheduler.Task {
	t.Helper()
	x, err := s.Task(id)
	require.NoError(t, err)
	return x
}

func TestTaskRunsToItsEnd(t *testing.T) {
	for _, code := range []int{0, 3} {
		bubbleRun(t, "", func(t *testing.T) {
			j := state.NewMemory()
			fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
			s := open(t, j, scheduler.Config{Cells: cells})
			stop := run(t, s)
			x := desire(t, s, "t")
			require.Equal(t, scheduler.TaskRunning, x.State)
			require.Equal(t, "c1", x.Cell)
			assert.Contains(t, x.Placed, "of 1 cells")
			require.NoError(t, s.DesireTask(t.Context(), "t", oneOff(), ""), "idempotent")
			other := oneOff()
			other.Process.Path = "other"
			require.ErrorIs(t, s.DesireTask(t.Context(), "t", other, ""), scheduler.ErrTaskExists)
			require.ErrorIs(t, s.ForgetTask(t.Context(), "t"), scheduler.ErrTaskState)

			stop() // it goes on without the platform, and may end meanwhile
			fakes[0].Print(x.GUID, "last words")
			fakes[0].Finish(x.GUID, code)
			s = open(t, j, scheduler.Config{Cells: cells, LostAfter: 24 * time.Hour}) // a month has many beats
			run(t, s)
			synctest.Wait()
			x = taskOf(t, s, "t")
			assert.Equal(t, scheduler.TaskCompleted, x.State)
			assert.Equal(t, code != 0, x.Failed)
			assert.Equal(t, code, x.Exit.Code)
			assert.Equal(t, []string{"last words"}, x.Last)
			if code != 0 {
				assert.Equal(t, "APP/TASK/x: Exited with status 3", x.Failure)
			}
			assert.Empty(t, fakes[0].Works(), "forgotten by its cell when it is stored")
			starts, _ := fakes[0].Calls()
			assert.Equal(t, 1, starts)

			time.Sleep(30 * 24 * time.Hour)
			synctest.Wait()
			taskOf(t, s, "t")
			time.Sleep(25 * time.Hour)
			synctest.Wait()
			_, err := s.Task("t")
			require.ErrorIs(t, err, fs.ErrNotExist, "kept for 31 days")
		})
	}
}

func TestTaskCancel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
		s := started(t, scheduler.Config{Cells: cells})
		desire(t, s, "t")
		require.NoError(t, s.CancelTask(t.Context(), "t"))
		x := taskOf(t, s, "t")
		assert.True(t, x.Failed)
		assert.Equal(t, "task was cancelled", x.Failure)
		synctest.Wait()
		assert.Empty(t, fakes[0].Works())
		require.ErrorIs(t, s.CancelTask(t.Context(), "t"), scheduler.ErrTaskState)
		require.ErrorIs(t, s.CancelTask(t.Context(), "unknown"), fs.ErrNotExist)
		require.NoError(t, s.ForgetTask(t.Context(), "t"))
		require.NoError(t, s.ForgetTask(t.Context(), "t"))
		assert.Empty(t, s.Tasks())
		require.NoError(t, s.RemoveCell("c1"))
		desire(t, s, "waits")
		require.NoError(t, s.CancelTask(t.Context(), "waits"), "also while it waits for a place")
		synctest.Wait()
		assert.Equal(t, scheduler.TaskCompleted, taskOf(t, s, "waits").State)
	})
}

// The rows of the table of what becomes of tasks.
func TestTaskFailures(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*scheduler.Scheduler, *schedulertest.Cell)
		after  func(*scheduler.Scheduler, *schedulertest.Cell, scheduler.Task)
		wait   time.Duration
		want   string
	}{
		"refused three times": {
			before: func(_ *scheduler.Scheduler, c *schedulertest.Cell) {
				c.Refuse(func(cell.Work) string { return "insufficient resources: memory" })
			},
			wait: 2 * time.Minute, want: "insufficient resources: memory",
		},
		"no cell answers for half an hour": {
			before: func(_ *scheduler.Scheduler, c *schedulertest.Cell) { c.Silence(); time.Sleep(20 * time.Second) },
			wait:   30*time.Minute + time.Second, want: "not started within time limit",
		},
		"its cell is lost": {
			after: func(_ *scheduler.Scheduler, c *schedulertest.Cell, _ scheduler.Task) { c.Silence() },
			wait:  10 * time.Second, want: "cell disappeared before completion",
		},
		"its cell is removed": {
			after: func(s *scheduler.Scheduler, _ *schedulertest.Cell, _ scheduler.Task) { _ = s.RemoveCell("c1") },
			want:  "cell disappeared before completion",
		},
		"its container is gone": {
			after: func(_ *scheduler.Scheduler, c *schedulertest.Cell, x scheduler.Task) { c.Forget(x.GUID) },
			want:  "task container does not exist",
		},
	} {
		bubbleRun(t, name, func(t *testing.T) {
			fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
			s := started(t, scheduler.Config{Cells: cells})
			if c.before != nil {
				c.before(s, fakes[0])
			}
			x := desire(t, s, "t")
			if c.after != nil {
				c.after(s, fakes[0], x)
			}
			time.Sleep(c.wait)
			synctest.Wait()
			x = taskOf(t, s, "t")
			assert.Equal(t, scheduler.TaskCompleted, x.State, "%+v", x)
			assert.True(t, x.Failed)
			assert.Equal(t, c.want, x.Failure)
		})
	}
}

// A task that is refused is tried elsewhere, and one that waited begins when there is room.
func TestTaskPlacement(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"}, schedulertest.Config{ID: "c2"})
		fakes[0].Refuse(func(cell.Work) string { return "no" })
		s := started(t, scheduler.Config{Cells: cells})
		x := desire(t, s, "t")
		assert.Equal(t, "c2", x.Cell)
		assert.Equal(t, 1, x.Rejections)
		big := oneOff()
		big.Spec.Memory = 1 << 40
		require.NoError(t, s.DesireTask(t.Context(), "big", big, ""))
		synctest.Wait()
		require.Equal(t, scheduler.TaskPending, taskOf(t, s, "big").State)
		fakes[0].Refuse(nil)
		fakes[1].Finish(x.GUID, 0)
		synctest.Wait()
		assert.Equal(t, scheduler.TaskRunning, taskOf(t, s, "big").State)
	})
}

// A Start whose answer was lost may still be on its way: until it cannot be any more, the cell
// keeps the task that has ended, or else it would be done a second time.
func TestTaskIsKeptForALateStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
		late := true
		fakes[0].FailStart(func(cell.Work) (bool, error) {
			if late {
				late = false
				return false, errors.New("no answer")
			}
			return false, nil
		})
		s := started(t, scheduler.Config{Cells: cells})
		x := desire(t, s, "t")
		time.Sleep(time.Second)
		fakes[0].Finish(x.GUID, 0)
		synctest.Wait()
		require.Equal(t, scheduler.TaskCompleted, taskOf(t, s, "t").State)
		time.Sleep(25 * time.Second)
		synctest.Wait()
		assert.Len(t, fakes[0].Works(), 1)
		require.NoError(t, fakes[0].Start(t.Context(), cell.Work{ID: x.GUID, Process: cell.Process{Path: "again"}}))
		assert.Empty(t, fakes[0].Live(), "it is not done again")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Empty(t, fakes[0].Works())
	})
}

// What a cell says at length is stored in brief.
func TestLongReasons(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
		fakes[0].Refuse(func(cell.Work) string { return "no " + strings.Repeat("é", 1000) })
		s := started(t, scheduler.Config{Cells: cells})
		all := apply(t, s, web("a", 1))
		assert.Len(t, all[0].PlacementError, 1024)
		x := desire(t, s, "t")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		x = taskOf(t, s, x.ID)
		assert.Equal(t, scheduler.TaskCompleted, x.State)
		assert.LessOrEqual(t, len(x.Failure), 1024)
		assert.Contains(t, x.Failure, "no éé")
	})
}

// A Start with an unknown answer is repeated under the same id: at most one run.
func TestTaskFailedStart(t *testing.T) {
	for _, done := range []bool{false, true} {
		bubbleRun(t, "", func(t *testing.T) {
			fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
			left := 2
			fakes[0].FailStart(func(cell.Work) (bool, error) {
				if left--; left >= 0 {
					return done, errors.New("broken")
				}
				return false, nil
			})
			s := started(t, scheduler.Config{Cells: cells})
			desire(t, s, "t")
			time.Sleep(5 * time.Second)
			synctest.Wait()
			require.Len(t, fakes[0].Works(), 1)
			assert.Equal(t, taskOf(t, s, "t").GUID, fakes[0].Works()[0].ID)
			assert.Equal(t, scheduler.TaskRunning, taskOf(t, s, "t").State)
		})
	}
}

func TestTaskWatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
		s := started(t, scheduler.Config{Cells: cells})
		desire(t, s, "first")
		var seen []string
		var rev uint64
		for e, err := range s.WatchTasks(t.Context(), 0) {
			require.NoError(t, err)
			if e.Synced {
				rev = e.Rev
				break
			}
			seen = append(seen, e.Task.ID)
		}
		assert.Equal(t, []string{"first"}, seen)
		go func() {
			for e, err := range s.WatchTasks(t.Context(), rev) {
				if err != nil {
					return
				}
				if text := string(e.Task.State) + " " + e.Task.ID; e.Gone {
					seen = append(seen, "gone "+e.Task.ID)
				} else if seen[len(seen)-1] != text {
					seen = append(seen, text)
				}
			}
		}()
		x := desire(t, s, "t")
		fakes[0].Finish(x.GUID, 0)
		synctest.Wait()
		require.NoError(t, s.ForgetTask(t.Context(), "t"))
		synctest.Wait()
		assert.Equal(t, []string{"first", "PENDING t", "RUNNING t", "COMPLETED t", "gone t"}, seen)
	})
}

func TestTaskValidation(t *testing.T) {
	t.Parallel()
	s := open(t, nil, scheduler.Config{})
	for want, bad := range map[string]func(*cell.Work){
		"leave the id":    func(w *cell.Work) { w.ID = "x" },
		"timeout is":      func(w *cell.Work) { w.Timeout = -1 },
		"has no path":     func(w *cell.Work) { w.Process.Path = "" },
		"memory is -1":    func(w *cell.Work) { w.Spec.Memory = -1 },
		"pids is -5":      func(w *cell.Work) { w.Spec.PIDs = -5 },
		"stack \"s\" and": func(w *cell.Work) { w.Spec.Stack, w.Spec.Image = "s", "i" },
	} {
		w := oneOff()
		bad(&w)
		require.ErrorContains(t, s.DesireTask(t.Context(), "t", w, ""), want)
	}
	require.ErrorContains(t, s.DesireTask(t.Context(), "a/b", oneOff(), ""), "its id must be")
	assert.Empty(t, s.Tasks(), "nothing is stored")
}
