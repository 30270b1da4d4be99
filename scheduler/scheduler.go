package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// Config is what a Scheduler is made of. Only DB is required.
type Config struct {
	// DB must have been opened with Tables. No other Scheduler may use it.
	DB *state.DB
	// Cells to begin with; more by AddCell.
	Cells []cell.Cell
	// Policy chooses cells; nil: Spread.
	Policy Policy
	// LogSink gets each line of each instance and task once, in order for each; a restart of
	// the program begins anew with what the cells have kept. It must not block for long.
	// nil: the lines stay on their cells. The lines of RunTask go to its out.
	LogSink func(logs.Line)
	// LostAfter is how long a cell may be silent before its instances are replaced;
	// 0: 6 seconds.
	LostAfter time.Duration
	// Evacuation is how long an instance of a draining cell waits for its replacement before it
	// is stopped all the same; 0: 10 minutes. Without a place for the replacement it stays.
	Evacuation time.Duration
	// StartingLimit is how many works may be starting at once on all cells; others wait. 0:
	// no limit.
	StartingLimit int
	// Moves is how many instances may be moved at a time to balance the cells when one has come,
	// or come back. 0: none are.
	Moves int
	// Leaving is called with the id of a work before its cell is told to stop it, and returns
	// when no request is sent there any more, or when its context ends, after a second. What
	// Watch tells comes before it. Nil: works are stopped at once.
	Leaving func(ctx context.Context, guid string)
	// Logger gets what the operator should know; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// NewID makes the ids of works, which are never used twice; nil: random UUIDs.
	NewID func() string
}

