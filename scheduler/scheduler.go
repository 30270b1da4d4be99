package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
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
	// LogSink gets each line of each instance once, in order for each instance; a restart of
	// the program begins anew with what the cells have kept. It must not block for long.
	// nil: instances' lines stay on their cells. The lines of a task go to RunTask's out.
	LogSink func(logs.Line)
	// LostAfter is how long a cell may be silent before its instances are replaced;
	// 0: 6 seconds.
	LostAfter time.Duration
	// Logger gets what the operator should know; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// NewID makes the ids of works, which are never used twice; nil: random UUIDs.
	NewID func() string
}

// retryPlacement is how long an instance without a place waits if nothing changes.
const retryPlacement = 30 * time.Second

var (
	desired = state.NewTable("lrps", func(d lrp.Desired) string { return string(d.ID) })
	rows    = state.NewTable("instances", lrp.Row.Key,
		state.Index[lrp.Row]{Name: "cell", Keys: func(r lrp.Row) []string {
			var cells []string
			if r.Cell != "" {
				cells = append(cells, r.Cell)
			}
			if r.Suspect != nil && r.Suspect.Cell != r.Cell {
				cells = append(cells, r.Suspect.Cell)
			}
			return cells
		}})
)

// Tables returns the tables that a Scheduler's DB must be opened with.
func Tables() []state.AnyTable { return []state.AnyTable{desired, rows} }

// Scheduler keeps processes running on cells. Apply, Remove, Restart and the reading
// methods work at any time; what they ask for is done while Run runs. All methods may be
// called by any number of goroutines.
type Scheduler struct {
	db        *state.DB
	policy    Policy
	sink      func(logs.Line)
	log       *slog.Logger
	now       func() time.Time
	newID     func() string
	lostAfter time.Duration

	kick  chan struct{} // holds a token if the loop has something to do
	heard chan struct{} // closed when the cells have told what they run
	ready chan struct{} // closed when the rows say so, too
	ended chan struct{}
	wg    sync.WaitGroup // what Run started

	mu       sync.Mutex
	ran      bool
	isReady  bool
	members  map[string]*member // by cell id
	unknown  []*member          // those that have not told their id
	joining  []*member          // not served by a pump yet
	removed  map[string]bool    // ids of cells that RemoveCell took away
	view     View
	dirty    map[lrp.ID]struct{}
	before   []lrp.Row // as they were, those that Remove and Restart changed
	unplaced map[lrp.ID]struct{}
	avoid    map[string]map[string]avoidance // by row key and cell id
	refused  map[string]bool                 // GUIDs of claims that a cell refused
	starting map[string]*starter             // Starts under way, by GUID
	tasks    map[string]*task                // waiting RunTasks, by work id
	checks   map[check]struct{}              // works that may have become unwanted
	alarms   alarms
	looks    map[lrp.ID]time.Time // the next alarm of each process that has any
}

var (
	_ lrp.Scheduler = (*Scheduler)(nil)
	_ lrp.Runner    = (*Scheduler)(nil)
	_ lrp.Restarter = (*Scheduler)(nil)
)

