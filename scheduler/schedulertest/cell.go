// Package schedulertest is the conformance suite of scheduler.Policy, [RunPolicy], and has a
// scripted cell for tests of schedulers: [Cell] takes works
// and does with them what the test says: they run, crash, are refused, vanish, or the
// whole cell goes silent. It starts no goroutine and works inside testing/synctest.
package schedulertest

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// Config says what a Cell is. The zero Config is a cell "cell-0" without a zone, with
// 1 TiB of memory and disk and 10,000 containers.
type Config struct {
	ID     string
	Zone   string
	Tags   []string
	Stacks []string
	Memory int64 // bytes
	Disk   int64 // bytes
	Slots  int   // containers
	// Hold keeps new works in PhaseCreating until Advance; otherwise they run at once.
	Hold bool
	// Linger keeps stopped works in PhaseStopping until Bury; otherwise they are gone at once.
	Linger bool
}

// Cell is a cell in memory. All methods may be called by any number of goroutines.
type Cell struct {
	cfg Config

	mu       sync.Mutex
	works    map[string]*work
	trail    []mark // what changed, in order
	changed  chan struct{}
	silent   chan struct{} // not nil: the cell does not answer until it is closed
	cuts     chan struct{} // closed to break every Watch
	refuse   func(cell.Work) string
	fail     func(cell.Work) (done bool, err error)
	failStop func(id string) (done bool, err error)
	draining bool
	deaf     chan struct{} // closed to have every open Watch stick
	ports    int
	starts   int
	stops    int
}

type work struct {
	status  cell.Status
	lines   []logs.Line
	changed chan struct{}
	gone    bool
}

type mark struct {
	id   string
	gone bool
}

var _ cell.Cell = (*Cell)(nil)

// New returns a cell that takes every work that fits and runs it at once.
func New(c Config) *Cell {
	if c.ID == "" {
		c.ID = "cell-0"
	}
	if c.Memory == 0 {
		c.Memory = 1 << 40
	}
	if c.Disk == 0 {
		c.Disk = 1 << 40
	}
	if c.Slots == 0 {
		c.Slots = 10_000
	}
	return &Cell{cfg: c, works: map[string]*work{}, changed: make(chan struct{}), cuts: make(chan struct{}), deaf: make(chan struct{}), ports: 60000}
}

// ID returns the cell's id.
func (c *Cell) ID() string { return c.cfg.ID }

