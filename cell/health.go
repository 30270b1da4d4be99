package cell

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// probesAtOnce and slowProbes bound the probes of an Agent that are under way: those that are
// answered at once, as healthy apps do, and with those that hang.
const (
	probesAtOnce = 64
	slowProbes   = 1024
)

// keptProbes is how many of the newest results are kept of a work.
const keptProbes = 10

func (h *Health) defaults() {
	if h.Type == "" {
		h.Type = "port"
	}
	if h.StartTimeout == 0 {
		h.StartTimeout = time.Minute
	}
	if h.StartInterval <= 0 {
		h.StartInterval = 2 * time.Second
	}
	p := Probe{Interval: h.Interval, Timeout: h.Timeout}
	p.defaults()
	h.Interval, h.Timeout = p.Interval, p.Timeout
	if h.Readiness != nil {
		r := *h.Readiness
		r.defaults()
		h.Readiness = &r
	}
}

func (p *Probe) defaults() {
	if p.Type == "" {
		p.Type = "process"
	}
	if p.Interval <= 0 {
		p.Interval = 30 * time.Second
	}
	if p.Timeout <= 0 {
		p.Timeout = time.Second
	}
}

// monitor learns the health of one instance: until it is healthy for the first time, whether
// it stays so, and whether it is ready. Nothing of it waits in a goroutine.
type monitor struct {
	j       *job
	h       Health
	ctx     context.Context // ended: nothing counts any more
	cancel  context.CancelFunc
	fails   chan<- *fail // has room for one
	alive   func(context.Context) *unhealthy
	ready   func(context.Context) *unhealthy // nil: ready when healthy
	begun   time.Time
	healthy bool // startup is over
	tries   int
	wait    time.Duration
	main    *entry

	// Of readiness; written by main's flight before its entry is there, then by that.
	readiness *entry
	notReady  bool
	passed    bool // at least once
	told      bool // why it is not ready at first
	readyWait time.Duration

	mu      sync.Mutex // guards what follows
	results []ProbeResult
}

// firstWait is the time from the first probe to the second; it doubles from then on.
const firstWait = 10 * time.Millisecond

// newMonitor begins to probe. Its end, if it is not healthy, goes to fails.
func (j *job) newMonitor(ctx context.Context, fails chan<- *fail) *monitor {
	m := &monitor{j: j, h: *j.work.Health, fails: fails, begun: time.Now()}
	m.h.defaults()
	if len(j.work.Spec.Ports) == 0 {
		m.h.Type = "process"
	}
	m.ctx, m.cancel = context.WithCancel(ctx)
	m.wait = min(firstWait, m.h.StartInterval)
	m.alive = j.prober(Probe{Type: m.h.Type, Endpoint: m.h.Endpoint, Timeout: m.h.Timeout})
	if r := m.h.Readiness; r != nil && r.Type != "process" {
		m.ready = j.prober(*r)
	}
	j.say(j.cellSrc, "Starting health monitoring of container")
	m.main = j.a.probes.add(0, func() (time.Duration, bool) {
		if m.healthy {
			return m.liveness()
		}
		return m.startup()
	})
	return m
}

// end ends all probes, and returns when none is under way.
func (m *monitor) end() {
	m.cancel()
	m.main.remove()
	if m.readiness != nil {
		m.readiness.remove()
	}
}

// startup is a probe before the first success: soon at first, so that a quick app is up quickly.
func (m *monitor) startup() (time.Duration, bool) {
	j := m.j
	m.tries++
	u := m.probe("startup", m.alive)
	if m.ctx.Err() != nil {
		return 0, false
	}
	if u == nil {
		if left := m.h.Steady - time.Since(m.begun); left > 0 && !j.old { // one that was adopted has run before
			return left, true
		}
		m.healthy = true
		m.begins()
		return m.spread(m.h.Interval), m.h.Type != "process"
	}
	if m.tries == 1 && j.old { // adopted, and not healthy
		j.phase(PhaseStarting)
		j.settle()
	}
	wait := m.wait
	m.wait = min(m.wait*2, m.h.StartInterval)
	if m.h.StartTimeout < 0 {
		return wait, true
	}
	left := m.h.StartTimeout - time.Since(m.begun)
	if left > 0 {
		return min(wait, left), true
	}
	text := fmt.Sprintf("Timed out after %s (%d attempts) waiting for startup check to succeed: %s", m.h.StartTimeout, m.tries, u.text)
	advice := j.advice(m.ctx, u)
	j.line("HEALTH", true, text)
	j.line(j.cellSrc, true, fmt.Sprintf("Failed after %s: startup health check never passed.", m.h.StartTimeout))
	j.line(j.cellSrc, true, advice)
	m.fails <- &fail{ReasonHealth, fmt.Sprintf("Instance never healthy after %s: %s\n%s", m.h.StartTimeout, text, advice)}
	return 0, false
}

// begins tells that the instance is healthy.
func (m *monitor) begins() {
	j := m.j
	j.say(j.cellSrc, "Container became healthy")
	if m.ready != nil {
		m.notReady = true
		if j.old { // it was perhaps ready all the time, and must not leave the routes for a moment
			m.notReady = m.probe("readiness", m.ready) != nil
		}
		if !m.notReady {
			m.tellReady()
		}
	}
	j.set(func(s *Status) { s.Phase, s.NotReady = PhaseRunning, m.notReady })
	j.settle()
	if m.ready == nil {
		return
	}
	m.readyWait = min(firstWait, m.retry())
	wait := time.Duration(0)
	if !m.notReady {
		wait = m.h.Readiness.Interval
	}
	m.readiness = j.a.probes.add(wait, m.checkReady)
}

