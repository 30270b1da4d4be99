package scheduler_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
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

// lossy is a cell behind a bad network: of its answers 3 in 10 never come or, if it stalls, none
// for three seconds in each half minute.
type lossy struct {
	*schedulertest.Cell
	stalls bool
	mu     sync.Mutex
	rng    *rand.Rand
	begun  time.Time
	lost   int
}

func (c *lossy) State(ctx context.Context) (cell.State, error) {
	c.mu.Lock()
	gone := c.rng.IntN(10) < 3
	if c.stalls {
		gone = time.Since(c.begun)%(30*time.Second+170*time.Millisecond) < 3*time.Second
	}
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
			cells = append(cells, &lossy{Cell: schedulertest.New(schedulertest.Config{ID: fmt.Sprint("c", i)}), stalls: i%2 == 1, begun: time.Now(), rng: rand.New(rand.NewPCG(uint64(i), 3))})
		}
		s := started(t, scheduler.Config{Cells: cells, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		apply(t, s, web("a", 2**beatCells))
		time.Sleep(time.Minute)
		before := guids(instances(t, s, "a"))
		time.Sleep(*beatTime)
		synctest.Wait()
		assert.Equal(t, before, guids(instances(t, s, "a")))
		assert.NotContains(t, said.String(), "is lost")
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
			assert.LessOrEqual(t, time.Since(from), 6260*time.Millisecond)
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
