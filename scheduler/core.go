package scheduler

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// Core is the Scheduler without goroutines, clock and network: it is told what happened, and
// when, and its Step says what is to be done. The same calls bring the same answers, so that
// a history can be replayed. A Core must not be used by two goroutines at once.
//
// What it is told takes effect with the next Step.
type Core struct {
	db         *state.DB
	policy     Policy
	log        *slog.Logger
	newID      func() string
	lostAfter  time.Duration
	rules      lrp.Rules
	limit      int // of works that start at once; 0: none
	maxMoves   int // when a cell comes; 0: none
	readsLines bool

	phase     phase
	failed    bool      // the last Step could not store
	retry     time.Time // until then nothing is stored, because that has failed
	patience  time.Time // until then cells that say nothing are waited for
	strangers time.Time // until then, instances on cells that are not known are left alone
	awaited   bool      // there are such
	now       time.Time // of the Step under way

	members map[string]*Member // by cell id
	unnamed []*Member          // those that have not told their id
	removed map[string]bool    // ids of cells that Remove took away
	drained map[string]bool    // ids of cells that an operator drains
	view    View

	all   bool // every process and task must be looked at
	round int  // counts the walks over all of them

	checkWorks bool // and so must every work
	dirty      map[lrp.ID]struct{}
	dirtyT     map[string]struct{} // tasks
	dirtyA     map[string]struct{} // attended tasks
	before     []lrp.Row           // as they were, those that users changed
	unsure     []lrp.Occupancy     // works whose rows a Step changed without a certain answer
	unplaced   map[lrp.ID]struct{}
	waiting    map[string]struct{}             // tasks without a place
	limited    map[lrp.ID]struct{}             // held up by the starting limit
	avoid      map[string]map[string]avoidance // by row key, or work id of a task, and cell id
	refused    map[string]string               // GUIDs of claims that a cell refused, and why
	starting   map[string]*starter             // Starts under way, by GUID
	attended   map[string]*attendedTask        // by work id
	outcomes   map[string]cell.Status          // of tasks, told and perhaps not stored yet
	checks     checkList                       // works that may have become unwanted
	alarms     alarms
	looks      map[string]time.Time // the next alarm of each process and task that has any

	moving    map[string]lrp.ID    // by key, rows that are being moved
	tried     map[string]time.Time // by key, when a row was to be moved
	recount   bool                 // what is moving is not certain
	balancing bool
	budget    int // moves that Rebalance asked for
	moved     []Move

	out       []Effect
	confirmed []string // works that run as their rows say, found since the last Step

	buf  []lrp.Row // for decide
	was  []lrp.Row
	memo map[fitKey]*PlacementError
}

type phase int

const (
	listening phase = iota // the cells have not told what they run
	deciding               // nothing is stored yet
	ready
)

// NewCore makes a Core of a Config, whose Cells, LogSink, Leaving and Now are not used. The cells come by
// Add.
func NewCore(c Config, now time.Time) (*Core, error) {
	c, err := c.checked()
	if err != nil {
		return nil, err
	}
	return &Core{
		db: c.DB, policy: c.Policy, log: c.Logger, newID: c.NewID, lostAfter: c.LostAfter, limit: c.StartingLimit, maxMoves: c.Moves,
		rules: lrp.Rules{Evacuation: c.Evacuation}, readsLines: c.LogSink != nil,
		all: true, patience: now.Add(2 * c.LostAfter),
		members: map[string]*Member{}, removed: map[string]bool{}, drained: drainedCells(c.DB),
		dirty: map[lrp.ID]struct{}{}, dirtyT: map[string]struct{}{}, dirtyA: map[string]struct{}{},
		unplaced: map[lrp.ID]struct{}{}, waiting: map[string]struct{}{}, limited: map[lrp.ID]struct{}{},
		avoid: map[string]map[string]avoidance{}, refused: map[string]string{}, starting: map[string]*starter{},
		attended: map[string]*attendedTask{}, outcomes: map[string]cell.Status{}, looks: map[string]time.Time{}, moving: movingRows(c.DB), tried: map[string]time.Time{},
	}, nil
}

// Op is what is to be done to a cell.
type Op int

