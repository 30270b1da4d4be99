package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// errStopped says that Run has returned.
var errStopped = errors.New("the scheduler has stopped")

// Run serves the cells and keeps processes as they are wanted until ctx ends; then it
// returns nil when all that it started has ended. It ends with an error if the database does:
// state.ErrFenced says that another Scheduler decides now. Works go on running. It may be
// called once.
func (s *Scheduler) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.ran {
		s.mu.Unlock()
		return errors.New("scheduler: Run was called twice; make a new Scheduler")
	}
	s.ran = true
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		s.wg.Wait()
		close(s.ended)
	}()
	s.core.Begin(s.now())
	return s.loop(ctx)
}

// Ready implements lrp.Runner: the instances are as the cells told at the start, and no
// longer as an earlier run left them. A cell that is lost, or does not tell what it runs,
// is waited for only briefly.
func (s *Scheduler) Ready() <-chan struct{} { return s.ready }

// loop is the owner of the Core.
func (s *Scheduler) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		s.launch(ctx)
		waiting := s.tellCore()
		e, err := s.core.Step(ctx, s.now())
		if err != nil {
			return err
		}
		for i := range e.Do {
			s.carryOut(ctx, &e.Do[i])
		}
		if len(e.Confirmed) > 0 {
			s.confirm(e.Confirmed)
		}
		if s.core.Ready() && isOpen(s.ready) {
			close(s.ready)
		}
		s.answer(waiting)
		if !e.Wake.IsZero() && !e.Wake.After(s.now()) {
			continue
		}
		s.rest(ctx, e.Wake)
	}
	return nil
}

// Confirmed implements lrp.Confirmer.
func (s *Scheduler) Confirmed() (guids map[string]bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirmed, s.more
}

func (s *Scheduler) confirm(guids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := maps.Clone(s.confirmed)
	if all == nil {
		all = map[string]bool{}
	}
	for _, guid := range guids {
		all[guid] = true
	}
	s.confirmed = all
	close(s.more)
	s.more = make(chan struct{})
}

// rest waits until there is something to tell, or for a moment.
func (s *Scheduler) rest(ctx context.Context, until time.Time) {
	wait := time.Hour
	if !until.IsZero() {
		wait = until.Sub(s.now())
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.kick:
	case <-timer.C:
	}
}

// tellCore tells the Core what happened, and returns those who wait for the Step that follows.
func (s *Scheduler) tellCore() []chan struct{} {
	s.mu.Lock()
	inbox, waiting := s.inbox, s.stepping
	s.inbox, s.stepping = nil, nil
	s.mu.Unlock()
	for _, fn := range inbox {
		fn(s.core)
	}
	return waiting
}

// answer tells those who waited for a Step; if it stored nothing, they wait on.
func (s *Scheduler) answer(waiting []chan struct{}) {
	if len(waiting) == 0 {
		return
	}
	if !s.core.Ready() || s.core.failed {
		s.mu.Lock()
		s.stepping = append(waiting, s.stepping...)
		s.mu.Unlock()
		return
	}
	for _, ch := range waiting {
		close(ch)
	}
}

// post has the Core told something.
func (s *Scheduler) post(fn func(*Core)) {
	s.mu.Lock()
	s.inbox = append(s.inbox, fn)
	s.mu.Unlock()
	s.wake()
}

func (s *Scheduler) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// ask has the Core asked something, and waits for that.
func (s *Scheduler) ask(ctx context.Context, fn func(*Core)) error {
	done := make(chan struct{})
	s.post(func(c *Core) {
		fn(c)
		close(done)
	})
	return s.await(ctx, done)
}

// step has the Core told something, and waits until what follows is stored.
func (s *Scheduler) step(ctx context.Context, fn func(*Core)) error {
	done := make(chan struct{})
	s.mu.Lock()
	s.inbox = append(s.inbox, fn)
	s.stepping = append(s.stepping, done)
	s.mu.Unlock()
	s.wake()
	return s.await(ctx, done)
}

func (s *Scheduler) await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("scheduler: waiting for it: %w", context.Cause(ctx))
	case <-s.ended:
		return fmt.Errorf("scheduler: %w", errStopped)
	}
}

// callTimeout is how long one call to a cell may take.
const callTimeout = 10 * time.Second

// leavingTimeout is how long a work is not told to stop because requests may still be sent to it.
const leavingTimeout = time.Second

// carryOut does what the Core decided. Each call has a goroutine of its own, so that a cell that
// hangs delays only itself.
func (s *Scheduler) carryOut(ctx context.Context, e *Effect) {
	switch e.Op {
	case OpTell:
		s.told(e.ID, e.Told)
		return
	case OpEnded:
		s.endReading(reading{e.On, e.ID})
		return
	}
	p := e.On.Handle.(*peer)
	switch m, id := e.On, e.ID; e.Op {
	case OpStart:
		w := e.Work
		s.wg.Go(func() {
			o, why := s.start(ctx, p, w)
			now := s.now()
			s.post(func(c *Core) { c.Started(m, id, o, why, now) })
		})
	case OpStop:
		limit := callTimeout
		if e.Away {
			limit = s.lostAfter
		}
		s.wg.Go(func() {
			if s.leaving != nil {
				lctx, cancel := context.WithTimeout(ctx, leavingTimeout)
				s.leaving(lctx, id)
				cancel()
			}
			err := p.call(ctx, limit, func(ctx context.Context) error { return p.cell.Stop(ctx, id) })
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.log.Warn("a cell did not stop a work", "cell", m.id, "work", id, "error", err)
			}
			now := s.now()
			s.post(func(c *Core) { c.Stopped(m, id, err == nil, now) })
		})
	case OpWatch:
		p.watchAnew()
	case OpRead:
		s.read(ctx, p, m, id)
	case OpLeave:
		p.leave()
	}
}

func (s *Scheduler) start(ctx context.Context, p *peer, w cell.Work) (Outcome, string) {
	err := p.call(ctx, callTimeout, func(ctx context.Context) error { return p.cell.Start(ctx, w) })
	var refused *cell.RefusedError
	switch {
	case err == nil:
		return Accepted, ""
	case errors.As(err, &refused):
		return Refused, refused.Reason
	}
	if ctx.Err() == nil {
		s.log.Warn("a cell did not say whether it took a work", "work", w.ID, "error", err)
	}
	return Unknown, ""
}
