//go:build linux

package process_test

import (
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Not parallel: it counts what this program has open.
func TestNothingLeaks(t *testing.T) {
	n := 200
	if testing.Short() {
		n = 40
	}
	dir := t.TempDir()
	r := open(t, dir)
	a := runAgent(t, cell.AgentConfig{Runtime: r})
	leakRound(t, a, 0, 8) // what is made once is made now
	before := descriptors(t)
	const width = 4
	var wg sync.WaitGroup
	for k := range width {
		wg.Go(func() { leakRound(t, a, 100+k*n, n/width) })
	}
	wg.Wait()
	empty(t, dir)
	noProcesses(t, dir)
	// What is closed by a goroutine may take a moment.
	assert.Eventually(t, func() bool { return descriptors(t) <= before+4 }, 10*time.Second, 10*time.Millisecond,
		"descriptors: %d before, more after", before)
	st, err := a.State(t.Context())
	require.NoError(t, err)
	assert.Equal(t, st.Total.Containers, st.Free.Containers)
}

// leakRound starts and stops n works of many kinds, one after the other.
func leakRound(t *testing.T, a *cell.Agent, from, n int) {
	for i := from; i < from+n; i++ {
		id := "w" + strconv.Itoa(i)
		w := cell.Work{ID: id, Log: cell.LogTag{Source: "STG"}, Spec: cell.Spec{Ports: []int{8080}}, Process: cell.Process{Path: "/bin/sh"}}
		script, early := "exit 0", false
		switch i % 6 {
		case 0: // ends well
		case 1:
			script = "exit 3"
		case 2: // leaves a child that holds its output
			script = "sleep 1000 & exit 1"
		case 3: // is stopped, with what it has started
			script, early = "(trap '' TERM; sleep 1000) & sleep 1000", true
		case 4: // never starts
			w.Inputs = []cell.Input{{Source: "nothing:x", Dir: "/tmp/x"}}
		case 5: // ends while it is started
			script, early = "exit 0", true
		}
		w.Process.Args = []string{"-c", script}
		if !assert.NoError(t, a.Start(t.Context(), w)) {
			return
		}
		for e, err := range a.Watch(t.Context()) {
			if !assert.NoError(t, err) {
				return
			}
			if e.Status.ID != id {
				continue
			}
			done := e.Status.Phase == cell.PhaseDone
			if done || early && e.Status.Phase == cell.PhaseRunning {
				assert.NoError(t, a.Stop(t.Context(), id))
			}
			if e.Gone {
				break
			}
		}
	}
}

func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

func TestAPortIsFreeAgain(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	c, err := r.Create(t.Context(), cell.Creation{ID: "c", Spec: cell.Spec{Ports: []int{8080}}})
	require.NoError(t, err)
	host := c.Info().Addresses[0].Host
	require.NoError(t, c.Destroy(t.Context()))
	l, err := net.Listen("tcp", host)
	require.NoError(t, err)
	l.Close()
}