// The operations.
const (
	OpStart Op = iota // call Start with Work; answer by Started
	OpStop            // call Stop with ID; answer by Stopped, unless Away
	OpWatch           // end the Watch of the cell, if one is under way, and begin a new one
	OpRead            // read the lines of the work ID, and answer by LinesRead
	OpEnded           // the work ID has ended, so that its lines come to an end
	OpLeave           // the cell is served no more
	OpTell            // tell the one who attends a task
)

// Effect is one thing to be done. Effects on different cells, and on different works of one,
// do not depend on each other.
type Effect struct {
	Op   Op
	On   *Member
	ID   string // of the work
	Work cell.Work
	Away bool // nobody waits for the answer
	Told Told
}

// Effects are what a Step decided, all of it durable.
type Effects struct {
	Do []Effect
	// Confirmed are works of instances of which their cells say, before the Core is Ready, that they run
	// as the rows have it.
	Confirmed []string
	// Wake is when Step must be called though nothing was told; zero: never. A time that has
	// come: at once.
	Wake time.Time
}

// Begin is told when the Core begins to be stepped: from then on cells are waited for.
func (c *Core) Begin(now time.Time) {
	c.patience = now.Add(2 * c.lostAfter)
	c.strangers = now.Add(c.lostAfter)
}

// Step decides what follows from all that was told, and from the time, and stores it in one
// Update. A failure to store is logged, and tried again. Its error is one after which nothing
// can be stored any more: the Core is of no use then.
func (c *Core) Step(ctx context.Context, now time.Time) (Effects, error) {
	c.now = now
	c.ring(now)
	if c.phase == listening && c.allHeard(now) {
		c.phase = deciding
	}
	var err error
	if c.phase != listening && !now.Before(c.retry) {
		var stored bool
		if stored, err = c.pass(ctx, now); err == nil {
			if c.checkWorks && stored {
				c.uncheckedWorks()
			}
			c.tidy(now)
		}
		c.failed = !stored
		if stored && c.phase == deciding {
			c.phase = ready
		}
	}
	e := Effects{Do: c.out, Confirmed: c.confirmed, Wake: c.wake(now)}
	c.out, c.confirmed = nil, nil
	return e, err
}

// Ready tells whether the rows are as the cells told at the start, and no longer as an earlier
// run left them.
func (c *Core) Ready() bool { return c.phase == ready }

// Pending tells whether something was told that a Step has to look at.
func (c *Core) Pending() bool {
	return len(c.out)+len(c.confirmed) > 0 || c.phase != listening && c.unsettled()
}

// Settled tells whether all that was told is decided and stored.
func (c *Core) Settled() bool { return c.phase == ready && !c.failed && !c.unsettled() }

func (c *Core) unsettled() bool {
	return c.all || len(c.dirty)+len(c.dirtyT)+len(c.dirtyA)+len(c.checks.list)+c.budget > 0
}

// Check has every process, every task and every work on the cells looked at.
func (c *Core) Check() { c.all, c.checkWorks = true, true }

// uncheckedWorks returns the works that the walk over all rows did not come by: those that nobody
// holds, and those of tasks.
func (c *Core) uncheckedWorks() {
	c.checkWorks = false
	for _, id := range sorted(c.members) {
		m := c.members[id]
		var guids []string
		for guid, k := range m.works {
			if k.round != c.round {
				guids = append(guids, guid)
			}
		}
		slices.Sort(guids)
		for _, guid := range guids {
			c.checks.add(check{m, guid})
		}
	}
}

// Changed tells what users changed.
func (c *Core) Changed(ch Change) {
	for _, id := range ch.lrps {
		c.dirty[id] = struct{}{}
	}
	c.before = append(c.before, ch.rows...)
	for _, t := range ch.tasks {
		c.dirtyT[t.ID] = struct{}{}
		c.check(t.Cell, t.GUID)
	}
	if ch.drains {
		c.redrain()
	}
}

// allHeard tells whether every cell has told what it runs or is lost. One that never tells must
// not stop the others for ever.
func (c *Core) allHeard(now time.Time) bool {
	if !now.Before(c.patience) {
		return true
	}
	for _, m := range c.unnamed {
		if !m.lost {
			return false
		}
	}
	for _, m := range c.members {
		if !m.synced && !m.lost {
			return false
		}
	}
	return true
}

// sorted returns the keys of a map in order: nothing may depend on that of a map.
func sorted[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