// spread is a part of an interval, at least a half: instances that were started together are not
// probed together for ever.
func (m *monitor) spread(interval time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(m.j.work.ID)) // never fails
	return interval/2 + time.Duration(float64(interval/2)*float64(h.Sum32())/(1<<32))
}

// liveness is a probe of an instance that was healthy.
func (m *monitor) liveness() (time.Duration, bool) {
	j := m.j
	u := m.probe("liveness", m.alive)
	if m.ctx.Err() != nil {
		return 0, false
	}
	if u == nil {
		return m.h.Interval, true
	}
	if u.ours { // no app must end because its cell is short of something
		j.a.cfg.Logger.Error("probe an instance", "cell", j.a.cfg.ID, "work", j.work.ID, "error", u.text)
		return m.h.StartInterval, true
	}
	text := "Liveness check unsuccessful: " + u.text
	advice := j.advice(m.ctx, u)
	j.line("HEALTH", true, text)
	j.line(j.cellSrc, true, "Container became unhealthy")
	j.line(j.cellSrc, true, advice)
	// It gets no requests while it is given its time to end.
	j.set(func(s *Status) { s.NotReady = true })
	m.fails <- &fail{ReasonHealth, "Instance became unhealthy: " + text + "\n" + advice}
	return 0, false
}

// retry is the time between readiness probes of an instance that is not ready.
func (m *monitor) retry() time.Duration { return min(m.h.StartInterval, m.h.Readiness.Interval) }

// checkReady is a readiness probe.
func (m *monitor) checkReady() (time.Duration, bool) {
	j := m.j
	u := m.probe("readiness", m.ready)
	if m.ctx.Err() != nil {
		return 0, false
	}
	if u != nil && u.ours {
		return m.retry(), true
	}
	switch {
	case u == nil && m.notReady:
		m.notReady = false
		m.tellReady()
		j.set(func(s *Status) { s.NotReady = false })
		return m.spread(m.h.Readiness.Interval), true
	case u != nil && !m.notReady:
		m.notReady, m.readyWait = true, m.retry()
		j.line("HEALTH", true, "Readiness check unsuccessful: "+u.text)
		j.line(j.cellSrc, true, "Container failed the readiness health check. Container marked not ready and removed from route pool.")
		j.set(func(s *Status) { s.NotReady = true })
	}
	if !m.notReady {
		return m.h.Readiness.Interval, true
	}
	wait := m.readyWait
	m.readyWait = min(2*wait, m.retry())
	if wait == m.retry() && !m.passed && !m.told { // it takes its time: its owner wants to know why
		m.told = true
		j.line("HEALTH", true, "Readiness check unsuccessful: "+u.text)
		j.line(j.cellSrc, true, j.advice(m.ctx, u))
	}
	return wait, true
}

func (m *monitor) tellReady() {
	m.passed = true
	m.j.say(m.j.cellSrc, "Container passed the readiness health check. Container marked ready and added to route pool.")
}

// probe probes once, and keeps the result.
func (m *monitor) probe(check string, do func(context.Context) *unhealthy) *unhealthy {
	began, at := time.Now(), m.j.a.cfg.Now()
	u := do(m.ctx)
	if m.ctx.Err() != nil {
		return u
	}
	r := ProbeResult{Check: check, Time: at, Took: time.Since(began), OK: u == nil}
	if u != nil {
		r.Text = u.text
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.results) == keptProbes {
		m.results = slices.Delete(m.results, 0, 1)
	}
	m.results = append(m.results, r)
	return u
}

// transcript returns the newest results.
func (m *monitor) transcript() []ProbeResult {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.results)
}

// CheckHealth finds what could not be probed, on an instance with such ports; nil: nothing.
func CheckHealth(h *Health, ports []int) error {
	if h == nil {
		return nil
	}
	asked := []Probe{{Type: h.Type, Endpoint: h.Endpoint}}
	names := []string{"health", "readiness"}
	if r := h.Readiness; r != nil {
		asked = append(asked, *r)
		if r.Interval < 0 || r.Timeout < 0 {
			return errors.New("interval and timeout of readiness must not be negative: 0 is the default")
		}
	}
	for i, p := range asked {
		switch p.Type {
		case "", "process":
		case "port", "http":
			if len(ports) == 0 {
				return fmt.Errorf("%s type %q needs a port: add one to Spec.Ports, or use process", names[i], p.Type)
			}
		default:
			return fmt.Errorf("%s type %q is not known: use port, http or process", names[i], p.Type)
		}
		if _, err := url.Parse("http://x/" + strings.TrimPrefix(p.Endpoint, "/")); err != nil {
			return fmt.Errorf("%s endpoint %q cannot be asked for: %w", names[i], p.Endpoint, err)
		}
	}
	if h.Interval < 0 || h.StartInterval < 0 || h.Timeout < 0 {
		return errors.New("interval, startInterval and timeout of health must not be negative: 0 is the default")
	}
	return nil
}