// checked returns the Config with its defaults.
func (c Config) checked() (Config, error) {
	switch {
	case c.DB == nil:
		return c, errors.New("scheduler: Config.DB is required; open one with scheduler.Tables()")
	case c.LostAfter < 0:
		return c, fmt.Errorf("scheduler: Config.LostAfter is %v; use 0 (6 s) or more", c.LostAfter)
	case c.Evacuation < 0:
		return c, fmt.Errorf("scheduler: Config.Evacuation is %v; use 0 (10 min) or more", c.Evacuation)
	case c.StartingLimit < 0 || c.Moves < 0:
		return c, fmt.Errorf("scheduler: Config.StartingLimit is %d and Config.Moves %d; use 0 or more", c.StartingLimit, c.Moves)
	}
	if c.Policy == nil {
		c.Policy = Spread{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = uuid.NewString
	}
	if c.LostAfter == 0 {
		c.LostAfter = 6 * time.Second
	}
	return c, nil
}

// Scheduler keeps processes running on cells. Apply, Remove, Restart, those of tasks and the
// reading methods work at any time; what they ask for is done while Run runs. All methods may be
// called by any number of goroutines.
//
// It is a [Core] with a goroutine that owns it, and others that call the cells.
type Scheduler struct {
	Store // what is read, and written without the Core

	core      *Core
	sink      func(logs.Line)
	leaving   func(context.Context, string)
	log       *slog.Logger
	now       func() time.Time
	lostAfter time.Duration

	kick  chan struct{} // holds a token if there is something to tell
	ready chan struct{} // closed when the rows say what the cells told
	ended chan struct{}
	wg    sync.WaitGroup // what Run started

	mu       sync.Mutex
	ran      bool
	inbox    []func(*Core)
	joining  []*peer // not served by a pump yet
	readers  map[reading]chan struct{}
	runners  map[string]*runner // waiting RunTasks, by work id
	stepping []chan struct{}    // closed when a Step has stored what it decided
	// confirmed is replaced, never changed; more is closed then.
	confirmed map[string]bool
	more      chan struct{}
}

var (
	_ lrp.Scheduler = (*Scheduler)(nil)
	_ lrp.Runner    = (*Scheduler)(nil)
	_ lrp.Restarter = (*Scheduler)(nil)
	_ lrp.Execer    = (*Scheduler)(nil)
	_ lrp.Confirmer = (*Scheduler)(nil)
)

// New checks a Config. It starts nothing and calls no cell.
func New(c Config) (*Scheduler, error) {
	c, err := c.checked()
	if err != nil {
		return nil, err
	}
	core, err := NewCore(c, c.Now())
	if err != nil {
		return nil, err
	}
	s := &Scheduler{
		Store: Store{DB: c.DB}, core: core, sink: c.LogSink, leaving: c.Leaving, log: c.Logger, now: c.Now, lostAfter: c.LostAfter,
		kick: make(chan struct{}, 1), ready: make(chan struct{}), ended: make(chan struct{}),
		readers: map[reading]chan struct{}{}, runners: map[string]*runner{}, more: make(chan struct{}),
	}
	for _, c := range c.Cells {
		if err := s.AddCell(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Apply implements lrp.Scheduler. What lrp.Validate says is returned.
func (s *Scheduler) Apply(ctx context.Context, d lrp.Desired) error {
	ch, err := s.Store.Apply(ctx, d)
	return s.changed(ch, err)
}

// Remove implements lrp.Scheduler.
func (s *Scheduler) Remove(ctx context.Context, id lrp.ID) error {
	ch, err := s.Store.Remove(ctx, id)
	return s.changed(ch, err)
}

// Restart implements lrp.Restarter. The new instance does not wait for the end of the old one.
func (s *Scheduler) Restart(ctx context.Context, id lrp.ID, index int) error {
	ch, err := s.Store.Restart(ctx, id, index, s.now())
	return s.changed(ch, err)
}

// Exec implements lrp.Execer. It waits for Run.
func (s *Scheduler) Exec(ctx context.Context, id lrp.ID, index int, p cell.Process, size *cell.TerminalSize) (cell.Session, error) {
	all := s.Store.Instances(id)
	i := slices.IndexFunc(all, func(i lrp.Instance) bool { return i.Index == index && i.GUID != "" })
	if i < 0 {
		return nil, fmt.Errorf("scheduler: instance %d of %s is on no cell: %w", index, id, fs.ErrNotExist)
	}
	var on cell.Cell
	err := s.ask(ctx, func(c *Core) {
		if m := c.members[all[i].Cell]; m != nil {
			on = m.Handle.(*peer).cell
		}
	})
	if err != nil {
		return nil, err
	}
	if on == nil {
		return nil, fmt.Errorf("scheduler: cell %s of instance %d of %s is not known: %w", all[i].Cell, index, id, fs.ErrNotExist)
	}
	x, ok := on.(cell.WorkExecer)
	if !ok {
		return nil, fmt.Errorf("scheduler: cell %s runs nothing beside instances: %w", all[i].Cell, errors.ErrUnsupported)
	}
	return x.Exec(ctx, all[i].GUID, p, size)
}

// Instances implements lrp.Scheduler.
func (s *Scheduler) Instances(ctx context.Context, id lrp.ID) ([]lrp.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.Store.Instances(id), nil
}

// Watch implements lrp.Scheduler.
func (s *Scheduler) Watch(ctx context.Context, after uint64) iter.Seq2[lrp.Event, error] {
	return s.Store.Watch(ctx, after)
}

// DesireTask has a work done once, and outlives restarts. Durable on return; the effect follows.
// Idempotent by id: another work under it is ErrTaskExists. Only placing it is tried again: up to
// three times it may be refused, and 30 minutes wait for a cell.
func (s *Scheduler) DesireTask(ctx context.Context, id string, w cell.Work, annotation string) error {
	ch, err := s.Store.DesireTask(ctx, id, w, annotation, s.now())
	return s.changed(ch, err)
}

// CancelTask fails a task that is not over with "task was cancelled". Durable on return; its work
// is stopped after that. Unknown: fs.ErrNotExist; over: ErrTaskState.
func (s *Scheduler) CancelTask(ctx context.Context, id string) error {
	ch, err := s.Store.CancelTask(ctx, id, s.now())
	return s.changed(ch, err)
}

// ForgetTask removes a task that is over, which is otherwise kept for 31 days. Unknown: nil; not
// over: ErrTaskState.
func (s *Scheduler) ForgetTask(ctx context.Context, id string) error {
	ch, err := s.Store.ForgetTask(ctx, id)
	return s.changed(ch, err)
}

// Drain has a cell emptied, or ends that: it gets no more work, and its instances are replaced on
// others, each going on until its replacement serves, or Config.Evacuation is over. Tasks end by
// themselves. Durable: it outlives restarts, and may be said of a cell that is yet to come. How far it is,
// Cells tells.
func (s *Scheduler) Drain(ctx context.Context, cellID string, on bool) error {
	ch, err := s.Store.Drain(ctx, cellID, on, s.now())
	return s.changed(ch, err)
}

// changed has the Core look at what users changed. That it was need not be certain: the Core's
// own Update settles it.
func (s *Scheduler) changed(ch Change, err error) error {
	s.post(func(c *Core) { c.Changed(ch) })
	return err
}

// Cells returns what is known of the cells, in order of id. It waits for Run.
func (s *Scheduler) Cells(ctx context.Context) (all []CellInfo, err error) {
	err = s.ask(ctx, func(c *Core) { all = c.Cells() })
	return all, err
}

// Explain says where a work would come now, and why. Nothing is placed. It waits for Run.
func (s *Scheduler) Explain(ctx context.Context, w Want) (e Explanation, err error) {
	ok := false
	if err = s.ask(ctx, func(c *Core) { e, ok = c.Explain(w) }); err == nil && !ok {
		err = fmt.Errorf("scheduler: explain: the policy %T cannot: %w", s.core.policy, errors.ErrUnsupported)
	}
	return e, err
}

// Check looks at every process, task and work, whether anything has changed or not, and returns
// when what follows is decided and stored. Without a mistake in the Scheduler that is nothing.
func (s *Scheduler) Check(ctx context.Context) error {
	return s.step(ctx, func(c *Core) { c.Check() })
}

// Rebalance begins at most n moves of instances to cells that suit them better, and returns them. Each
// goes on where it is until its replacement serves. None: there is nothing to gain, or so many
// are on their way.
func (s *Scheduler) Rebalance(ctx context.Context, n int) (moves []Move, err error) {
	if err = s.step(ctx, func(c *Core) { c.Rebalance(n) }); err != nil {
		return nil, err
	}
	err = s.ask(ctx, func(c *Core) { moves = c.Moved() })
	return moves, err
}
