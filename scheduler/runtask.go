package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// ErrLost says that the outcome of a task cannot be learned: its cell is gone or has
// forgotten it, or the Scheduler ended. It may have run, in part or to its end.
var ErrLost = cell.ErrLost

// runner is a RunTask that waits.
type runner struct {
	placed chan struct{} // closed when a cell has it, or it is over
	over   chan struct{}

	mu   sync.Mutex
	told Told
}

func (r *runner) last() Told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told
}

// told takes in what the Core tells of an attended task.
func (s *Scheduler) told(id string, t Told) {
	s.mu.Lock()
	r := s.runners[id]
	s.mu.Unlock()
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !isOpen(r.over) {
		return
	}
	r.told = t
	if (t.On != nil || t.Over) && isOpen(r.placed) {
		close(r.placed)
	}
	if t.Over {
		close(r.over)
	}
}

// RunTask implements staging.TaskRunner. It waits for Ready; then a work for which there
// is no place fails at once with a *PlacementError. out gets a line that says which cell
// was chosen, and then the work's own, and is never called after RunTask returned. An error
// that wraps ErrLost says that the work may have run. The work is forgotten when RunTask
// returns, and stopped if it had not ended.
func (s *Scheduler) RunTask(ctx context.Context, w cell.Work, out func(logs.Line)) (cell.Status, error) {
	if w.ID == "" || w.LRP != "" {
		return cell.Status{}, fmt.Errorf("scheduler: run task %q: a task has an id and no lrp", w.ID)
	}
	if out == nil {
		out = func(logs.Line) {}
	}
	st, err := s.runTask(ctx, w, out)
	if err != nil {
		err = fmt.Errorf("scheduler: run task %s: %w", w.ID, err)
	}
	return st, err
}

func (s *Scheduler) runTask(ctx context.Context, w cell.Work, out func(logs.Line)) (cell.Status, error) {
	select {
	case <-s.ready:
	case <-s.ended:
		return cell.Status{}, errStopped
	case <-ctx.Done():
		return cell.Status{}, context.Cause(ctx)
	}
	if !isOpen(s.ended) {
		return cell.Status{}, errStopped
	}
	r := &runner{placed: make(chan struct{}), over: make(chan struct{}), told: Told{Status: cell.Status{ID: w.ID}}}
	if !s.attend(r, w) {
		return cell.Status{}, errors.New("it is running already; use a new id")
	}
	defer s.leave(r, w.ID)
	select {
	case <-r.placed:
	case <-s.ended:
	case <-ctx.Done():
	}
	if t := r.last(); t.On != nil {
		s.follow(ctx, r, t.On.Handle.(*peer), w, out)
	}
	t := r.last()
	switch {
	case t.Err != nil:
		return cell.Status{}, t.Err
	case ctx.Err() != nil:
		return t.Status, context.Cause(ctx)
	case t.Lost:
		return t.Status, ErrLost
	case !t.Over:
		return t.Status, fmt.Errorf("%w: %w", ErrLost, errStopped)
	}
	return t.Status, nil
}

// follow reads the lines of a task until it is over.
func (s *Scheduler) follow(ctx context.Context, r *runner, p *peer, w cell.Work, out func(logs.Line)) {
	out(logs.Line{App: w.Log.App, Source: w.Log.Source, Index: w.Log.Index, Instance: w.ID, Time: s.now(),
		Text: fmt.Sprintf("Cell %s runs task %s", p.m.id, w.ID)})
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read := make(chan struct{})
	go func() { defer close(read); readLines(lctx, p.cell, w.ID, r.over, out) }()
	select {
	case <-r.over:
		if r.last().Lost {
			cancel() // a cell that is lost says no more
		}
	case <-s.ended:
		cancel()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		s.abandon(r, w.ID) // its last lines are still read
		cancel()
	}
	select {
	case <-read:
	case <-ctx.Done():
		cancel()
	}
	<-read
}

// attend has a task done; false: another RunTask has this id.
func (s *Scheduler) attend(r *runner, w cell.Work) bool {
	s.mu.Lock()
	if s.runners[w.ID] != nil {
		s.mu.Unlock()
		return false
	}
	s.runners[w.ID] = r
	s.mu.Unlock()
	s.post(func(c *Core) {
		if !c.Attend(w) {
			s.told(w.ID, Told{Over: true, Err: errors.New("it is running already; use a new id")})
		}
	})
	return true
}

// leave has a task stopped and forgotten.
func (s *Scheduler) leave(r *runner, id string) {
	s.mu.Lock()
	delete(s.runners, id)
	s.mu.Unlock()
	s.post(func(c *Core) { c.Leave(id) })
}

// abandon has a task stopped whose caller has gone, and waits for its end, both briefly. What
// cannot be stopped yet the one rule will.
func (s *Scheduler) abandon(r *runner, id string) {
	s.post(func(c *Core) { c.Leave(id) })
	t := time.NewTimer(800 * time.Millisecond)
	defer t.Stop()
	select {
	case <-r.over:
	case <-s.ended:
	case <-t.C:
	}
}
