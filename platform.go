package dewpoint

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/resourcematch"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/state"
)

// Config composes a Platform. The zero Config works: blobs, cell and state are in memory,
// and there are no buildpacks, so that a push is refused with a sentence that says which
// package to plug in.
type Config struct {
	// Blobs keeps packages, droplets and build caches; nil: blob.NewMemory.
	Blobs blob.Store
	// Runtime makes the containers of one cell of this machine; nil, and no Cells: cell.NewMemory.
	Runtime cell.Runtime
	// Cells are further cells, or all of them.
	Cells []cell.Cell
	// Buildpacks turns packages into droplets; nil: pushes of source are refused.
	Buildpacks staging.BuildpackRunner
	// Images learns what an image needs; nil: pushes of images are refused.
	Images staging.ImageFetcher
	// RootImages allows that processes of images run as root, as most images that name no user do.
	RootImages bool
	// SecretKey, of 32 bytes, seals the credentials that come with pushes of images, so that they can be kept in the Journal.
	// Nil: they are in memory only, and after a restart of the program an image of a registry that wants a login cannot be
	// fetched by a further cell until it is pushed anew.
	SecretKey []byte
	// Scheduler keeps instances running; nil: package scheduler over this platform's
	// database. One that is not scheduler.New's must know its cells by itself, and if it
	// does not implement staging.TaskRunner, Tasks is required.
	Scheduler lrp.Scheduler
	// Policy, LostAfter, StartingLimit and Moves are those of scheduler.Config, for a nil Scheduler.
	Policy        scheduler.Policy
	LostAfter     time.Duration
	StartingLimit int
	Moves         int
	// Tasks runs stagings; nil: the Scheduler.
	Tasks staging.TaskRunner
	// Journal makes state durable; nil: it is in memory only.
	Journal state.Journal
	// Logs keeps the lines of apps and stagings; nil: logs.NewMemory.
	Logs logs.Store

	// Domain is where apps get their first route, NAME.DOMAIN; "": "localhost".
	Domain string
	// CellID names the cell of Runtime; "": "cell-0".
	CellID string
	// MaxPackage is the largest sum of uncompressed file sizes; 0: 1 GiB.
	MaxPackage int64
	// MinMatch and MaxMatch bound, both exclusively, the sizes of files that are looked for
	// among those of earlier packages, in bytes. 0: Cloud Foundry's 64 KiB and 512 MiB;
	// negative: no bound.
	MinMatch, MaxMatch int64
	// StagingTimeout is for a whole staging; 0: 15 minutes.
	StagingTimeout time.Duration
	// Keep is how many packages and droplets of an app are kept beside the current one; 0: 5.
	Keep int
	// Logger gets what the operator should know; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// NewID makes ids that are never used twice; nil: random UUIDs.
	NewID func() string
}

// Platform runs apps. Its methods may be called by any number of goroutines.
type Platform struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	newID   func() string
	db      *state.DB
	blobs   blob.Store
	catalog *catalog.Catalog
	matcher *resourcematch.Cache
	logs    logs.Store
	sched   lrp.Scheduler
	tasks   staging.TaskRunner
	stager  *staging.Stager
	router  *router.Router
	routed  routedSet
	table   map[string]router.Route // what publish gave the router; New's, then pumpRoutes' alone
	agent   *cell.Agent             // nil without Runtime
	ready   chan struct{}

	seal    cipher.AEAD        // nil: without SecretKey
	mu      sync.Mutex         // guards what follows
	memory  map[string]login   // of apps, without SecretKey
	pushes  map[string]*change // apps that are pushed or staged, by name
	changes map[string]*change // apps of which what runs is changed; whoever needs both has that of pushes first
	ran     bool
	over    bool // Run has ended
}

