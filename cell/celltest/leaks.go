package celltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
)

// RunLeaks starts and stops 200 works at once, most of which fail in some way, and asserts that this program
// then holds no more than before: descriptors (ports are some), goroutines, files in its temporary folder. Open
// returns a Runtime without containers that ends with t; it is there that processes, mounts, networks and files
// which are left have to be found. In the short mode it is 40 works. T must not be parallel, as it counts what all have.
func RunLeaks(t *testing.T, open func(t *testing.T) Runtime) {
	n := 200
	if testing.Short() {
		n = 40
	}
	t.Setenv("TMPDIR", t.TempDir()) // of nobody else
	r := open(t)
	good := archive(t, "app/f", "x")
	l := leaker{digest: digest(good)}
	broken := errors.New("the store is broken")
	l.Cell = Cell{Program: r.Program, Cell: Agent(t, cell.AgentConfig{
		Runtime: r.Runtime,
		Open: func(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
			switch s {
			case "blob:good":
				return io.NopCloser(bytes.NewReader(good)), nil
			case "blob:cut":
				return io.NopCloser(bytes.NewReader(good[:700])), nil
			case "blob:hangs":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, broken
		},
		Save: func(context.Context, string, io.Reader) (blob.Info, error) { return blob.Info{}, broken },
	})}
	for i := range 2 * leakKinds { // what is made once is made now
		l.startAndStop(t, i)
	}
	before := holds(t)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { l.startAndStop(t, 1000+i) })
	}
	wg.Wait()
	// What goes in the background may take a moment.
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for h := holds(t); h.more(before); h = holds(t) {
		select {
		case <-tick.C:
		case <-deadline.C:
			stacks := make([]byte, 1<<20)
			t.Fatalf("there were %+v before, and are %+v\n%s", before, h, stacks[:runtime.Stack(stacks, true)])
		}
	}
	st, err := l.State(t.Context())
	must(t, err)
	if !idle(st) {
		t.Errorf("of %+v only %+v is free", st.Total, st.Free)
	}
	containers, err := r.Containers(t.Context())
	must(t, err)
	if len(containers) > 0 {
		t.Errorf("%d containers are left", len(containers))
	}
}

// held is what this program holds.
type held struct{ descriptors, goroutines, temp int }

func holds(t *testing.T) (h held) {
	t.Helper()
	fds, err := os.ReadDir("/dev/fd")
	if err != nil { // no such thing on this machine
		fds = nil
	}
	temp, err := os.ReadDir(os.TempDir())
	must(t, err)
	return held{len(fds), runtime.NumGoroutine(), len(temp)}
}

// more tells whether h is more than a few things of its own program's more than before.
func (h held) more(before held) bool {
	const few = 4
	return h.descriptors > before.descriptors+few || h.goroutines > before.goroutines+few || h.temp > before.temp
}

type leaker struct {
	Cell
	digest string // of the good layer
}

const leakKinds = 14

// kind makes a work of the i-th kind; early: it is stopped as soon as it is there, running: as soon as it runs.
func (l leaker) kind(i int) (w cell.Work, early, running bool) {
	id := fmt.Sprint("w", i)
	w = l.work(id, "cat=app/f")
	switch i % leakKinds {
	case 0: // ends well
	case 1:
		w = l.work(id, "exit=3")
	case 2: // leaves a process that holds its output
		w = l.work(id, "child", "exit=1")
	case 3: // is stopped, with what it has started
		w, running = l.work(id, "child", "wait"), true
	case 4: // never starts
		w.Inputs = []cell.Input{{Source: "blob:absent", Dir: "/tmp/x"}}
	case 5: // is stopped while it is started
		early = true
	case 6: // the layer is cut short
		w.Layers = []cell.Input{{Source: "blob:cut", Dir: "/x", SHA256: strings.Repeat("1", 64)}}
	case 7: // the layer is another
		w.Layers = []cell.Input{{Source: "blob:good", Dir: "/x", SHA256: strings.Repeat("2", 64)}}
	case 8: // cannot be stored
		w = l.work(id, "write=f:x")
		w.Outputs = []cell.Output{{Path: "/home/vcap/f", Key: "k", OnFailure: true}}
	case 9: // takes too long
		w = l.work(id, "hang")
		w.Timeout = 50 * time.Millisecond
	case 10: // is never healthy
		w = l.instance(id, cell.Health{StartTimeout: 30 * time.Millisecond}, "hang")
	case 11: // its program is not there
		w.Process = cell.Process{Path: "/no/such/program", Dir: "/home/vcap"}
	case 12: // serves, and is stopped
		w, running = l.instance(id, cell.Health{}, "serve"), true
	case 13: // is stopped while its input is awaited
		w.Inputs = []cell.Input{{Source: "blob:hangs", Dir: "/tmp/x"}}
		early = true
	}
	if len(w.Layers) == 0 {
		w.Layers = []cell.Input{{Source: "blob:good", Dir: "/home/vcap", SHA256: l.digest}}
	}
	return w, early, running
}

// startAndStop runs a work of the i-th kind until the cell has forgotten it.
func (l leaker) startAndStop(t *testing.T, i int) {
	w, early, running := l.kind(i)
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience) // 200 at once take their time
	defer cancel()
	if err := l.Start(ctx, w); err != nil {
		t.Errorf("%s: %v", w.ID, err)
		return
	}
	stopped := false
	for e, err := range l.Watch(ctx) {
		if err != nil {
			t.Errorf("%s: %v", w.ID, err)
			return
		}
		if e.Status.ID != w.ID {
			continue
		}
		if e.Gone {
			return
		}
		p := e.Status.Phase
		if !stopped && (early || p == cell.PhaseDone || running && p == cell.PhaseRunning) {
			if err := l.Stop(ctx, w.ID); err != nil {
				t.Errorf("stop %s: %v", w.ID, err)
			}
			stopped = true
		}
	}
	t.Errorf("%s is not forgotten", w.ID)
}
