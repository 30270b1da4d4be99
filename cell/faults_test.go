package cell_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

var _ staging.TaskRunner = cell.Tasks{}

func work(id string, args ...string) cell.Work {
	return cell.Work{ID: id, Process: program(args...), Log: cell.LogTag{App: "app", Source: "STG"}}
}

func until(t *testing.T, a *cell.Agent, id string, ok func(cell.Event) bool) cell.Status {
	t.Helper()
	for e, err := range a.Watch(t.Context()) {
		require.NoError(t, err)
		if e.Status.ID == id && ok(e) {
			return e.Status
		}
	}
	t.Fatal("Watch ended")
	return cell.Status{}
}

func is(p cell.Phase) func(cell.Event) bool {
	return func(e cell.Event) bool { return e.Status.Phase == p }
}

func containers(t *testing.T, m *cell.Memory) int {
	t.Helper()
	all, err := m.Containers(t.Context())
	require.NoError(t, err)
	return len(all)
}

var errBroken = errors.New("broken")

// once fails the first n operations op.
func once(op string, n int32) func(string, string) error {
	var count atomic.Int32
	return func(o, _ string) error {
		if o == op && count.Add(1) <= n {
			return errBroken
		}
		return nil
	}
}

func TestFaultsOfTheRuntime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, after func(op, container string) error
		reason        cell.Reason
		failure       string
	}{
		"create, not done": {before: once("create", 1), reason: cell.ReasonCreate, failure: "failed to create container: create container w: broken"},
		"create, but done": {after: once("create", 1), reason: cell.ReasonCreate, failure: "failed to create container: create container w: broken"},
		"in, not done":     {before: once("in", 1), reason: cell.ReasonInput, failure: "Downloading package failed: in container w: broken"},
		"in, but done":     {after: once("in", 1), reason: cell.ReasonInput, failure: "Downloading package failed: in container w: broken"},
		"run, not done":    {before: once("run", 1), reason: cell.ReasonExit, failure: "STG: failed to start: run container w: broken"},
		"run, but done":    {after: once("run", 1), reason: cell.ReasonExit, failure: "STG: failed to start: run container w: broken"},
		"out":              {before: once("out", 1), reason: cell.ReasonOutput, failure: "Uploading result failed: out container w: broken"},
		"destroy thrice":   {before: once("destroy", 3)},
		"destroy, done":    {after: once("destroy", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := cell.NewMemory(cell.MemoryConfig{Programs: programs(), Fault: c.before, FaultAfter: c.after})
				a := celltest.Agent(t, cell.AgentConfig{Runtime: m})
				w := work("w", "write=result:x")
				w.Inputs = []cell.Input{{Source: "inline:", Dir: "/tmp", Name: "package"}}
				w.Outputs = []cell.Output{{Path: "/result", Inline: true, Name: "result"}}
				require.NoError(t, a.Start(t.Context(), w))
				s := until(t, a, "w", is(cell.PhaseDone))
				assert.Equal(t, c.reason, s.Reason)
				assert.Equal(t, c.failure, s.Failure)
				assert.Zero(t, containers(t, m))
				st, err := a.State(t.Context())
				require.NoError(t, err)
				assert.Equal(t, st.Total, st.Free)
			})
		})
	}
}

func TestAContainerThatVanishes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs()})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: m})
		require.NoError(t, a.Start(t.Context(), work("w", "wait")))
		until(t, a, "w", is(cell.PhaseRunning))
		synctest.Wait()
		m.Vanish("w")
		s := until(t, a, "w", is(cell.PhaseDone))
		assert.Equal(t, cell.ReasonLost, s.Reason)
		assert.Equal(t, "missing container", s.Failure)
	})
}

func TestTimeoutOfAStaging(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()})})
		w := work("w", "hang")
		w.Timeout = 15 * time.Minute
		begun := time.Now()
		require.NoError(t, a.Start(t.Context(), w))
		s := until(t, a, "w", is(cell.PhaseDone))
		assert.Equal(t, "exceeded 15m0s timeout", s.Failure)
		assert.Equal(t, 15*time.Minute, time.Since(begun))
		assert.Equal(t, "KILL", s.Exit.Signal)
	})
}

// hanging is a source or a store that does nothing until its context ends.
type hanging struct{ reached chan struct{} }

