package scheduler_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
	"github.com/dewpoint-go/dewpoint/state"
)

func cellsOf(configs ...schedulertest.Config) (fakes []*schedulertest.Cell, cells []cell.Cell) {
	for _, c := range configs {
		f := schedulertest.New(c)
		fakes, cells = append(fakes, f), append(cells, f)
	}
	return fakes, cells
}

// A drained cell's instances go on until their replacements run, in the eyes of users and of a
// router; the drain outlives a restart.
func TestDrainReplacesFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"}, schedulertest.Config{ID: "c2", Hold: true})
		s := open(t, j, scheduler.Config{Cells: cells})
		stop := run(t, s)
		require.NoError(t, s.Drain(t.Context(), "c2", true))
		before := apply(t, s, web("a", 2))
		require.Len(t, fakes[0].Live(), 2, "a drained cell gets nothing")
		require.NoError(t, s.Drain(t.Context(), "c2", false))
		require.NoError(t, s.Drain(t.Context(), "c1", true))
		synctest.Wait()
		for i, in := range instances(t, s, "a") {
			assert.Equal(t, lrp.Running, in.State)
			assert.Equal(t, lrp.Evacuating, in.Standing)
			assert.Equal(t, before[i].GUID, in.GUID)
			assert.True(t, in.Routable)
		}
		require.Len(t, fakes[1].Live(), 2, "the replacements are being made")

		stop()
		s = open(t, j, scheduler.Config{Cells: cells})
		run(t, s)
		synctest.Wait()
		all, err := s.Cells(t.Context())
		require.NoError(t, err)
		require.True(t, all[0].Draining && all[0].Drained && !all[0].Empty(), "%+v", all[0])
		require.Equal(t, before[0].GUID, instances(t, s, "a")[0].GUID, "a restart changes nothing")

		fakes[1].Advance(fakes[1].Live()[0].ID)
		synctest.Wait()
		got := instances(t, s, "a")
		assert.Equal(t, "c2", got[0].Cell)
		assert.Empty(t, got[0].Others)
		assert.Equal(t, before[1].GUID, got[1].GUID)
		fakes[1].Advance(got[0].GUID)
		for _, w := range fakes[1].Live() {
			fakes[1].Advance(w.ID)
		}
		synctest.Wait()
		assert.Empty(t, fakes[0].Works())
		all, err = s.Cells(t.Context())
		require.NoError(t, err)
		assert.True(t, all[0].Empty())
		require.NoError(t, s.Drain(t.Context(), "c1", false))
		synctest.Wait()
		require.Len(t, apply(t, s, web("a", 4)), 4)
		assert.NotEmpty(t, fakes[0].Live(), "it takes work again")
	})
}

// An instance without a place for its replacement stays; one whose replacement does not begin to
// serve is stopped after ten minutes.
func TestEvacuationTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"})
		s := started(t, scheduler.Config{Cells: cells})
		before := apply(t, s, web("a", 1))[0]
		fakes[0].Drain(true)
		time.Sleep(25 * time.Minute)
		synctest.Wait()
		in := instances(t, s, "a")[0]
		assert.Equal(t, before.GUID, in.GUID)
		assert.Equal(t, "unable to communicate to compatible cells (1 cell: is draining)", in.PlacementError)

		c2 := schedulertest.New(schedulertest.Config{ID: "c2", Hold: true})
		require.NoError(t, s.AddCell(c2))
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		require.Len(t, c2.Live(), 1)
		in = instances(t, s, "a")[0]
		if in.GUID != before.GUID { // its time was counted from the last try in vain
			assert.Equal(t, lrp.Claimed, in.State)
		}
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		assert.Empty(t, fakes[0].Works())
		assert.Equal(t, lrp.Claimed, instances(t, s, "a")[0].State)
	})
}

// A drain that is called off before the replacement runs changes nothing.
func TestDrainCalledOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"}, schedulertest.Config{ID: "c2", Hold: true})
		s := started(t, scheduler.Config{Cells: cells})
		fakes[1].Drain(true)
		time.Sleep(5 * time.Second)
		before := apply(t, s, web("a", 2))
		fakes[1].Drain(false)
		fakes[0].Drain(true)
		time.Sleep(5 * time.Second)
		require.Len(t, fakes[1].Live(), 2)
		fakes[0].Drain(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		after := instances(t, s, "a")
		assert.Equal(t, guids(before), guids(after))
		assert.Empty(t, after[0].Standing)
		assert.Empty(t, fakes[1].Works())
	})
}

// While a lost cell's instance is being replaced it is shown, and told as one that may serve.
func TestWatchTellsOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"}, schedulertest.Config{ID: "c2", Hold: true})
		s := started(t, scheduler.Config{Cells: cells})
		fakes[1].Drain(true)
		time.Sleep(5 * time.Second)
		before := apply(t, s, web("a", 1))[0]
		fakes[1].Drain(false)
		time.Sleep(5 * time.Second)
		var seen []lrp.Instance
		go func() {
			for e, err := range s.Watch(t.Context(), 0) {
				if err != nil {
					return
				}
				seen = append(seen, e.Instance)
			}
		}()
		fakes[0].Silence()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		last := seen[len(seen)-1]
		assert.Equal(t, before.GUID, last.GUID)
		assert.Equal(t, lrp.Suspect, last.Standing)
		assert.Equal(t, before.Addresses, last.Addresses)
		fakes[1].Advance(fakes[1].Live()[0].ID)
		synctest.Wait()
		last = seen[len(seen)-1]
		assert.Equal(t, "c2", last.Cell)
		assert.Empty(t, last.Others, "it no longer counts")
		assert.NotEmpty(t, last.Placed)
	})
}

