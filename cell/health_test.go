package cell_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

// apps answers health probes as each app does, by its address.
type apps struct {
	mu       sync.Mutex
	answer   func(ctx context.Context, host string) error
	asked    map[string]int
	now, max int // under way
}

func (a *apps) dial(ctx context.Context, at cell.Address) (net.Conn, error) {
	host := at.Host
	a.mu.Lock()
	if a.asked == nil {
		a.asked = map[string]int{}
	}
	a.asked[host]++
	a.now++
	a.max = max(a.max, a.now)
	answer := a.answer
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.now--
		a.mu.Unlock()
	}()
	if err := answer(ctx, host); err != nil {
		return nil, err
	}
	c, far := net.Pipe()
	far.Close()
	return c, nil
}

func (a *apps) times(host string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[host]
}

func (a *apps) most() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.max
}

func (a *apps) set(answer func(ctx context.Context, host string) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

func hangs(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func fine(context.Context, string) error { return nil }

// addressed gives each container an address that nothing listens at, without taking a port of the machine.
type addressed struct{ *cell.Memory }

func (r addressed) Create(ctx context.Context, c cell.Creation) (cell.Container, error) {
	ports := c.Spec.Ports
	c.Spec.Ports = nil
	con, err := r.Memory.Create(ctx, c)
	if err != nil {
		return nil, err
	}
	return addressedContainer{con, ports}, nil
}

type addressedContainer struct {
	cell.Container
	ports []int
}

func (c addressedContainer) Info() cell.Info {
	i := c.Container.Info()
	for _, p := range c.ports {
		i.Addresses = append(i.Addresses, cell.Address{Port: p, Host: fmt.Sprintf("%s:%d", i.ID, p)})
	}
	return i
}

func probed(id string, h cell.Health) cell.Work {
	w := work(id, "wait")
	w.Health, w.LRP, w.Log.Source, w.Spec.Ports = &h, "l", "APP/PROC/WEB", []int{8080}
	return w
}

// phases waits until n works are in a phase.
func phases(t *testing.T, a *cell.Agent, p cell.Phase, n int) {
	t.Helper()
	in := map[string]bool{}
	for e, err := range a.Watch(t.Context()) {
		require.NoError(t, err)
		if e.Synced {
			continue
		}
		if in[e.Status.ID] = e.Status.Phase == p && !e.Gone; !in[e.Status.ID] {
			delete(in, e.Status.ID)
		}
		if len(in) == n {
			return
		}
	}
}

// Five thousand instances are probed for three minutes: nothing waits in a goroutine of its own, a
// bounded number of probes is under way at once, and each is probed when it should be.
func TestManyProbes(t *testing.T) { //nolint:paralleltest // it counts goroutines
	const n = 5000
	synctest.Test(t, func(t *testing.T) {
		d := &apps{answer: func(context.Context, string) error { time.Sleep(2 * time.Millisecond); return nil }}
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs(), Capacity: cell.Resources{Containers: n}})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: addressed{m}, Dial: d.dial})
		for i := range n {
			w := probed(fmt.Sprintf("w%d", i), cell.Health{Readiness: &cell.Probe{Type: "port"}})
			require.NoError(t, a.Start(t.Context(), w))
		}
		phases(t, a, cell.PhaseRunning, n)
		time.Sleep(time.Second)
		synctest.Wait()
		idle := runtime.NumGoroutine()
		assert.LessOrEqual(t, d.most(), 64)
		d.mu.Lock()
		clear(d.asked)
		d.max = 0
		d.mu.Unlock()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		assert.InDelta(t, idle, runtime.NumGoroutine(), 64, "but for those that are just being probed")
		d.mu.Lock()
		defer d.mu.Unlock()
		require.Len(t, d.asked, n)
		for host, times := range d.asked { // liveness and readiness, each 30 s
			assert.InDelta(t, 12, times, 2, host)
		}
		assert.LessOrEqual(t, d.max, 16, "they are spread over time, although all were started together")
	})
}

// Health needs no goroutine: an instance that is probed has as many as one that is not.
func TestAProbedInstanceHasNoGoroutine(t *testing.T) { //nolint:paralleltest // it counts goroutines
	count := func(h cell.Health) (n int) {
		synctest.Test(t, func(t *testing.T) {
			a := celltest.Agent(t, cell.AgentConfig{Runtime: addressed{cell.NewMemory(cell.MemoryConfig{Programs: programs(), Capacity: cell.Resources{Containers: 1000}})},
				Dial: (&apps{answer: fine}).dial})
			for i := range 1000 {
				require.NoError(t, a.Start(t.Context(), probed(fmt.Sprintf("w%d", i), h)))
			}
			phases(t, a, cell.PhaseRunning, 1000)
			time.Sleep(time.Second)
			synctest.Wait()
			n = runtime.NumGoroutine()
		})
		return n
	}
	plain := count(cell.Health{Type: "process"})
	assert.Greater(t, plain, 1000)
	assert.InDelta(t, plain, count(cell.Health{Readiness: &cell.Probe{Type: "port"}}), 5)
}

