package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/logs"
)

// AgentConfig configures [New].
type AgentConfig struct {
	// ID names the cell; required.
	ID string
	// Zone, Tags and OptionalTags are told by State; they steer placement.
	Zone               string
	Tags, OptionalTags []string
	// Runtime makes the containers; required. No other Agent may use it at the same time.
	Runtime Runtime
	// Open opens the bytes of a Source. "inline:" sources are not asked for. Nil:
	// [OpenLocal], which knows "dir:" and "inline:".
	Open func(ctx context.Context, s Source) (io.ReadCloser, error)
	// Save stores an output under Output.Key. Nil: works whose outputs have a Key fail.
	Save func(ctx context.Context, key string, r io.Reader) (blob.Info, error)
	// Login gives the credentials for the image of a work, where something of it has to be fetched; an empty user
	// name: there are none. Nil: for none.
	Login func(ctx context.Context, w Work) (username, password string, err error)
	// Logger gets what concerns no single work; nil discards.
	Logger *slog.Logger
	// Now stamps lines and statuses; nil: time.Now.
	Now func() time.Time
	// Dial connects health probes; nil: [Address.Dial].
	Dial func(context.Context, Address) (net.Conn, error)
	// Memory and Disk in bytes, and Containers, if not 0, stand for what the Runtime says
	// that it has: to overcommit, or to leave room.
	Memory, Disk int64
	Containers   int
	// IP is the machine's address that apps are told as CF_INSTANCE_IP; "": the host of
	// their first Address.
	IP string
	// Leave: when Run's ctx ends, what runs is left running, to be adopted by the next Agent
	// over the same Runtime. It needs a Runtime whose containers are an [Attacher].
	Leave bool
	// LogLines is how many lines of one work are kept after they were read; those that were not
	// are kept, too. LogBytes bounds both. 0: 20,000 lines, 64 MiB. LogTotalBytes bounds those of all works
	// together: where there are more, the work that has most of them loses its oldest, which its readers
	// are told. 0: 256 MiB.
	LogLines, LogBytes int
	LogTotalBytes      int64
	// LogLinesPerSecond is how many lines one instance may print in a second, and at once. What
	// comes above is dropped for a second, which is said once, in Cloud Foundry's words. Staging is not limited.
	// 0: no limit. Spec.LogRate limits bytes.
	LogLinesPerSecond int
}

// Agent is the [Cell] over a [Runtime]. It starts nothing until Run, and calls that need
// to know what runs wait until Run has adopted it.
type Agent struct {
	cfg     AgentConfig
	adopted chan struct{} // closed when Run knows what there is
	ended   chan struct{} // closed when Run has returned
	probes  agenda        // health
	disks   agenda        // what works take of the disk
	lines   logBudget     // what is kept of the output of works

	mu       sync.Mutex // guards what follows
	ran      bool
	closing  bool
	draining bool
	total    Resources
	known    bool // total is
	jobs     map[string]*job
	watchers map[*watcher]struct{}
	changes  uint64          // of jobs, as State counts them
	ctx      context.Context // of all jobs; set by Run
	wg       sync.WaitGroup
}

var _ Cell = (*Agent)(nil)

// New returns an Agent that is not running yet.
func New(c AgentConfig) (*Agent, error) {
	if c.ID == "" {
		return nil, errors.New("cell.New: AgentConfig.ID is empty: name the cell")
	}
	if c.Runtime == nil {
		return nil, errors.New("cell.New: AgentConfig.Runtime is nil: give one, such as cell.NewMemory or process.New")
	}
	if c.Open == nil {
		c.Open = OpenLocal
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, a Address) (net.Conn, error) { return a.Dial(ctx) }
	}
	if c.LogLines <= 0 {
		c.LogLines = 20_000
	}
	if c.LogBytes <= 0 {
		c.LogBytes = 64 << 20
	}
	if c.LogTotalBytes <= 0 {
		c.LogTotalBytes = 256 << 20
	}
	return &Agent{cfg: c, adopted: make(chan struct{}), ended: make(chan struct{}),
		probes: agenda{width: probesAtOnce, most: slowProbes}, disks: agenda{width: 1, most: 1},
		lines: logBudget{most: c.LogTotalBytes},
		jobs:  map[string]*job{}, watchers: map[*watcher]struct{}{}, changes: 1}, nil
}

