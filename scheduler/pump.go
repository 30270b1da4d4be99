package scheduler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// peer is a cell with the goroutines that serve it.
type peer struct {
	cell  cell.Cell
	m     *Member
	calls chan struct{} // holds a token for each call under way

	mu    sync.Mutex
	stop  context.CancelFunc
	begun chan struct{}      // closed when it may be watched
	watch context.CancelFunc // ends the Watch that is under way
	left  bool
	beats []func(*Core) // the newest, not told yet

	events chan struct{} // holds a token for each thing that Watch said and the Core was not told yet
}

// maxCalls is how many Starts and Stops of one cell are under way at once.
const maxCalls = 64

const (
	// maxEvents is how many events of one cell wait for the Core, which may be storing something. Then no more
	// are taken from Watch: a slow consumer sees the latest of each work.
	maxEvents = 256
	// maxBeats is how many answers of a cell wait; older ones say nothing then. Two without an
	// answer are needed for it to be lost.
	maxBeats = 2
)

// AddCell adds a cell; it is served while Run runs. Of two cells with one id the one
// that answers later is left out, with an error in the log.
func (s *Scheduler) AddCell(c cell.Cell) error {
	if c == nil {
		return errors.New("scheduler: AddCell: the cell is nil")
	}
	p := &peer{cell: c, calls: make(chan struct{}, maxCalls), events: make(chan struct{}, maxEvents), begun: make(chan struct{})}
	p.m = &Member{Handle: p}
	now := s.now()
	s.mu.Lock()
	s.joining = append(s.joining, p)
	s.inbox = append(s.inbox, func(core *Core) { core.Add(p.m, now) })
	s.mu.Unlock()
	s.wake()
	return nil
}

// RemoveCell forgets a cell. Its instances are placed elsewhere at once and, as far as it
// answers, stopped there; tasks on it fail as lost. Unknown: nil.
func (s *Scheduler) RemoveCell(id string) error {
	s.post(func(c *Core) { c.Remove(id) })
	return nil
}

// launch starts serving the cells that joined.
func (s *Scheduler) launch(ctx context.Context) {
	s.mu.Lock()
	joining := s.joining
	s.joining = nil
	s.mu.Unlock()
	for _, p := range joining {
		pctx, stop := context.WithCancel(ctx)
		p.mu.Lock()
		if p.stop = stop; p.left {
			stop()
		}
		p.mu.Unlock()
		s.wg.Go(func() { s.serve(pctx, p) })
	}
}

// serve is the pump of one cell: it beats and watches until ctx ends.
func (s *Scheduler) serve(ctx context.Context, p *peer) {
	defer p.leave()
	beat := make(chan struct{})
	go func() { defer close(beat); s.beat(ctx, p) }()
	defer func() { <-beat }()
	select {
	case <-p.begun:
	case <-ctx.Done():
	}
	m := p.m
	told := false
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, time.Second) {
		wctx, cancel := context.WithCancel(ctx)
		p.mu.Lock()
		p.watch = cancel
		p.mu.Unlock()
		s.postSaid(ctx, p, func(c *Core) { c.Watching(m) })
		for e, err := range p.cell.Watch(wctx) {
			if err != nil {
				if !told && ctx.Err() == nil {
					told = true
					s.log.Warn("watching a cell failed; it is tried again", "cell", m.id, "error", err)
				}
				break
			}
			now := s.now()
			if !s.postSaid(wctx, p, func(c *Core) { c.Event(m, e, now) }) {
				break
			}
			if e.Synced {
				if told {
					told = false
					s.log.Info("a cell can be watched again", "cell", m.id)
				}
				pause = 25 * time.Millisecond
			}
		}
		cancel()
		s.postSaid(ctx, p, func(c *Core) { c.Unwatched(m) })
		sleep(ctx, pause)
	}
}

// postSaid has the Core told what a Watch said; false: ctx has ended before there was room for it.
func (s *Scheduler) postSaid(ctx context.Context, p *peer, fn func(*Core)) bool {
	select {
	case p.events <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	s.post(func(c *Core) {
		<-p.events
		fn(c)
	})
	return true
}

// postBeat has the Core told the newest answers of a cell.
func (s *Scheduler) postBeat(p *peer, fn func(*Core)) {
	p.mu.Lock()
	n := len(p.beats)
	if n == maxBeats {
		p.beats = p.beats[1:]
	}
	p.beats = append(p.beats, fn)
	p.mu.Unlock()
	if n > 0 {
		return
	}
	s.post(func(c *Core) {
		p.mu.Lock()
		beats := p.beats
		p.beats = nil
		p.mu.Unlock()
		for _, fn := range beats {
			fn(c)
		}
	})
}

// watchAnew begins the first Watch, or ends the one that is under way for another.
func (p *peer) watchAnew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isOpen(p.begun) {
		close(p.begun)
	}
	if p.watch != nil {
		p.watch()
	}
}

func (p *peer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
	if p.stop != nil {
		p.stop()
	}
}

// call makes one of the calls that a cell gets only so many of at once. Waiting for the others is
// not part of its time.
func (p *peer) call(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	select {
	case p.calls <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.calls }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return fn(ctx)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func isOpen(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}