// New checks a Config. It starts nothing and calls no cell.
func New(c Config) (*Scheduler, error) {
	if c.DB == nil {
		return nil, errors.New("scheduler: Config.DB is required; open one with scheduler.Tables()")
	}
	if c.LostAfter < 0 {
		return nil, fmt.Errorf("scheduler: Config.LostAfter is %v; use 0 (6 s) or more", c.LostAfter)
	}
	s := &Scheduler{
		db: c.DB, policy: c.Policy, sink: c.LogSink, log: c.Logger, now: c.Now, newID: c.NewID, lostAfter: c.LostAfter,
		kick: make(chan struct{}, 1), heard: make(chan struct{}), ready: make(chan struct{}), ended: make(chan struct{}),
		members: map[string]*member{}, removed: map[string]bool{},
		dirty: map[lrp.ID]struct{}{}, unplaced: map[lrp.ID]struct{}{}, avoid: map[string]map[string]avoidance{},
		refused: map[string]bool{}, starting: map[string]*starter{}, tasks: map[string]*task{}, checks: map[check]struct{}{}, looks: map[lrp.ID]time.Time{},
	}
	if s.policy == nil {
		s.policy = Spread{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.newID == nil {
		s.newID = uuid.NewString
	}
	if s.lostAfter == 0 {
		s.lostAfter = 6 * time.Second
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
	if err := lrp.Validate(d); err != nil {
		return err
	}
	err := s.db.Update(ctx, func(tx *state.Tx) error {
		old, ok := desired.Get(tx, string(d.ID))
		if ok && !sameWork(old.Work, d.Work) {
			return lrp.ErrImmutable
		}
		if ok && old.Instances == d.Instances && old.Annotation == d.Annotation {
			return nil
		}
		return desired.Put(tx, d)
	})
	s.touch(d.ID) // also after an error: it may be made, and is settled by that
	if err != nil {
		return fmt.Errorf("scheduler: apply %s: %w", d.ID, err)
	}
	return nil
}

// sameWork compares works as they are stored.
func sameWork(a, b cell.Work) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Remove implements lrp.Scheduler. On return the process has no instances any more; their
// works are stopped after that.
func (s *Scheduler) Remove(ctx context.Context, id lrp.ID) error {
	var old []lrp.Row
	err := s.db.Update(ctx, func(tx *state.Tx) error {
		desired.Delete(tx, string(id))
		// Not left to the loop: an Apply that follows may bring another work.
		old = slices.Collect(rows.Prefix(tx, lrp.KeyPrefix(id)))
		for _, r := range old {
			rows.Delete(tx, r.Key())
		}
		return nil
	})
	s.touch(id, old...)
	if err != nil {
		return fmt.Errorf("scheduler: remove %s: %w", id, err)
	}
	return nil
}

// Restart implements lrp.Restarter. The new instance does not wait for the end of the old one.
func (s *Scheduler) Restart(ctx context.Context, id lrp.ID, index int) error {
	var old []lrp.Row
	err := s.db.Update(ctx, func(tx *state.Tx) error {
		r, ok := rows.Get(tx, lrp.RowKey(id, index))
		if !ok {
			return fmt.Errorf("there is no such instance: %w", fs.ErrNotExist)
		}
		old = append(old, r)
		return rows.Put(tx, r.Forget(s.now()))
	})
	s.touch(id, old...)
	if err != nil {
		return fmt.Errorf("scheduler: restart %s/%d: %w", id, index, err)
	}
	return nil
}

// Instances implements lrp.Scheduler.
func (s *Scheduler) Instances(ctx context.Context, id lrp.ID) ([]lrp.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var all []lrp.Instance
	for r := range rows.Prefix(s.db.View(), lrp.KeyPrefix(id)) {
		all = append(all, r.Shown())
	}
	return all, nil
}

// Desired returns every process that is wanted, in order of ID.
func (s *Scheduler) Desired() iter.Seq[lrp.Desired] { return desired.All(s.db.View()) }

// Watch implements lrp.Scheduler.
func (s *Scheduler) Watch(ctx context.Context, after uint64) iter.Seq2[lrp.Event, error] {
	return func(yield func(lrp.Event, error) bool) {
		if after == 0 {
			v := s.db.View()
			after = v.Rev()
			for r := range rows.All(v) {
				if !yield(lrp.Event{Instance: r.Shown(), Rev: 0}, nil) {
					return
				}
			}
			if !yield(lrp.Event{Synced: true, Rev: after}, nil) {
				return
			}
		}
		for {
			changed := s.db.Changed(rows)
			list, err := s.db.Changes(after, rows)
			if errors.Is(err, state.ErrCompacted) {
				yield(lrp.Event{}, lrp.ErrCompacted)
				return
			}
			if err != nil {
				yield(lrp.Event{}, fmt.Errorf("scheduler: watch: %w", err))
				return
			}
			for i, c := range list {
				last := i == len(list)-1 || list[i+1].Rev != c.Rev
				e, ok := event(c)
				if e.Rev = after; last {
					e.Rev, after = c.Rev, c.Rev
				}
				if ok && (ctx.Err() != nil || !yield(e, nil)) {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// event turns a change of a row into what users see; false: they see no change.
func event(c state.Change) (lrp.Event, bool) {
	old, had := c.Old.(lrp.Row)
	r, has := c.New.(lrp.Row)
	if !has {
		return lrp.Event{Instance: old.Shown(), Gone: true}, had
	}
	return lrp.Event{Instance: r.Shown()}, !had || !sameInstance(old.Shown(), r.Shown())
}

// touch has the loop look at a process, and at the works of rows that were changed. That they
// were need not be certain yet: the loop's own Update settles it first.
func (s *Scheduler) touch(id lrp.ID, changed ...lrp.Row) {
	s.mu.Lock()
	s.dirty[id] = struct{}{}
	s.before = append(s.before, changed...)
	s.mu.Unlock()
	s.wake()
}

func (s *Scheduler) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
