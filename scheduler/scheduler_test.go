package scheduler_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/lrp/lrptest"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
	"github.com/dewpoint-go/dewpoint/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSchedulerIsAnLRPScheduler(t *testing.T) {
	t.Parallel()
	lrptest.Run(t, func(t *testing.T, cells ...cell.Cell) lrp.Scheduler {
		return open(t, state.NewMemory(), scheduler.Config{Cells: cells})
	})
}

// open makes a Scheduler over a journal.
func open(t *testing.T, j state.Journal, c scheduler.Config) *scheduler.Scheduler {
	t.Helper()
	db, err := state.Open(context.Background(), state.Config{Journal: j}, scheduler.Tables()...)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	c.DB = db
	s, err := scheduler.New(c)
	require.NoError(t, err)
	return s
}

// bubble runs a test with a fake clock.
func bubble(t *testing.T, fn func(t *testing.T)) {
	t.Parallel()
	t.Helper()
	synctest.Test(t, fn)
}

// run runs a Scheduler until the returned function is called, or the test ends.
func run(t *testing.T, s *scheduler.Scheduler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	<-s.Ready()
	return stop
}

func started(t *testing.T, c scheduler.Config) *scheduler.Scheduler {
	t.Helper()
	s := open(t, nil, c)
	run(t, s)
	return s
}

func web(id lrp.ID, n int) lrp.Desired {
	return lrp.Desired{ID: id, Instances: n, Work: cell.Work{
		Spec:    cell.Spec{Memory: 10, Disk: 10, Ports: []int{8080}},
		Process: cell.Process{Path: "serve"}, Log: cell.LogTag{App: "app-" + string(id), Source: "APP/PROC/WEB"},
	}}
}

func apply(t *testing.T, s *scheduler.Scheduler, d lrp.Desired) []lrp.Instance {
	t.Helper()
	require.NoError(t, s.Apply(t.Context(), d))
	synctest.Wait()
	return instances(t, s, d.ID)
}

func instances(t *testing.T, s *scheduler.Scheduler, id lrp.ID) []lrp.Instance {
	t.Helper()
	all, err := s.Instances(t.Context(), id)
	require.NoError(t, err)
	return all
}

func guids(all []lrp.Instance) []string {
	var ids []string
	for _, i := range all {
		ids = append(ids, i.GUID)
	}
	return ids
}

func TestNewNeedsADatabase(t *testing.T) {
	t.Parallel()
	_, err := scheduler.New(scheduler.Config{})
	require.ErrorContains(t, err, "Config.DB is required")
}

func TestRunWorksOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := started(t, scheduler.Config{})
		require.ErrorContains(t, s.Run(t.Context()), "called twice")
	})
}

// A restart over the same journal: what runs is adopted, untouched; what happened
// meanwhile is made good.
func TestAdoption(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		stop := run(t, s)
		before := apply(t, s, web("a", 4))
		go func() { _, _ = s.RunTask(t.Context(), cell.Work{ID: "task"}, nil) }()
		synctest.Wait()
		stop()
		synctest.Wait()
		require.Len(t, c.Live(), 5, "works outlive the control plane")

		c.Finish(before[1].GUID, 9) // a crash
		c.Forget(before[2].GUID)    // lost
		crashed := time.Now()
		time.Sleep(time.Minute)
		var lines []string
		s = open(t, j, scheduler.Config{Cells: []cell.Cell{c}, LogSink: func(l logs.Line) { lines = append(lines, l.Text) }})
		run(t, s)
		synctest.Wait()
		after := instances(t, s, "a")
		require.Len(t, after, 4)
		for i, a := range after {
			assert.Equal(t, lrp.Running, a.State, "%+v", a)
			assert.Equal(t, i == 0 || i == 3, a.GUID == before[i].GUID, "index %d", i)
		}
		was, err := json.Marshal(before[0])
		require.NoError(t, err)
		is, err := json.Marshal(after[0])
		require.NoError(t, err)
		assert.JSONEq(t, string(was), string(is), "adopted without a change")
		assert.Equal(t, 1, after[1].Crashes)
		assert.True(t, after[1].LastCrash.Time.Equal(crashed))
		assert.Equal(t, 0, after[2].Crashes)
		assert.Len(t, c.Works(), 4, "the task that nobody waits for is stopped")
	})
}

// The process dies between the claim and the cell's answer.
func TestAdoptionOfAClaim(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run(map[bool]string{false: "not taken", true: "taken"}[done], func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				j := state.NewMemory()
				c := schedulertest.New(schedulertest.Config{ID: "c1"})
				s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
				stop := run(t, s)
				c.FailStart(func(cell.Work) (bool, error) { return done, errors.New("broken") })
				apply(t, s, web("a", 1))
				stop()
				c.FailStart(nil)
				s = open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
				run(t, s)
				synctest.Wait()
				require.Len(t, c.Works(), 1)
				i := instances(t, s, "a")[0]
				assert.Equal(t, lrp.Running, i.State)
				assert.Equal(t, c.Works()[0].ID, i.GUID)
				assert.Zero(t, i.Crashes)
			})
		})
	}
}

func TestRemovedWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c := schedulertest.New(schedulertest.Config{})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		stop := run(t, s)
		apply(t, s, web("a", 2))
		stop()
		require.NoError(t, s.Remove(t.Context(), "a"), "works without Run")
		require.Len(t, c.Live(), 2)
		s = open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		run(t, s)
		synctest.Wait()
		assert.Empty(t, instances(t, s, "a"))
		assert.Empty(t, c.Works())
	})
}