// stopped is the cause of a job's end.
var (
	errStopped = errors.New("stopped")
	errLeft    = errors.New("left running")
)

// Run adopts what runs, and works until ctx ends. Then it stops and removes everything,
// unless AgentConfig.Leave, and returns nil when all has ended. It can be called once.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	if a.ran {
		a.mu.Unlock()
		return fmt.Errorf("cell %s: Run was called before: make another Agent", a.cfg.ID)
	}
	a.ran = true
	// The jobs end in their own way, not by ctx: they have to say goodbye.
	jobs, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	a.ctx = jobs
	a.mu.Unlock()
	defer close(a.ended)

	err := a.adopt(ctx)
	if err == nil {
		close(a.adopted)
		<-ctx.Done()
	}
	a.mu.Lock()
	a.closing = true
	all := make([]*job, 0, len(a.jobs))
	for _, j := range a.jobs {
		all = append(all, j)
	}
	a.mu.Unlock()
	if a.cfg.Leave || err != nil {
		cancel(errLeft)
	} else {
		for _, j := range all {
			a.stop(j)
		}
	}
	a.wg.Wait()
	cancel(errLeft)
	if err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// ready waits until the Agent knows what runs.
func (a *Agent) ready(ctx context.Context) error {
	select { // an Agent that has ended is not ready, though it once was
	case <-a.ended:
		return a.errEnded()
	default:
	}
	select {
	case <-a.adopted:
		return nil
	case <-a.ended:
		return a.errEnded()
	case <-ctx.Done():
		return fmt.Errorf("cell %s is not running yet: %w", a.cfg.ID, ctx.Err())
	}
}

func (a *Agent) errEnded() error { return fmt.Errorf("cell %s has ended", a.cfg.ID) }

// capacity asks the Runtime once.
func (a *Agent) capacity(ctx context.Context) (Resources, error) {
	a.mu.Lock()
	total, known := a.total, a.known
	a.mu.Unlock()
	if known {
		return total, nil
	}
	total, err := a.cfg.Runtime.Capacity(ctx)
	if err != nil {
		return Resources{}, fmt.Errorf("cell %s: capacity: %w", a.cfg.ID, err)
	}
	if a.cfg.Memory != 0 {
		total.Memory = a.cfg.Memory
	}
	if a.cfg.Disk != 0 {
		total.Disk = a.cfg.Disk
	}
	if a.cfg.Containers != 0 {
		total.Containers = a.cfg.Containers
	}
	a.mu.Lock()
	a.total, a.known = total, true
	a.mu.Unlock()
	return total, nil
}