func (h hanging) wait(ctx context.Context) error {
	close(h.reached)
	<-ctx.Done()
	return ctx.Err()
}

// blocking reads nothing until it is closed, whatever the context says.
type blocking struct {
	reached, closed chan struct{}
	begin, end      sync.Once
}

func (b *blocking) Read([]byte) (int, error) {
	b.begin.Do(func() { close(b.reached) })
	<-b.closed
	return 0, errBroken
}

func (b *blocking) Close() error {
	b.end.Do(func() { close(b.closed) })
	return nil
}

func TestStopTakesNoTimeInAnyPhase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(w *cell.Work, a *cell.AgentConfig, reached chan struct{}){
		"opening an input": func(w *cell.Work, a *cell.AgentConfig, reached chan struct{}) {
			w.Inputs = []cell.Input{{Source: "blob:x", Dir: "/tmp", Optional: true}}
			a.Open = func(ctx context.Context, _ cell.Source) (io.ReadCloser, error) {
				return nil, hanging{reached}.wait(ctx)
			}
		},
		"reading an input": func(w *cell.Work, a *cell.AgentConfig, reached chan struct{}) {
			w.Inputs = []cell.Input{{Source: "blob:x", Dir: "/tmp"}}
			a.Open = func(context.Context, cell.Source) (io.ReadCloser, error) {
				return &blocking{reached: reached, closed: make(chan struct{})}, nil
			}
		},
		"reading a layer": func(w *cell.Work, a *cell.AgentConfig, reached chan struct{}) {
			w.Layers = []cell.Input{{Source: "blob:x", Dir: "/tmp", SHA256: strings.Repeat("0", 64)}}
			a.Open = func(context.Context, cell.Source) (io.ReadCloser, error) {
				return &blocking{reached: reached, closed: make(chan struct{})}, nil
			}
		},
		"saving": func(w *cell.Work, a *cell.AgentConfig, reached chan struct{}) {
			w.Process.Args = []string{"write=/f:x"}
			w.Outputs = []cell.Output{{Path: "/f", Key: "k"}}
			a.Save = func(ctx context.Context, _ string, _ io.Reader) (blob.Info, error) {
				return blob.Info{}, hanging{reached}.wait(ctx)
			}
		},
		"running": func(_ *cell.Work, _ *cell.AgentConfig, reached chan struct{}) { close(reached) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := cell.NewMemory(cell.MemoryConfig{Programs: programs()})
				w, conf, reached := work("w", "hang"), cell.AgentConfig{Runtime: m}, make(chan struct{})
				c(&w, &conf, reached)
				a := celltest.Agent(t, conf)
				require.NoError(t, a.Start(t.Context(), w))
				<-reached
				synctest.Wait()
				begun := time.Now()
				require.NoError(t, a.Stop(t.Context(), "w"))
				// Told, or so quickly gone that Watch begins after it.
				for e, err := range a.Watch(t.Context()) {
					require.NoError(t, err)
					if e.Gone {
						assert.Equal(t, cell.ReasonStopped, e.Status.Reason)
						assert.Equal(t, "stopped", e.Status.Failure)
					}
					if synctest.Wait(); containers(t, m) == 0 {
						break
					}
				}
				assert.Zero(t, containers(t, m))
				assert.Zero(t, time.Since(begun))
			})
		})
	}
}

// dialer answers health probes: err is what it returns now.
type dialer struct{ err atomic.Pointer[error] }

func (d *dialer) dial(context.Context, cell.Address) (net.Conn, error) {
	if err := d.err.Load(); err != nil {
		return nil, *err
	}
	c, far := net.Pipe()
	far.Close()
	return c, nil
}

func TestHealthInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused := error(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
		d := &dialer{}
		d.err.Store(&refused)
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}), Dial: d.dial})
		w := work("w", "wait")
		w.Health, w.LRP, w.Log.Source, w.Spec.Ports = &cell.Health{}, "l", "APP/PROC/WEB", []int{8080}
		begun := time.Now()
		require.NoError(t, a.Start(t.Context(), w))
		s := until(t, a, "w", is(cell.PhaseDone))
		assert.Equal(t, time.Minute, time.Since(begun))
		host := s.Addresses[0].Host
		// 8 tries in the first 2.55 s, one each 2 s, and one at the very end.
		assert.Equal(t, "Instance never healthy after 1m0s: Timed out after 1m0s (38 attempts) waiting for startup check to succeed: "+
			"failed to make TCP connection to "+host+": connection refused\n"+
			"nothing listens on port 8080: listen at 0.0.0.0 on the port that the environment variable PORT names (here 8080); "+
			"a process that serves nothing needs health type \"process\"", s.Failure)

		d.err.Store(nil)
		w.ID = "v"
		begun = time.Now()
		require.NoError(t, a.Start(t.Context(), w))
		until(t, a, "v", is(cell.PhaseRunning))
		assert.Zero(t, time.Since(begun), "the first probe is not waited for")
		time.AfterFunc(100*time.Second, func() { d.err.Store(&refused) })
		s = until(t, a, "v", is(cell.PhaseDone))
		// Each 30 s, of which the first are shorter by up to a half.
		assert.Greater(t, time.Since(begun), 105*time.Second-1)
		assert.Less(t, time.Since(begun), 130*time.Second)
		assert.Equal(t, cell.ReasonHealth, s.Reason)
		assert.Equal(t, "Instance became unhealthy: Liveness check unsuccessful: failed to make TCP connection to "+s.Addresses[0].Host+": connection refused",
			strings.Split(s.Failure, "\n")[0])
	})
}

func TestALeftCellIsAdopted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs(), Capacity: cell.Resources{Survives: true}})
		a, err := cell.New(cell.AgentConfig{ID: "c", Runtime: m, Leave: true})
		require.NoError(t, err)
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		require.NoError(t, a.Start(ctx, work("ended", "out=it was so", "exit=3")))
		require.NoError(t, a.Start(ctx, work("runs", "out=one", "wait", "out=two", "exit=4")))
		until(t, a, "ended", is(cell.PhaseDone))
		until(t, a, "runs", is(cell.PhaseRunning))
		synctest.Wait()
		leave()
		require.NoError(t, <-ended)
		assert.Error(t, a.Start(t.Context(), work("late", "exit=0")))

		b := celltest.Agent(t, cell.AgentConfig{ID: "c", Runtime: m})
		s := until(t, b, "ended", is(cell.PhaseDone))
		assert.Equal(t, 3, s.Exit.Code)
		assert.Contains(t, s.Last, "it was so")
		require.NoError(t, b.Start(t.Context(), work("ended", "exit=0")), "it has run, and does not again")
		until(t, b, "runs", is(cell.PhaseRunning))
		all, err := m.Containers(t.Context())
		require.NoError(t, err)
		for _, c := range all {
			if c.Info().ID == "runs" {
				r, err := c.(cell.Attacher).Attach(t.Context(), "main", cell.IO{})
				require.NoError(t, err)
				require.NoError(t, r.Signal(t.Context(), "TERM"))
			}
		}
		s = until(t, b, "runs", is(cell.PhaseDone))
		assert.Equal(t, 4, s.Exit.Code)
		var texts []string
		for l, err := range b.Logs(t.Context(), "runs", 0) {
			require.NoError(t, err)
			texts = append(texts, l.Text)
		}
		assert.Equal(t, []string{"one", "two", "Exit status 4"}, texts[:3])
		for _, id := range []string{"ended", "runs"} {
			require.NoError(t, b.Stop(t.Context(), id))
		}
		synctest.Wait()
		assert.Zero(t, containers(t, m))
	})
}

func TestRunTaskThatIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}), Containers: 1})
		require.NoError(t, a.Start(t.Context(), work("one", "wait")))
		_, err := cell.Tasks{Cell: a}.RunTask(t.Context(), work("two", "exit=0"), func(logs.Line) {})
		var refused *cell.RefusedError
		require.ErrorAs(t, err, &refused)
		assert.Equal(t, "insufficient resources: containers", refused.Reason)
	})
}

func TestASlowWatcherSeesTheLatest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()})})
		var seen []cell.Phase
		for e, err := range a.Watch(t.Context()) {
			require.NoError(t, err)
			if e.Synced {
				require.NoError(t, a.Start(t.Context(), work("w", "exit=0")))
				synctest.Wait() // it runs to its end while nobody takes events
				continue
			}
			if seen = append(seen, e.Status.Phase); e.Status.Phase == cell.PhaseDone {
				break
			}
		}
		assert.Equal(t, []cell.Phase{cell.PhaseDone}, seen)
	})
}
