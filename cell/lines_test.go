package cell_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

func texts(t *testing.T, a *cell.Agent, id string) []string {
	t.Helper()
	var all []string
	for l, err := range a.Logs(t.Context(), id, 0) {
		require.NoError(t, err)
		all = append(all, l.Text)
	}
	return all
}

func TestLinesThatNobodyHasReadAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}), LogLines: 10})
		require.NoError(t, a.Start(t.Context(), work("w", "lines=1000")))
		until(t, a, "w", is(cell.PhaseDone))
		all := texts(t, a, "w")
		assert.Contains(t, all, "line 1")
		assert.Contains(t, all, "line 1000")
		again := texts(t, a, "w")
		assert.Equal(t, fmt.Sprintf("%d lines are missing here: they are no longer kept", len(all)-10), again[0])
		assert.Equal(t, all[len(all)-10:], again[1:])
	})
}

func TestLinesAreBoundedAllTheSame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}), LogBytes: 20_000})
		require.NoError(t, a.Start(t.Context(), work("w", "lines=1000")))
		until(t, a, "w", is(cell.PhaseDone))
		all := texts(t, a, "w")
		assert.Contains(t, all[0], "lines are missing here")
		assert.Contains(t, all, "line 1000")
		assert.Less(t, len(all), 160)
	})
}

// A reader that is at the beginning loses nothing to one that is at the end.
func TestASlowReaderOfLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}), LogLines: 10})
		w := work("w", "out=first", "wait", "lines=5000")
		w.Process.Grace = time.Minute
		require.NoError(t, a.Start(t.Context(), w))
		until(t, a, "w", is(cell.PhaseRunning))
		synctest.Wait()
		n := 0
		for l, err := range a.Logs(t.Context(), "w", 0) {
			require.NoError(t, err)
			if l.Text == "first" {
				require.NoError(t, a.Stop(t.Context(), "w"))
				for range a.Logs(t.Context(), "w", 0) { // another reads to its end meanwhile
					continue
				}
			}
			assert.NotEqual(t, "LOGS", l.Source)
			if l.Text == fmt.Sprintf("line %d", n+1) {
				n++
			}
		}
		assert.Equal(t, 5000, n)
	})
}

func TestBurstsOfTwentyInstances(t *testing.T) {
	t.Parallel()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()})})
	var wg sync.WaitGroup
	for i := range 20 {
		id := fmt.Sprintf("w%d", i)
		require.NoError(t, a.Start(t.Context(), work(id, "lines=10000")))
		wg.Go(func() {
			n := 0
			for l := range a.Logs(t.Context(), id, 0) {
				if l.Text == fmt.Sprintf("line %d", n+1) {
					n++
				}
			}
			assert.Equal(t, 10000, n, id)
		})
	}
	wg.Wait()
}

func TestStopEndsWhatIsSavedAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		saving := make(chan struct{})
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs()})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: m, Save: func(ctx context.Context, _ string, _ io.Reader) (blob.Info, error) {
			close(saving)
			<-ctx.Done()
			return blob.Info{}, ctx.Err()
		}})
		w := work("w", "write=/f:x", "exit=3")
		w.Outputs = []cell.Output{{Path: "/f", Key: "k", OnFailure: true}}
		require.NoError(t, a.Start(t.Context(), w))
		<-saving
		require.NoError(t, a.Stop(t.Context(), "w"))
		synctest.Wait() // no time passes
		assert.Zero(t, containers(t, m))
	})
}

// What a cell that stops or has ended says: another may take the work, or nobody knows.
func TestStartOnACellThatStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, err := cell.New(cell.AgentConfig{ID: "c", Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()})})
		require.NoError(t, err)
		early, cancelEarly := context.WithCancel(t.Context())
		cancelEarly()
		err = a.Start(early, work("w", "exit=0"))
		require.ErrorIs(t, err, context.Canceled, "it does not run yet")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		w := work("slow", "hang")
		w.Process.Grace = time.Second
		require.NoError(t, a.Start(t.Context(), w))
		until(t, a, "slow", is(cell.PhaseRunning))
		stop()
		synctest.Wait()
		var refused *cell.RefusedError
		require.ErrorAs(t, a.Start(t.Context(), work("w", "exit=0")), &refused)
		assert.Equal(t, "the cell is stopping", refused.Reason)
		st, err := a.State(t.Context())
		require.NoError(t, err)
		assert.True(t, st.Draining)
		require.NoError(t, a.Start(t.Context(), w), "one that it has is not refused")
		require.NoError(t, <-ended)
		err = a.Start(t.Context(), work("w", "exit=0"))
		require.Error(t, err)
		assert.False(t, errors.As(err, &refused))
	})
}

// The culprit among layers that are fetched together is named, not those that end with it.
func TestALayerThatFailsIsNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}),
			Open: func(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
				if s == "blob:bad" {
					return nil, errBroken
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}})
		w := work("w", "exit=0")
		w.Layers = []cell.Input{{Source: "blob:slow", Dir: "/a", SHA256: strings.Repeat("0", 64), Name: "slow"},
			{Source: "blob:bad", Dir: "/b", SHA256: strings.Repeat("1", 64), Name: "bad"}}
		require.NoError(t, a.Start(t.Context(), w))
		s := until(t, a, "w", is(cell.PhaseDone))
		assert.Equal(t, cell.ReasonInput, s.Reason)
		assert.Equal(t, "Downloading bad failed: broken", s.Failure)
	})
}

// 200 instances started at once have 200 addresses, and each of them answers.
func TestManyStartsShareNoPort(t *testing.T) {
	t.Parallel()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()})})
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			w := work(fmt.Sprintf("w%d", i), "serve")
			w.Health, w.LRP, w.Spec.Ports = &cell.Health{}, "l", []int{8080}
			assert.NoError(t, a.Start(t.Context(), w))
		})
	}
	wg.Wait()
	hosts := map[string]string{}
	for e, err := range a.Watch(t.Context()) {
		require.NoError(t, err)
		if e.Status.Phase == cell.PhaseDone {
			t.Fatal(e.Status.Failure)
		}
		if e.Status.Phase == cell.PhaseRunning {
			hosts[e.Status.Addresses[0].Host] = e.Status.ID
		}
		if len(hosts) == n {
			break
		}
	}
	ids := map[string]bool{}
	for _, id := range hosts {
		ids[id] = true
	}
	assert.Len(t, ids, n)
}