// State implements [Cell]. It answers also before Run.
func (a *Agent) State(ctx context.Context) (State, error) {
	total, err := a.capacity(ctx)
	if err != nil {
		return State{}, err
	}
	select {
	case <-a.ended:
		return State{}, a.errEnded()
	default:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return State{ID: a.cfg.ID, Zone: a.cfg.Zone, Tags: slices.Clone(a.cfg.Tags), OptionalTags: slices.Clone(a.cfg.OptionalTags),
		Total: total, Free: a.free(), Draining: a.closing || a.draining, Changes: a.changes}, nil
}

// Drain makes the cell refuse new work (on), which State tells, or take it again. What runs goes
// on: to move it is the matter of who placed it.
func (a *Agent) Drain(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draining = on
}

// free is what is left; a.mu is held.
func (a *Agent) free() Resources {
	f := a.total
	for _, j := range a.jobs {
		if j.status.Phase == PhaseDone {
			continue
		}
		f.Memory -= j.work.Spec.Memory
		f.Disk -= j.work.Spec.Disk
		f.Containers--
	}
	return f
}

// Start implements [Cell].
func (a *Agent) Start(ctx context.Context, w Work) error {
	if err := a.check(w); err != nil {
		return fmt.Errorf("cell %s: start: %w", a.cfg.ID, err)
	}
	if err := a.ready(ctx); err != nil {
		return err
	}
	if _, err := a.capacity(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs[w.ID] != nil {
		return nil
	}
	if reason := a.refusal(w); reason != "" {
		return &RefusedError{Cell: a.cfg.ID, Reason: reason}
	}
	j := a.newJob(w, a.cfg.Now())
	a.add(j)
	a.wg.Go(j.run)
	return nil
}

// check finds what no cell could run.
func (a *Agent) check(w Work) error {
	if err := CheckID(w.ID); err != nil {
		return err
	}
	if len(w.ID) > 128-len(tombstone) {
		return fmt.Errorf("work %s: the id has %d characters: use at most %d", w.ID, len(w.ID), 128-len(tombstone))
	}
	if w.Process.Path == "" {
		return fmt.Errorf("work %s: Process.Path is empty", w.ID)
	}
	if err := CheckHealth(w.Health, w.Spec.Ports); err != nil {
		return fmt.Errorf("work %s: %w", w.ID, err)
	}
	names := map[string]bool{processID(w.Process, -1): true}
	for i, p := range w.Sidecars {
		name := processID(p, i)
		if p.Path == "" {
			return fmt.Errorf("work %s: Path of sidecar %s is empty", w.ID, name)
		}
		if names[name] {
			return fmt.Errorf("work %s: two processes have the id %q: give each its own", w.ID, name)
		}
		names[name] = true
	}
	if s := w.Spec; min(s.Memory, s.Disk, int64(s.CPU), int64(s.PIDs), int64(s.NoFile)) < 0 {
		return fmt.Errorf("work %s: a limit is negative: use 0 for no limit", w.ID)
	}
	note, err := json.Marshal(note{Work: &w})
	if err != nil {
		return fmt.Errorf("work %s: %w", w.ID, err)
	}
	if len(note) > MaxNote-1024 {
		return fmt.Errorf("work %s: it takes %d bytes as JSON, at most %d are allowed: put large inputs into blobs", w.ID, len(note), MaxNote-1024)
	}
	return nil
}

// levels orders the isolation levels.
var levels = []string{"memory", "none", "landlock", "namespaces", "containerd"}

// Isolations lists the levels of isolation that there are, weakest first (Spec.Isolation, Resources.Isolation).
func Isolations() []string { return slices.Clone(levels) }

// refusal says why this cell cannot take a work now, "" if it can; a.mu is held.
func (a *Agent) refusal(w Work) string {
	if a.closing {
		return "the cell is stopping"
	}
	if a.draining {
		return "evacuating"
	}
	if want := w.Spec.Isolation; want != "" && slices.Index(levels, a.total.Isolation) < slices.Index(levels, want) {
		return fmt.Sprintf("isolation %q is wanted, %q is what this cell has", want, a.total.Isolation)
	} else if want != "" && !slices.Contains(levels, want) {
		return fmt.Sprintf("isolation %q is not known", want)
	}
	if w.Spec.Image != "" && !a.total.Images {
		return "this cell runs no images"
	}
	if s := w.Spec.Stack; s != "" && w.Spec.Image == "" && len(a.total.Stacks) > 0 && !slices.Contains(a.total.Stacks, s) {
		return fmt.Sprintf("found no compatible cell for required rootfs %q", s)
	}
	var lacking []string // in Cloud Foundry's order, which is the alphabet's
	free := a.free()
	if a.total.Containers > 0 && free.Containers < 1 {
		lacking = append(lacking, "containers")
	}
	if a.total.Disk > 0 && free.Disk < w.Spec.Disk {
		lacking = append(lacking, "disk")
	}
	if a.total.Memory > 0 && free.Memory < w.Spec.Memory {
		lacking = append(lacking, "memory")
	}
	if lacking != nil {
		return "insufficient resources: " + strings.Join(lacking, ", ")
	}
	return ""
}

// Stop implements [Cell].
func (a *Agent) Stop(ctx context.Context, id string) error {
	if err := a.ready(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	j := a.jobs[id]
	a.mu.Unlock()
	if j != nil {
		a.stop(j)
	}
	return nil
}

// stop asks a job to end and to be forgotten. Idempotent.
func (a *Agent) stop(j *job) {
	j.stopOnce.Do(func() {
		close(j.stop)
		j.cancel(errStopped)
	})
}

// Logs implements [Cell].
func (a *Agent) Logs(ctx context.Context, id string, from logs.Position) iter.Seq2[logs.Line, error] {
	return func(yield func(logs.Line, error) bool) {
		if err := a.ready(ctx); err != nil {
			yield(logs.Line{}, err)
			return
		}
		a.mu.Lock()
		j := a.jobs[id]
		a.mu.Unlock()
		if j == nil {
			yield(logs.Line{}, fmt.Errorf("cell %s: work %s: %w", a.cfg.ID, id, fs.ErrNotExist))
			return
		}
		j.log.read(ctx, from, yield)
	}
}
