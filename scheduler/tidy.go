package scheduler

import (
	"context"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// tidy stops works that nobody wants: the one rule that cleans up.
func (s *Scheduler) tidy(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.checks {
		delete(s.checks, c)
		k := c.m.works[c.guid]
		if k == nil {
			continue
		}
		if k.untold && c.m.rewatch != nil && s.now().Sub(k.status.Since) >= s.lostAfter {
			c.m.rewatch()
		}
		if k.stopping || c.m.away || s.starting[c.guid] != nil {
			continue
		}
		if t := s.tasks[c.guid]; t != nil && t.on == c.m || s.holds(c.m.id, c.guid, k.status.Work) {
			continue
		}
		if k.status.Phase == cell.PhaseDone && k.tail != nil && isOpen(k.tail) {
			continue // its last lines come first; then it is checked again
		}
		k.stopping = true
		s.wg.Go(func() { s.stopWork(ctx, c, k) })
	}
}

func (s *Scheduler) stopWork(ctx context.Context, c check, k *known) {
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	err := c.m.cell.Stop(cctx, c.guid)
	cancel()
	if err == nil || ctx.Err() != nil {
		return
	}
	s.log.Warn("a work that nobody wants could not be stopped; it is tried again", "cell", c.m.id, "work", c.guid, "error", err)
	s.mu.Lock()
	k.stopping = false
	s.set(alarm{at: s.now().Add(time.Second), check: c})
	s.mu.Unlock()
	s.wake()
}

func isOpen(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// dismiss stops works on a cell that was removed: nobody watches it any more, so the one rule
// does not reach there. The caller holds mu.
func (s *Scheduler) dismiss(ctx context.Context, m *member, ids ...string) {
	if !m.away || ctx.Err() != nil {
		return
	}
	s.wg.Go(func() {
		end, cancel := context.WithTimeout(ctx, s.lostAfter)
		defer cancel()
		for _, id := range ids {
			if err := m.cell.Stop(end, id); err != nil {
				s.log.Warn("a work of a removed cell could not be stopped", "cell", m.id, "work", id, "error", err)
			}
		}
	})
}