// New checks a Config and composes the Platform. It starts nothing, and loads the state.
func New(c Config) (*Platform, error) {
	p := &Platform{cfg: c, log: c.Logger, now: c.Now, newID: c.NewID, blobs: c.Blobs, logs: c.Logs,
		ready: make(chan struct{}), pushes: map[string]*change{}, changes: map[string]*change{}, memory: map[string]login{}}
	p.defaults()
	if err := p.openSeal(); err != nil {
		return nil, fmt.Errorf("dewpoint: %w", err)
	}
	ctx := context.Background()
	tables := []state.AnyTable{apps, launched, packages, builds, droplets, routes, caches, logins}
	tables = append(tables, catalog.Tables()...)
	tables = append(tables, scheduler.Tables()...)
	db, err := state.Open(ctx, state.Config{Journal: c.Journal, Now: p.now}, tables...)
	if err != nil {
		return nil, fmt.Errorf("dewpoint: load the state: %w", err)
	}
	p.db = db
	if p.catalog, err = catalog.New(catalog.Config{DB: db, Store: p.blobs, Now: p.now, NewID: p.newID}); err != nil {
		return nil, fmt.Errorf("dewpoint: %w", err)
	}
	if p.matcher, err = resourcematch.New(resourcematch.Config{Catalog: p.catalog, MaxPackage: c.MaxPackage, MinSize: c.MinMatch, MaxSize: c.MaxMatch}); err != nil {
		return nil, fmt.Errorf("dewpoint: %w", err)
	}
	if err := p.compose(); err != nil {
		return nil, fmt.Errorf("dewpoint: %w", err)
	}
	p.publish(nil) // until the cells have told, apps are known to the router, and not available
	return p, nil
}

func (p *Platform) defaults() {
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.newID == nil {
		p.newID = uuid.NewString
	}
	if p.blobs == nil {
		p.blobs = blob.NewMemory()
	}
	if p.logs == nil {
		p.logs = logs.NewMemory(logs.MemoryConfig{})
	}
	if p.cfg.Domain == "" {
		p.cfg.Domain = "localhost"
	}
	if p.cfg.CellID == "" {
		p.cfg.CellID = "cell-0"
	}
	if p.cfg.Keep == 0 {
		p.cfg.Keep = 5
	}
	if p.cfg.Runtime == nil && len(p.cfg.Cells) == 0 && p.cfg.Scheduler == nil {
		p.cfg.Runtime = cell.NewMemory(cell.MemoryConfig{})
	}
}

// compose makes the parts that run: agent, scheduler, stager, router.
func (p *Platform) compose() error {
	cells := slices.Clone(p.cfg.Cells)
	if p.cfg.Runtime != nil {
		agent, err := p.NewAgent(cell.AgentConfig{ID: p.cfg.CellID, Runtime: p.cfg.Runtime})
		if err != nil {
			return err
		}
		p.agent = agent
		cells = append([]cell.Cell{agent}, cells...)
	}
	p.sched = p.cfg.Scheduler
	if p.sched == nil {
		s, err := scheduler.New(scheduler.Config{DB: p.db, Cells: cells, Policy: p.cfg.Policy, LostAfter: p.cfg.LostAfter,
			StartingLimit: p.cfg.StartingLimit, Moves: p.cfg.Moves, Leaving: p.routed.gone,
			Logger: p.log, Now: p.now, NewID: p.newID, LogSink: p.say})
		if err != nil {
			return err
		}
		p.sched = s
	} else if err := p.adopt(cells); err != nil {
		return err
	}
	p.tasks = p.cfg.Tasks
	if p.tasks == nil {
		t, ok := p.sched.(staging.TaskRunner)
		if !ok {
			return fmt.Errorf("the scheduler %T runs no tasks, so nothing could be staged; set Config.Tasks", p.sched)
		}
		p.tasks = t
	}
	if i, ok := p.cfg.Images.(tasked); ok {
		i.UseTasks(p.tasks)
	}
	st, err := staging.New(staging.Config{Runner: p.cfg.Buildpacks, Tasks: p.tasks, Timeout: p.cfg.StagingTimeout, Logger: p.log, Now: p.now})
	if err != nil {
		return err
	}
	p.stager = st
	p.router = router.New(router.Config{Logger: p.log})
	return nil
}

