package scheduler_test

import (
	"context"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
)

var (
	beatCells = flag.Int("beat.cells", 10, "cells of TestNoFalseAlarm")
	beatTime  = flag.Duration("beat.time", 30*time.Minute, "simulated time of TestNoFalseAlarm")
)

// lossy is a cell behind a bad network: of its answers 3 in 10 never come, and for three seconds
// in each half minute none does.
type lossy struct {
	*schedulertest.Cell
	mu    sync.Mutex
	rng   *rand.Rand
	begun time.Time
	lost  int
}

func (c *lossy) State(ctx context.Context) (cell.State, error) {
	c.mu.Lock()
	gone := c.rng.IntN(10) < 3 || time.Since(c.begun)%(30*time.Second+170*time.Millisecond) < 3*time.Second
	if gone {
		c.lost++
	}
	c.mu.Unlock()
	if gone {
		<-ctx.Done()
		return cell.State{}, ctx.Err()
	}
	return c.Cell.State(ctx)
}

// A bad network and short stalls are no reason to replace anything.
func TestNoFalseAlarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var said strings.Builder
		var cells []cell.Cell
		for i := range *beatCells {
			cells = append(cells, &lossy{Cell: schedulertest.New(schedulertest.Config{ID: fmt.Sprint("c", i)}), begun: time.Now(), rng: rand.New(rand.NewPCG(uint64(i), 3))})
		}
		s := started(t, scheduler.Config{Cells: cells, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		apply(t, s, web("a", 2**beatCells))
		time.Sleep(time.Minute)
		before := guids(instances(t, s, "a"))
		time.Sleep(*beatTime)
		synctest.Wait()
		assert.Equal(t, before, guids(instances(t, s, "a")))
		assert.NotContains(t, said.String(), "is lost", "%.3000s", said.String())
		lost := 0
		for _, c := range cells {
			lost += c.(*lossy).lost
		}
		assert.Greater(t, lost, *beatCells*100, "the network was bad")
	})
}

// A cell that falls silent is noticed in six seconds, and its instances have other places at once.
func TestLostCellIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes, cells := cellsOf(schedulertest.Config{ID: "c1"}, schedulertest.Config{ID: "c2"})
		s := started(t, scheduler.Config{Cells: cells})
		apply(t, s, web("a", 8))
		for range 20 {
			time.Sleep(time.Minute + 170*time.Millisecond) // another moment between two beats
			synctest.Wait()
			from := time.Now()
			fakes[0].Silence()
			for len(fakes[1].Live()) < 8 {
				require.Less(t, time.Since(from), 10*time.Second)
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
			}
			assert.LessOrEqual(t, time.Since(from), 6*time.Second)
			assert.GreaterOrEqual(t, time.Since(from), 4*time.Second)
			for _, i := range instances(t, s, "a") {
				assert.Equal(t, lrp.Running, i.State)
				assert.Equal(t, "c2", i.Cell)
			}
			fakes[0].Speak()
			time.Sleep(20 * time.Second)
			require.NoError(t, s.Drain(t.Context(), "c2", true))
			time.Sleep(5 * time.Second)
			require.NoError(t, s.Drain(t.Context(), "c2", false))
			require.Len(t, fakes[0].Live(), 8)
			require.NoError(t, s.Drain(t.Context(), "c1", false))
			for i := range 8 { // back to four on each
				if i%2 == 0 {
					require.NoError(t, s.Restart(t.Context(), "a", i))
				}
			}
			synctest.Wait()
		}
	})
}

// hangs is a cell whose Watch hangs while it is mute; all else is answered.
type hangs struct {
	*schedulertest.Cell
	mute    atomic.Bool
	watches atomic.Int32
}

func (c *hangs) Watch(ctx context.Context) iter.Seq2[cell.Event, error] {
	return func(yield func(cell.Event, error) bool) {
		if c.watches.Add(1); c.mute.Load() {
			<-ctx.Done()
			return
		}
		c.Cell.Watch(ctx)(yield)
	}
}

