//go:build linux

package process_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

// held is what this program holds.
type held struct{ descriptors, goroutines, temp int } // a port is a descriptor

func holds(t *testing.T) (h held) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	temp, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	return held{len(fds), runtime.NumGoroutine(), len(temp)}
}

// more tells whether h is more than a few things of its own program's more than before.
func (h held) more(before held) bool {
	const few = 4
	return h.descriptors > before.descriptors+few || h.goroutines > before.goroutines+few
}

// Not parallel: it counts what this program has.
func TestNothingLeaks(t *testing.T) {
	n := 400
	if testing.Short() {
		n = 40
	}
	dir := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir()) // of nobody else
	r := open(t, dir)
	data, digest := tree(t, 5, 100)
	broken := errors.New("the store is broken")
	a := celltest.Agent(t, cell.AgentConfig{Runtime: r, Open: func(_ context.Context, s cell.Source) (io.ReadCloser, error) {
		switch s {
		case "blob:good":
			return io.NopCloser(bytes.NewReader(data)), nil
		case "blob:cut":
			return io.NopCloser(bytes.NewReader(data[:700])), nil
		}
		return nil, broken
	}, Save: func(context.Context, string, io.Reader) (blob.Info, error) { return blob.Info{}, broken }})
	leakRound(t, a, digest, 0, 2*kinds) // what is made once is made now
	before := holds(t)
	const width = 4
	var wg sync.WaitGroup
	for k := range width {
		wg.Go(func() { leakRound(t, a, digest, 100+k*n, n/width) })
	}
	wg.Wait()
	noProcesses(t, dir)
	// What goes in the background may take a moment.
	assert.Eventually(t, func() bool { return !holds(t).more(before) && left(t, dir) == 0 }, 20*time.Second, 10*time.Millisecond,
		"%+v before, more after", before)
	empty(t, dir)
	st, err := a.State(t.Context())
	require.NoError(t, err)
	assert.Equal(t, st.Total.Containers, st.Free.Containers)
	assert.Zero(t, holds(t).temp)
	layers, err := os.ReadDir(filepath.Join(dir, "layers"))
	require.NoError(t, err)
	assert.Len(t, layers, 1, "the good one")
}

func left(t *testing.T, dir string) (n int) {
	for _, d := range []string{"containers", "making", "trash"} {
		all, err := os.ReadDir(filepath.Join(dir, d))
		require.NoError(t, err)
		n += len(all)
	}
	return n
}

const kinds = 12

// kind makes a work of the i-th kind; early: it is stopped as soon as it runs.
func kind(i int, digest string) (w cell.Work, early bool) {
	w = cell.Work{Log: cell.LogTag{Source: "STG"}, Spec: cell.Spec{Ports: []int{8080}}, Process: cell.Process{Path: "/bin/sh"},
		Layers: []cell.Input{{Source: "blob:good", Dir: "/home/vcap", SHA256: digest}}}
	script := "exit 0"
	switch i % kinds {
	case 0: // ends well
	case 1:
		script = "exit 3"
	case 2: // leaves a child that holds its output
		script = "sleep 1000 & exit 1"
	case 3: // is stopped, with what it has started
		script, early = "(trap '' TERM; sleep 1000) & sleep 1000", true
	case 4: // never starts
		w.Inputs = []cell.Input{{Source: "blob:absent", Dir: "/tmp/x"}}
	case 5: // ends while it is started
		early = true
	case 6: // the layer is cut short
		w.Layers[0] = cell.Input{Source: "blob:cut", Dir: "/x", SHA256: strings.Repeat("1", 64)}
	case 7: // the layer is another
		w.Layers[0].SHA256 = strings.Repeat("2", 64)
	case 8: // cannot be stored
		script, w.Outputs = "echo x > f", []cell.Output{{Path: "/home/vcap/f", Key: "k", OnFailure: true}}
	case 9: // takes too long
		script, w.Timeout = "exec sleep 1000", 50*time.Millisecond
	case 10: // never healthy
		script, w.Health = "exec sleep 1000", &cell.Health{StartTimeout: 30 * time.Millisecond}
	case 11: // a daemon
		script, early = "(setsid sleep 1000 &); exec sleep 1000", true
	}
	w.Process.Args = []string{"-c", script}
	return w, early
}

// leakRound starts and stops n works of all kinds, one after the other.
func leakRound(t *testing.T, a *cell.Agent, digest string, from, n int) {
	for i := from; i < from+n; i++ {
		w, early := kind(i, digest)
		w.ID = "w" + strconv.Itoa(i)
		if !assert.NoError(t, a.Start(t.Context(), w)) {
			return
		}
		for e, err := range a.Watch(t.Context()) {
			if !assert.NoError(t, err) {
				return
			}
			if e.Status.ID != w.ID {
				continue
			}
			done := e.Status.Phase == cell.PhaseDone
			if done || early && e.Status.Phase == cell.PhaseRunning {
				assert.NoError(t, a.Stop(t.Context(), w.ID))
			}
			if e.Gone {
				break
			}
		}
	}
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