// say keeps a line of an instance, unless its app is deleted: then nobody would drop it again.
func (p *Platform) say(l logs.Line) {
	if _, ok := apps.Get(p.db.View(), l.App); ok {
		p.logs.Append(l)
	}
}

// adopt gives a scheduler that was configured this platform's cells, if it takes any.
func (p *Platform) adopt(cells []cell.Cell) error {
	if len(cells) == 0 {
		return nil
	}
	taker, ok := p.sched.(cellTaker)
	if !ok {
		return fmt.Errorf("the scheduler %T takes no cells (it has no AddCell), so Config.Runtime and Config.Cells would never be used; leave them out", p.sched)
	}
	for _, c := range cells {
		if err := taker.AddCell(c); err != nil {
			return err
		}
	}
	return nil
}

// Run does the platform's work until ctx ends, and returns when all that it started has
// ended: on a cell of Config.Runtime every app and staging, too. Pushes and other changes that
// are under way then fail. It is called once.
func (p *Platform) Run(ctx context.Context) error {
	p.mu.Lock()
	again := p.ran
	p.ran = true
	p.mu.Unlock()
	if again {
		return errors.New("dewpoint: Run was called twice; make a new Platform")
	}
	defer p.db.Close() //nolint:contextcheck // what is being written is written to its end
	defer p.giveUpAll()
	if err := p.recover(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("dewpoint: tidy up after the last run: %w", err)
	}
	// The agent outlives the scheduler: while it ends the apps, nobody must start them anew.
	agentCtx, stopAgent := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAgent()
	agentEnded := make(chan error, 1)
	if p.agent != nil {
		go func() { agentEnded <- p.agent.Run(agentCtx) }()
	} else {
		agentEnded <- nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select { // an agent that ends by itself ends the platform
		case err := <-agentEnded:
			agentEnded <- nil
			if err == nil && p.agent != nil && gctx.Err() == nil {
				err = errors.New("the cell's agent ended by itself")
			}
			return err
		case <-gctx.Done():
			return nil
		}
	})
	if r, ok := p.sched.(lrp.Runner); ok {
		g.Go(func() error { return r.Run(gctx) })
	}
	g.Go(func() error { return p.pumpRoutes(gctx) })
	g.Go(func() error { return p.janitor(gctx) })
	g.Go(func() error { return p.guardState(gctx) })
	g.Go(func() error { return p.announce(gctx) })
	err := g.Wait()
	stopAgent()
	if agentErr := <-agentEnded; agentErr != nil && err == nil {
		err = agentErr
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("dewpoint: %w", err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (p *Platform) stagingTimeout() time.Duration {
	if p.cfg.StagingTimeout > 0 {
		return p.cfg.StagingTimeout
	}
	return staging.DefaultTimeout
}

// announce closes ready when the scheduler has heard of every cell.
func (p *Platform) announce(ctx context.Context) error {
	if r, ok := p.sched.(lrp.Runner); ok {
		select {
		case <-r.Ready():
		case <-ctx.Done():
			return nil
		}
	}
	close(p.ready)
	return nil
}

// Ready is closed when every cell has told what it runs, and pushes are taken.
func (p *Platform) Ready() <-chan struct{} { return p.ready }

// Router is the handler that sends requests to apps by their host. Before Ready it knows the
// hosts, and answers 503.
func (p *Platform) Router() http.Handler { return p.router }

// guardState ends the platform where its journal is lost, though nothing is written: what is acknowledged
// after that would be gone with the next start.
func (p *Platform) guardState(ctx context.Context) error {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := p.db.Check(ctx); errors.Is(err, state.ErrFenced) {
				return err
			}
		}
	}
}

// janitor deletes what nobody needs any more, now and then.
func (p *Platform) janitor(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if _, err := p.catalog.Sweep(ctx); err != nil && ctx.Err() == nil {
				p.log.Warn("deleting unneeded blobs failed; it is tried again in a minute", "error", err)
			}
		}
	}
}