// A thousand apps that hang take turns; one that is well is seen to be well at once.
func TestProbesThatHangDelayNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &apps{answer: func(ctx context.Context, host string) error {
			if strings.HasPrefix(host, "bad") {
				return hangs(ctx, host)
			}
			return nil
		}}
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs(), Capacity: cell.Resources{Containers: 4000}})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: addressed{m}, Dial: d.dial})
		for i := range 1000 {
			require.NoError(t, a.Start(t.Context(), probed(fmt.Sprintf("bad%d", i), cell.Health{StartTimeout: -1})))
		}
		time.Sleep(10 * time.Second)
		begun := time.Now()
		require.NoError(t, a.Start(t.Context(), probed("good", cell.Health{})))
		until(t, a, "good", is(cell.PhaseRunning))
		assert.LessOrEqual(t, time.Since(begun), 2*time.Second)
		assert.Greater(t, d.most(), 64)
		assert.LessOrEqual(t, d.most(), 1024)
		require.NoError(t, a.Stop(t.Context(), "bad0"))
	})
}

func TestAStartTimeoutWithoutEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &apps{answer: func(context.Context, string) error { return syscall.ECONNREFUSED }}
		a := celltest.Agent(t, cell.AgentConfig{Runtime: addressed{cell.NewMemory(cell.MemoryConfig{Programs: programs()})}, Dial: d.dial})
		require.NoError(t, a.Start(t.Context(), probed("w", cell.Health{StartTimeout: -1})))
		time.Sleep(24 * time.Hour)
		s := until(t, a, "w", func(cell.Event) bool { return true })
		assert.Equal(t, cell.PhaseStarting, s.Phase)
		assert.InDelta(t, 24*60*30, d.times("w:8080"), 20, "each 2 s")
		d.set(fine)
		until(t, a, "w", is(cell.PhaseRunning))
	})
}

// Readiness comes and goes; the instance does not.
func TestReadinessInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ready atomic.Bool
		d := &apps{answer: func(_ context.Context, host string) error {
			if strings.HasSuffix(host, ":8080") || ready.Load() {
				return nil
			}
			return syscall.ECONNREFUSED
		}}
		a := celltest.Agent(t, cell.AgentConfig{Runtime: addressed{cell.NewMemory(cell.MemoryConfig{Programs: programs()})}, Dial: d.dial})
		w := probed("w", cell.Health{Type: "http", Readiness: &cell.Probe{Type: "port", Interval: 10 * time.Second}})
		w.Health.Type = "process"
		w.Spec.Ports = []int{8080, 9090}
		require.NoError(t, a.Start(t.Context(), w))
		s := until(t, a, "w", is(cell.PhaseRunning))
		assert.True(t, s.NotReady)
		time.Sleep(time.Minute)
		ready.Store(true)
		begun := time.Now()
		until(t, a, "w", func(e cell.Event) bool { return e.Status.Phase == cell.PhaseRunning && !e.Status.NotReady })
		assert.LessOrEqual(t, time.Since(begun), 2*time.Second, "while it is not ready it is asked each 2 s")
		ready.Store(false)
		begun = time.Now()
		until(t, a, "w", func(e cell.Event) bool { return e.Status.NotReady })
		assert.LessOrEqual(t, time.Since(begun), 10*time.Second)
		time.Sleep(time.Hour)
		require.NoError(t, a.Stop(t.Context(), "w"))
		var got []string
		for l := range a.Logs(t.Context(), "w", 0) {
			if l.Source == "HEALTH" || strings.Contains(l.Text, "readiness") || strings.Contains(l.Text, "became") {
				got = append(got, l.Source+" "+l.Text)
			}
		}
		assert.Equal(t, []string{
			"CELL Container became healthy",
			"HEALTH Readiness check unsuccessful: failed to make TCP connection to w:9090: connection refused",
			"CELL Container passed the readiness health check. Container marked ready and added to route pool.",
			"HEALTH Readiness check unsuccessful: failed to make TCP connection to w:9090: connection refused",
			"CELL Container failed the readiness health check. Container marked not ready and removed from route pool.",
		}, got, "once each, not at each probe")
	})
}

