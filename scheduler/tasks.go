package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// ErrLost says that the outcome of a task cannot be learned: its cell is gone or has
// forgotten it, or the Scheduler ended. It may have run, in part or to its end.
var ErrLost = cell.ErrLost

// errStopped says that Run has returned.
var errStopped = errors.New("the scheduler has stopped")

// task is a RunTask that waits. The Scheduler's mu guards it.
type task struct {
	on     *member
	status cell.Status
	lost   bool
	done   chan struct{} // closed when it is over
	over   bool
}

func (t *task) tell(st cell.Status) {
	t.status = st
	if st.Phase == cell.PhaseDone {
		t.finish()
	}
}

func (t *task) lose() {
	if !t.over {
		t.lost = true
		t.finish()
	}
}

func (t *task) finish() {
	if !t.over {
		t.over = true
		close(t.done)
	}
}

// loseTasks ends the tasks on a cell. The caller holds mu.
func (s *Scheduler) loseTasks(m *member) {
	for _, t := range s.tasks {
		if t.on == m {
			t.lose()
		}
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
	select {
	case <-s.ready:
	case <-s.ended:
		return cell.Status{}, fmt.Errorf("scheduler: run task %s: %w", w.ID, errStopped)
	case <-ctx.Done():
		return cell.Status{}, fmt.Errorf("scheduler: run task %s: %w", w.ID, context.Cause(ctx))
	}
	if !isOpen(s.ended) {
		return cell.Status{}, fmt.Errorf("scheduler: run task %s: %w", w.ID, errStopped)
	}
	t := &task{done: make(chan struct{}), status: cell.Status{ID: w.ID}}
	s.mu.Lock()
	if s.tasks[w.ID] != nil {
		s.mu.Unlock()
		return cell.Status{}, fmt.Errorf("scheduler: run task %s: it is running already; use a new id", w.ID)
	}
	s.tasks[w.ID] = t
	s.mu.Unlock()
	defer s.endTask(t, w.ID)
	st, err := s.runTask(ctx, t, w, out)
	if err != nil {
		err = fmt.Errorf("scheduler: run task %s: %w", w.ID, err)
	}
	return st, err
}

// endTask leaves the work to the one rule.
func (s *Scheduler) endTask(t *task, id string) {
	s.mu.Lock()
	delete(s.tasks, id)
	if t.on != nil {
		s.checks[check{t.on, id}] = struct{}{}
	}
	s.mu.Unlock()
	s.wake()
}

func (s *Scheduler) runTask(ctx context.Context, t *task, w cell.Work, out func(logs.Line)) (cell.Status, error) {
	m, err := s.placeTask(ctx, t, w)
	if err != nil {
		if m != nil {
			s.abandon(ctx, m, t, w.ID)
		}
		return cell.Status{}, err
	}
	out(logs.Line{App: w.Log.App, Source: w.Log.Source, Index: w.Log.Index, Instance: w.ID, Time: s.now(),
		Text: fmt.Sprintf("Cell %s runs task %s", m.id, w.ID)})
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read := make(chan struct{})
	go func() { defer close(read); s.readLines(lctx, m.cell, w.ID, t.done, out) }()
	select {
	case <-t.done:
		if s.outcome(t).lost {
			cancel() // a cell that is lost says no more
		}
		select {
		case <-read:
		case <-ctx.Done():
		}
	case <-s.ended:
		cancel()
	case <-ctx.Done():
	}
	end := s.outcome(t)
	if ctx.Err() != nil || end.lost && s.isAway(m) {
		s.abandon(ctx, m, t, w.ID)
	}
	<-read
	end = s.outcome(t)
	switch {
	case end.lost && ctx.Err() == nil:
		return end.status, ErrLost
	case end.status.Phase == cell.PhaseDone && ctx.Err() == nil:
		return end.status, nil
	case ctx.Err() != nil:
		return end.status, context.Cause(ctx)
	}
	return end.status, fmt.Errorf("%w: %w", ErrLost, errStopped)
}

// isAway tells that the cell was removed, so that the one rule no longer reaches there.
func (s *Scheduler) isAway(m *member) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.away
}

func (s *Scheduler) outcome(t *task) task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *t
}

// placeTask finds a cell that takes the work. With an error, a member that is not nil may
// have it.
func (s *Scheduler) placeTask(ctx context.Context, t *task, w cell.Work) (*member, error) {
	avoid := map[string]string{}
	for {
		s.mu.Lock()
		id, err := s.policy.Place(Want{Spec: w.Spec, Avoid: avoid}, &s.view)
		m := s.members[id]
		if err == nil && m == nil {
			err = errors.New("the policy chose the cell " + id + ", which is unknown")
		}
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		t.on = m
		s.starting[w.ID] = &starter{}
		s.load(m, w, w.ID, true)
		s.mu.Unlock()
		err = s.startTask(ctx, t, m, w)
		var refused *cell.RefusedError
		if !errors.As(err, &refused) {
			return m, err
		}
		avoid[m.id] = refused.Reason
	}
}

// startTask sends the work until the cell has it, or refuses it, or is lost.
func (s *Scheduler) startTask(ctx context.Context, t *task, m *member, w cell.Work) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := s.send(ctx, m, w)
		var refused *cell.RefusedError
		s.mu.Lock()
		_, taken := m.works[w.ID]
		switch {
		case err == nil || taken || t.over:
			err = nil
			switch {
			case s.starting[w.ID].gone:
				t.lose()
				s.unload(m, w.ID)
			case !taken && !t.over: // Watch has not told yet
				s.accept(ctx, m, &w)
			}
		case errors.As(err, &refused):
			s.unload(m, w.ID)
			t.on = nil
		case ctx.Err() != nil:
			s.unload(m, w.ID)
			err = context.Cause(ctx)
		case m.lost:
			s.unload(m, w.ID)
			err = ErrLost
		default:
			s.mu.Unlock()
			s.log.Warn("whether a cell took a task is unknown; it is asked again", "cell", m.id, "work", w.ID, "error", err)
			select {
			case <-s.ended:
				return fmt.Errorf("%w: %w", ErrLost, errStopped)
			default:
				sleep(ctx, pause)
			}
			continue
		}
		delete(s.starting, w.ID)
		s.mu.Unlock()
		return err
	}
}

// abandon stops a work whose caller has gone, and waits for its end, both briefly. What
// it cannot stop the one rule will.
func (s *Scheduler) abandon(ctx context.Context, m *member, t *task, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 800*time.Millisecond)
	defer cancel()
	if err := m.cell.Stop(ctx, id); err != nil {
		s.log.Warn("a cancelled task could not be stopped yet", "cell", m.id, "work", id, "error", err)
		return
	}
	select {
	case <-t.done:
	case <-s.ended:
	case <-ctx.Done():
	}
}