// answer waits while the cell is silent.
func (c *Cell) answer(ctx context.Context) error {
	for {
		c.mu.Lock()
		silent := c.silent
		c.mu.Unlock()
		if silent == nil {
			return ctx.Err()
		}
		select {
		case <-silent:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// State describes the cell.
func (c *Cell) State(ctx context.Context) (cell.State, error) {
	if err := c.answer(ctx); err != nil {
		return cell.State{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	total := cell.Resources{Memory: c.cfg.Memory, Disk: c.cfg.Disk, Containers: c.cfg.Slots, Isolation: "memory", Stacks: slices.Clone(c.cfg.Stacks)}
	return cell.State{ID: c.cfg.ID, Zone: c.cfg.Zone, Tags: slices.Clone(c.cfg.Tags), Total: total, Free: c.free(total), Draining: c.draining,
		Changes: c.count()}, nil
}

// count is the State's Changes; c.mu is held.
func (c *Cell) count() uint64 { return uint64(len(c.trail)) + 1 }

func (c *Cell) free(r cell.Resources) cell.Resources {
	for _, w := range c.works {
		if w.status.Phase != cell.PhaseDone {
			r.Memory -= w.status.Work.Spec.Memory
			r.Disk -= w.status.Work.Spec.Disk
			r.Containers--
		}
	}
	return r
}

// Start takes a work.
func (c *Cell) Start(ctx context.Context, w cell.Work) error {
	if err := c.answer(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starts++
	var failure error
	if c.fail != nil {
		done, err := c.fail(w)
		if err != nil && !done {
			return err
		}
		failure = err
	}
	if _, known := c.works[w.ID]; known {
		return failure
	}
	if why := c.refusal(w); why != "" {
		return &cell.RefusedError{Cell: c.cfg.ID, Reason: why}
	}
	now := time.Now()
	x := &work{status: cell.Status{ID: w.ID, Work: &w, Phase: cell.PhaseAccepted, Since: now}, changed: make(chan struct{})}
	c.works[w.ID] = x
	if c.cfg.Hold {
		x.status.Phase = cell.PhaseCreating
	} else {
		c.run(x)
	}
	c.mark(mark{id: w.ID})
	return failure
}

func (c *Cell) refusal(w cell.Work) string {
	if c.draining {
		return "the cell is draining"
	}
	if c.refuse != nil {
		if why := c.refuse(w); why != "" {
			return why
		}
	}
	free := c.free(cell.Resources{Memory: c.cfg.Memory, Disk: c.cfg.Disk, Containers: c.cfg.Slots})
	switch {
	case w.Spec.Memory > free.Memory:
		return "insufficient resources: memory"
	case w.Spec.Disk > free.Disk:
		return "insufficient resources: disk"
	case free.Containers < 1:
		return "insufficient resources: containers"
	}
	return ""
}

func (c *Cell) run(x *work) {
	now := time.Now()
	x.status.Phase, x.status.Since, x.status.Started = cell.PhaseRunning, now, now
	for _, p := range x.status.Work.Spec.Ports {
		c.ports++
		x.status.Addresses = append(x.status.Addresses, cell.Address{Port: p, Host: fmt.Sprintf("127.0.0.1:%d", c.ports)})
	}
}

// Stop ends a work and forgets it.
func (c *Cell) Stop(ctx context.Context, id string) error {
	if err := c.answer(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stops++
	var failure error
	if c.failStop != nil {
		done, err := c.failStop(id)
		if err != nil && !done {
			return err
		}
		failure = err
	}
	x, ok := c.works[id]
	if !ok {
		return failure
	}
	if c.cfg.Linger && x.status.Phase != cell.PhaseDone {
		x.status.Phase, x.status.Since = cell.PhaseStopping, time.Now()
		c.mark(mark{id: id})
		return failure
	}
	c.forget(id)
	return failure
}

func (c *Cell) forget(id string) {
	if x, ok := c.works[id]; ok {
		x.gone = true
		close(x.changed)
		x.changed = make(chan struct{})
		delete(c.works, id)
		c.mark(mark{id: id, gone: true})
	}
}

func (c *Cell) mark(m mark) {
	c.trail = append(c.trail, m)
	close(c.changed)
	c.changed = make(chan struct{})
}

// Watch yields what the cell runs.
func (c *Cell) Watch(ctx context.Context) iter.Seq2[cell.Event, error] {
	return func(yield func(cell.Event, error) bool) {
		if err := c.answer(ctx); err != nil {
			return
		}
		c.mu.Lock()
		at, cuts, deaf := len(c.trail), c.cuts, c.deaf
		first, changes := c.statuses(), c.count()
		c.mu.Unlock()
		for _, s := range first {
			if !yield(cell.Event{Status: s}, nil) {
				return
			}
		}
		if !yield(cell.Event{Synced: true, Changes: changes}, nil) {
			return
		}
		for {
			c.mu.Lock()
			changed, changes := c.changed, c.count()
			var events []cell.Event
			for ; at < len(c.trail); at++ {
				m := c.trail[at]
				if x, ok := c.works[m.id]; ok && !m.gone {
					events = append(events, cell.Event{Status: x.status})
				} else if m.gone && !ok {
					events = append(events, cell.Event{Status: cell.Status{ID: m.id, Phase: cell.PhaseDone}, Gone: true})
				}
			}
			c.mu.Unlock()
			select {
			case <-deaf:
				<-ctx.Done()
				return
			default:
			}
			for i, e := range events {
				if i == len(events)-1 {
					e.Changes = changes
				}
				if c.answer(ctx) != nil || !yield(e, nil) {
					return
				}
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-cuts:
				yield(cell.Event{}, fmt.Errorf("cell %s: the connection broke", c.cfg.ID))
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// Logs yields the lines that Print gave.
func (c *Cell) Logs(ctx context.Context, id string, from logs.Position) iter.Seq2[logs.Line, error] {
	return func(yield func(logs.Line, error) bool) {
		c.mu.Lock()
		x, ok := c.works[id]
		c.mu.Unlock()
		if !ok {
			yield(logs.Line{}, fmt.Errorf("cell %s: work %s: %w", c.cfg.ID, id, fs.ErrNotExist))
			return
		}
		for {
			if c.answer(ctx) != nil {
				return
			}
			c.mu.Lock()
			lines := x.lines[min(int(from), len(x.lines)):]
			end := x.gone || x.status.Phase == cell.PhaseDone
			changed, cuts := x.changed, c.cuts
			c.mu.Unlock()
			for _, l := range lines {
				from = l.Pos
				if !yield(l, nil) {
					return
				}
			}
			if len(lines) > 0 {
				continue
			}
			if end {
				return
			}
			select {
			case <-changed:
			case <-cuts:
				yield(logs.Line{}, fmt.Errorf("cell %s: the connection broke", c.cfg.ID))
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

func (c *Cell) statuses() []cell.Status {
	var all []cell.Status
	for _, x := range c.works {
		all = append(all, x.status)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i].Work, all[j].Work
		if a.LRP != b.LRP {
			return a.LRP < b.LRP
		}
		if a.Index != b.Index {
			return a.Index < b.Index
		}
		return a.ID < b.ID
	})
	return all
}

// Session is a process that Exec was asked for. Nothing runs.
type Session struct {
	cell.Session
	Work    string
	Process cell.Process
}

// Exec implements cell.WorkExecer.
func (c *Cell) Exec(ctx context.Context, id string, p cell.Process, _ *cell.TerminalSize) (cell.Session, error) {
	if err := c.answer(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.works[id] == nil {
		return nil, fmt.Errorf("work %s: %w", id, fs.ErrNotExist)
	}
	return &Session{Work: id, Process: p}, nil
}