func TestSilentCell(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		before := apply(t, s, web("a", 2))
		require.Equal(t, []string{"c1", "c2"}, []string{before[0].Cell, before[1].Cell})

		c1.Silence() // briefly: nothing happens
		time.Sleep(4 * time.Second)
		c1.Speak()
		time.Sleep(4 * time.Second)
		synctest.Wait()
		require.Equal(t, guids(before), guids(instances(t, s, "a")))

		// For long, and the replacement cannot run at once: the suspect keeps its place.
		c2.Refuse(func(cell.Work) string { return "insufficient resources: memory" })
		c1.Silence()
		time.Sleep(9 * time.Second)
		synctest.Wait()
		require.Equal(t, guids(before), guids(instances(t, s, "a")))
		c1.Speak() // and comes back
		time.Sleep(4 * time.Second)
		synctest.Wait()
		require.Equal(t, before[0], instances(t, s, "a")[0])
		require.Len(t, c1.Works(), 1)

		// For long: replaced, and the old one is stopped when the cell is back.
		c2.Refuse(nil)
		c1.Silence()
		time.Sleep(9 * time.Second)
		synctest.Wait()
		after := instances(t, s, "a")
		assert.Equal(t, "c2", after[0].Cell)
		assert.Equal(t, lrp.Running, after[0].State)
		assert.Zero(t, after[0].Crashes)
		c1.Speak()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		assert.Equal(t, guids(after), guids(instances(t, s, "a")))
		assert.Empty(t, c1.Works(), "the one that was replaced is stopped")
	})
}

func TestReadyDoesNotWaitForASilentCell(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		c1.Silence()
		from := time.Now()
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		assert.Less(t, time.Since(from), 13*time.Second)
		for _, i := range apply(t, s, web("a", 3)) {
			assert.Equal(t, "c2", i.Cell)
		}
		c1.Speak()
		time.Sleep(10 * time.Second)
		assert.Equal(t, "c1", apply(t, s, web("a", 4))[3].Cell)
	})
}

func TestAddAndRemoveCell(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := started(t, scheduler.Config{})
		got := apply(t, s, web("a", 2))
		assert.Equal(t, lrp.Unclaimed, got[0].State)
		assert.Equal(t, "unable to communicate to compatible cells (there are no cells)", got[0].PlacementError)
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		require.Error(t, s.AddCell(nil))
		require.NoError(t, s.AddCell(c1))
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, lrp.Running, instances(t, s, "a")[1].State, "work waits for a cell to come")
		require.NoError(t, s.AddCell(c2))
		time.Sleep(time.Second)
		twin := schedulertest.New(schedulertest.Config{ID: "c2"})
		require.NoError(t, s.AddCell(twin))
		time.Sleep(time.Second)
		require.NoError(t, s.RemoveCell("c1"))
		require.NoError(t, s.RemoveCell("unknown"))
		synctest.Wait()
		for _, i := range instances(t, s, "a") {
			assert.Equal(t, "c2", i.Cell)
			assert.Equal(t, lrp.Running, i.State)
			assert.Zero(t, i.Crashes)
		}
		assert.Empty(t, c1.Works(), "stopped where it was")
		assert.Empty(t, twin.Works())
		require.NoError(t, s.AddCell(c1))
		time.Sleep(time.Second)
		apply(t, s, web("a", 4))
		assert.Len(t, c1.Live(), 2)
	})
}

func TestDrainingCellGetsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		apply(t, s, web("a", 2))
		c1.Drain(true)
		time.Sleep(3 * time.Second)
		assert.Empty(t, c1.Works(), "what it had is moved away")
		apply(t, s, web("a", 6))
		assert.Empty(t, c1.Works())
		assert.Len(t, c2.Live(), 6)
	})
}

func TestLines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		var mu sync.Mutex
		got := map[string][]string{}
		s := started(t, scheduler.Config{Cells: []cell.Cell{c}, LogSink: func(l logs.Line) {
			mu.Lock()
			defer mu.Unlock()
			got[l.Instance] = append(got[l.Instance], l.Text)
		}})
		first := apply(t, s, web("a", 2))
		var want []string
		for n := range 100 {
			text := fmt.Sprint("line ", n)
			want = append(want, text)
			for _, i := range first {
				c.Print(i.GUID, text)
			}
			if n%30 == 0 {
				c.Cut()
				time.Sleep(time.Second)
			}
		}
		c.Print(first[1].GUID, "last words")
		c.Finish(first[1].GUID, 1)
		synctest.Wait()
		time.Sleep(10 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, want, got[first[0].GUID], "once, in order, through broken streams")
		assert.Equal(t, append(want, "last words"), got[first[1].GUID], "the last lines of a crash come, too")
		assert.Contains(t, instances(t, s, "a")[1].LastCrash.Last, "last words")
		assert.Len(t, c.Works(), 2, "the crashed one is forgotten after its lines were read")
	})
}

// A journal that fails for a while delays everything and loses nothing.
func TestJournalFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		c := schedulertest.New(schedulertest.Config{ID: "c1"})
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{c}})
		run(t, s)
		before := apply(t, s, web("a", 2))
		j.Inject(state.Fault{Err: errors.New("disk full")}, state.Fault{Err: errors.New("timeout"), Done: true})
		c.Finish(before[0].GUID, 1)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		after := instances(t, s, "a")
		assert.Equal(t, lrp.Running, after[0].State)
		assert.Equal(t, 1, after[0].Crashes)
		assert.Len(t, c.Works(), 2)
	})
}