// A cell that answers but does not tell what it runs is as good as lost, though a little later.
func TestACellThatDoesNotTell(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c1, c2 := &hangs{Cell: schedulertest.New(schedulertest.Config{ID: "c1"})}, schedulertest.New(schedulertest.Config{ID: "c2"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}})
		before := apply(t, s, web("a", 2))
		require.Equal(t, []string{"c1", "c2"}, []string{before[0].Cell, before[1].Cell})
		c1.mute.Store(true)
		c1.Cut()
		time.Sleep(8 * time.Second)
		synctest.Wait()
		cells, err := s.Cells(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "it has not told yet what it runs", cells[0].Why)
		require.Equal(t, guids(before), guids(instances(t, s, "a")), "it may take its time to tell")
		time.Sleep(8 * time.Second)
		synctest.Wait()
		after := instances(t, s, "a")
		assert.Equal(t, "c2", after[0].Cell)
		assert.Equal(t, lrp.Running, after[0].State)
		cells, err = s.Cells(t.Context())
		require.NoError(t, err)
		assert.True(t, cells[0].Lost)
		assert.Regexp(t, `^it answers, but for 1[23]s has not told what it runs: its Watch does not come to Synced$`, cells[0].Why)

		had := c1.watches.Load()
		time.Sleep(time.Minute)
		assert.InDelta(t, 5, c1.watches.Load()-had, 1, "it is asked again now and then")
		c1.mute.Store(false)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		cells, err = s.Cells(t.Context())
		require.NoError(t, err)
		assert.True(t, cells[0].Reachable)
		assert.Empty(t, cells[0].Why)
		assert.Equal(t, guids(after), guids(instances(t, s, "a")))
		assert.Empty(t, c1.Works(), "what was replaced is stopped")
	})
}

// countless is a cell that does not count its changes.
type countless struct{ *schedulertest.Cell }

func (c countless) State(ctx context.Context) (cell.State, error) {
	st, err := c.Cell.State(ctx)
	st.Changes = 0
	return st, err
}

func (c countless) Watch(ctx context.Context) iter.Seq2[cell.Event, error] {
	return func(yield func(cell.Event, error) bool) {
		for e, err := range c.Cell.Watch(ctx) {
			if e.Changes = 0; !yield(e, err) {
				return
			}
		}
	}
}

// A Watch that stays open and tells nothing any more is noticed by what the cell counts; one of a
// cell that does not count, later.
func TestAWatchThatIsStuck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c1 := &hangs{Cell: schedulertest.New(schedulertest.Config{ID: "c1"})}
		c2, c3 := schedulertest.New(schedulertest.Config{ID: "c2"}), schedulertest.New(schedulertest.Config{ID: "c3"})
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2, countless{c3}}})
		before := apply(t, s, web("a", 3))
		had := c1.watches.Load()
		time.Sleep(time.Hour)
		require.Equal(t, had, c1.watches.Load(), "a Watch that has nothing to tell is left alone")

		c1.Stick()
		c3.Stick()
		c1.Finish(before[0].GUID, 1)
		c3.Finish(before[2].GUID, 1)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, guids(before), guids(instances(t, s, "a")))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		after := instances(t, s, "a")
		assert.Equal(t, 1, after[0].Crashes)
		assert.Equal(t, lrp.Running, after[0].State)
		assert.Equal(t, before[2].GUID, after[2].GUID)
		assert.Equal(t, had+1, c1.watches.Load())
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		assert.Equal(t, 1, instances(t, s, "a")[2].Crashes)

		c1.Stick()
		c1.mute.Store(true) // and the next one does not come
		for _, in := range instances(t, s, "a") {
			if in.Cell == "c1" {
				c1.Finish(in.GUID, 1)
			}
		}
		time.Sleep(14 * time.Second)
		synctest.Wait()
		cells, err := s.Cells(t.Context())
		require.NoError(t, err)
		assert.True(t, cells[0].Lost)
		assert.Contains(t, cells[0].Why, "it answers, but for ")
		for _, in := range instances(t, s, "a") {
			assert.NotEqual(t, "c1", in.Cell)
			assert.Equal(t, lrp.Running, in.State)
		}
	})
}

// One that never answers is told of too, though nobody knows its name.
func TestACellThatNeverAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var said strings.Builder
		c1, c2 := schedulertest.New(schedulertest.Config{ID: "c1"}), schedulertest.New(schedulertest.Config{ID: "c2"})
		c1.Silence()
		s := started(t, scheduler.Config{Cells: []cell.Cell{c1, c2}, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		time.Sleep(time.Minute)
		cells, err := s.Cells(t.Context())
		require.NoError(t, err)
		require.Len(t, cells, 2)
		assert.Equal(t, "", cells[0].ID)
		assert.True(t, cells[0].Lost)
		assert.Regexp(t, `^it has never answered for (5\.9|6)s: .*deadline exceeded`, cells[0].Why)
		assert.Equal(t, "c2", cells[1].ID)
		assert.Equal(t, 1, strings.Count(said.String(), "never answered;"))
		c1.Speak()
		time.Sleep(5 * time.Second)
		cells, err = s.Cells(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "c1", cells[0].ID)
		assert.True(t, cells[0].Reachable)
	})
}