// A process may be started only so fast.
func TestStartingLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1", Hold: true})
		s := started(t, scheduler.Config{Cells: cells, StartingLimit: 2})
		apply(t, s, web("a", 3))
		all := apply(t, s, web("b", 2))
		require.Len(t, fakes[0].Live(), 2)
		assert.Equal(t, "waiting to start instance: reached in-flight start limit", all[0].PlacementError)
		require.NoError(t, s.DesireTask(t.Context(), "t", cell.Work{Process: cell.Process{Path: "x"}}, ""))
		for started := 2; started < 6; started++ {
			require.Len(t, fakes[0].Live(), started, "no more than two are starting")
			for _, w := range fakes[0].Live() {
				if w.Phase == cell.PhaseCreating {
					fakes[0].Advance(w.ID)
					break
				}
			}
			synctest.Wait()
		}
		require.Len(t, fakes[0].Live(), 6, "at once when one has started, and not half a minute later")
		task, err := s.Task("t")
		require.NoError(t, err)
		assert.Zero(t, task.Rejections, "waiting for the others is no rejection")
	})
}

// Explain answers what-if, and Check finds nothing to do.
func TestExplainAndCheck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1", Zone: "z1", Memory: 100}, schedulertest.Config{ID: "c2", Zone: "z2", Memory: 15})
		s := started(t, scheduler.Config{Cells: cells})
		all := apply(t, s, web("a", 1))
		assert.Regexp(t, `^of 2 cells: zone z1 had 0 of the process, the cell 0; 0 starting, 0\.\d+ full with it$`, all[0].Placed)
		e, err := s.Explain(t.Context(), scheduler.Want{LRP: "a", Index: 1, Spec: cell.Spec{Memory: 20}})
		require.NoError(t, err)
		assert.Equal(t, "c1", e.Cell)
		assert.Equal(t, []scheduler.Refusal{{Rule: "lacks memory, even when empty", Cells: 1}}, e.Refused)
		starts, stops := fakes[0].Calls()
		commits := all
		require.NoError(t, s.Check(t.Context()))
		s2, t2 := fakes[0].Calls()
		assert.Equal(t, []int{starts, stops}, []int{s2, t2})
		assert.Equal(t, commits, instances(t, s, "a"))
	})
}

// moves are done one after the other, never below the wanted count, until nothing is gained.
func TestRebalance(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1", Zone: "z1", Memory: 200}, schedulertest.Config{ID: "c2", Zone: "z2", Memory: 200})
		s := started(t, scheduler.Config{Cells: cells[:1]})
		for i := range 8 {
			apply(t, s, web(lrp.ID(fmt.Sprint("app-", i)), 2))
		}
		require.Len(t, fakes[0].Live(), 16)
		require.NoError(t, s.AddCell(cells[1]))
		time.Sleep(5 * time.Second)
		require.Empty(t, fakes[1].Live(), "by itself nothing is moved")
		total := 0
		for range 30 {
			moves, err := s.Rebalance(t.Context(), 3)
			require.NoError(t, err)
			require.LessOrEqual(t, len(moves), 3)
			if total += len(moves); len(moves) == 0 {
				break
			}
			synctest.Wait()
			for i := range 8 {
				for _, in := range instances(t, s, lrp.ID(fmt.Sprint("app-", i))) {
					require.Equal(t, lrp.Running, in.State)
					require.Zero(t, in.Crashes)
				}
			}
		}
		assert.Equal(t, 8, total, "one of each process goes to the other zone")
		assert.Len(t, fakes[0].Live(), 8)
		assert.Len(t, fakes[1].Live(), 8)
		starts, _ := fakes[0].Calls()
		time.Sleep(time.Hour)
		more, err := s.Rebalance(t.Context(), 3)
		require.NoError(t, err)
		assert.Empty(t, more)
		again, _ := fakes[0].Calls()
		assert.Equal(t, starts, again)
	})
}

// When a cell comes, Config.Moves lets it be filled, so many at a time.
func TestMovesWhenACellComes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1", Memory: 200}, schedulertest.Config{ID: "c2", Memory: 200, Hold: true})
		s := started(t, scheduler.Config{Cells: cells[:1], Moves: 2})
		apply(t, s, web("a", 10))
		require.NoError(t, s.AddCell(cells[1]))
		time.Sleep(5 * time.Second)
		for range 5 {
			synctest.Wait()
			held := 0
			for _, w := range fakes[1].Live() {
				if w.Phase == cell.PhaseCreating {
					held++
				}
			}
			require.LessOrEqual(t, held, 2)
			require.Equal(t, 10, len(fakes[0].Live())+len(fakes[1].Live())-held, "never fewer than wanted")
			for _, w := range fakes[1].Live() {
				if w.Phase == cell.PhaseCreating {
					fakes[1].Advance(w.ID)
				}
			}
			synctest.Wait()
		}
		assert.Len(t, fakes[0].Live(), 5)
		assert.Len(t, fakes[1].Live(), 5)
	})
}

// A move whose replacement is refused leaves the original where it is, and is not tried again at
// once.
func TestMoveRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1", Memory: 200}, schedulertest.Config{ID: "c2", Memory: 200})
		s := started(t, scheduler.Config{Cells: cells[:1], Moves: 2})
		before := apply(t, s, web("a", 6))
		fakes[1].Refuse(func(cell.Work) string { return "no" })
		require.NoError(t, s.AddCell(cells[1]))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		assert.Equal(t, guids(before), guids(instances(t, s, "a")))
		starts, _ := fakes[1].Calls()
		assert.LessOrEqual(t, starts, 6, "each once")
		assert.Empty(t, s.Audit())
	})
}