// A cell that is short of files or ports cannot ask. No app ends of that.
func TestACellThatCannotProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &apps{answer: fine}
		a := celltest.Agent(t, cell.AgentConfig{Runtime: addressed{cell.NewMemory(cell.MemoryConfig{Programs: programs()})}, Dial: d.dial})
		require.NoError(t, a.Start(t.Context(), probed("w", cell.Health{Readiness: &cell.Probe{Type: "port"}})))
		until(t, a, "w", func(e cell.Event) bool { return e.Status.Phase == cell.PhaseRunning && !e.Status.NotReady })
		d.set(func(context.Context, string) error { return &net.OpError{Op: "dial", Err: syscall.EMFILE} })
		time.Sleep(time.Hour)
		s := until(t, a, "w", func(cell.Event) bool { return true })
		assert.Equal(t, cell.PhaseRunning, s.Phase)
		assert.False(t, s.NotReady)
		d.set(func(context.Context, string) error { return syscall.ECONNREFUSED })
		begun := time.Now()
		s = until(t, a, "w", is(cell.PhaseDone))
		assert.LessOrEqual(t, time.Since(begun), 2*time.Second, "meanwhile it was asked more often")
		assert.Equal(t, cell.ReasonHealth, s.Reason)
		assert.True(t, slices.ContainsFunc(s.Probes, func(p cell.ProbeResult) bool {
			return p.Check == "liveness" && strings.Contains(p.Text, "connection refused")
		}))
	})
}

// The probes that are under way end with the instance, at once.
func TestStopDuringAProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &apps{answer: hangs}
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs()})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: addressed{m}, Dial: d.dial})
		require.NoError(t, a.Start(t.Context(), probed("w", cell.Health{Timeout: time.Hour})))
		synctest.Wait()
		begun := time.Now()
		require.NoError(t, a.Stop(t.Context(), "w"))
		synctest.Wait()
		assert.Zero(t, containers(t, m))
		assert.Zero(t, time.Since(begun))
		assert.Equal(t, 1, d.most())
	})
}

// An instance that was ready all the time does not leave the routes when its agent is restarted.
func TestAnAdoptedInstanceIsReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &apps{answer: fine}
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs(), Capacity: cell.Resources{Survives: true}})
		a, err := cell.New(cell.AgentConfig{ID: "c", Runtime: m, Leave: true, Dial: d.dial})
		require.NoError(t, err)
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		require.NoError(t, a.Start(ctx, probed("w", cell.Health{Readiness: &cell.Probe{Type: "port"}})))
		until(t, a, "w", func(e cell.Event) bool { return e.Status.Phase == cell.PhaseRunning && !e.Status.NotReady })
		leave()
		require.NoError(t, <-ended)
		b := celltest.Agent(t, cell.AgentConfig{ID: "c", Runtime: m, Dial: d.dial})
		for e, err := range b.Watch(t.Context()) {
			require.NoError(t, err)
			if e.Synced {
				break
			}
			assert.Equal(t, cell.PhaseRunning, e.Status.Phase)
			assert.False(t, e.Status.NotReady)
		}
	})
}

// Each process has the time that it was given to end, a sidecar without one that of its process.
func TestGraceOfEachProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()})})
		w := work("w", "out=up", "hang")
		w.Health, w.LRP, w.Log.Source = &cell.Health{Type: "process"}, "l", "APP/PROC/WEB"
		w.Process.Grace = 10 * time.Second
		for id, grace := range map[string]time.Duration{"quick": 2 * time.Second, "like-main": 0, "slow": 40 * time.Second} {
			p := program("hang")
			p.ID, p.Grace = id, grace
			w.Sidecars = append(w.Sidecars, p)
		}
		require.NoError(t, a.Start(t.Context(), w))
		until(t, a, "w", is(cell.PhaseRunning))
		begun := time.Now()
		ends := map[string]string{}
		for l, err := range a.Logs(t.Context(), "w", 0) {
			require.NoError(t, err)
			if l.Text == "up" {
				require.NoError(t, a.Stop(t.Context(), "w"))
			}
			if strings.HasPrefix(l.Text, "Exit status") {
				ends[l.Source] = fmt.Sprint(l.Time.Sub(begun), " ", l.Text)
			}
		}
		assert.Equal(t, map[string]string{
			"APP/PROC/WEB":                   "10s Exit status 137 (exceeded 10s graceful shutdown interval)",
			"APP/PROC/WEB/SIDECAR/QUICK":     "2s Exit status 137 (exceeded 2s graceful shutdown interval)",
			"APP/PROC/WEB/SIDECAR/LIKE-MAIN": "10s Exit status 137 (exceeded 10s graceful shutdown interval)",
			"APP/PROC/WEB/SIDECAR/SLOW":      "40s Exit status 137 (exceeded 40s graceful shutdown interval)",
		}, ends)
	})
}
