package scheduler

import (
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
)

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
	v := s.db.View()
	for d := range desired.All(v) {
		s.dirty[d.ID] = struct{}{}
	}
	for r := range rows.All(v) { // also those of processes that were removed
		s.dirty[r.LRP] = struct{}{}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		s.wg.Wait()
		close(s.ended)
	}()
	// A cell that never tells what it runs must not stop the others for ever.
	patience := time.NewTimer(2 * s.lostAfter)
	defer patience.Stop()
	for {
		s.launch(ctx)
		s.checkReady(false)
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
			continue
		case <-patience.C:
			s.checkReady(true)
		case <-s.heard:
		}
		select {
		case <-s.heard:
		default:
			continue
		}
		return s.loop(ctx)
	}
}

// Ready implements lrp.Runner: the instances are as the cells told at the start, and no
// longer as an earlier run left them. A cell that is lost, or does not tell what it runs,
// is waited for only briefly.
func (s *Scheduler) Ready() <-chan struct{} { return s.ready }

// checkReady closes heard when every cell is synced or lost, or if there was patience enough.
func (s *Scheduler) checkReady(enough bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isReady {
		return
	}
	if !enough {
		for _, m := range s.unknown {
			if !m.lost {
				return
			}
		}
		for _, m := range s.members {
			if !m.synced && !m.lost {
				return
			}
		}
	}
	s.isReady = true
	close(s.heard)
}

// loop is the owner of all decisions: it alone changes rows, apart from Remove and Restart.
func (s *Scheduler) loop(ctx context.Context) error {
	for first := true; ctx.Err() == nil; first = false {
		s.launch(ctx)
		if err := s.pass(ctx); err != nil {
			return err
		}
		s.tidy(ctx)
		if first {
			close(s.ready)
		}
		if s.pending() {
			continue
		}
		timer := time.NewTimer(s.nextAlarm())
		select {
		case <-ctx.Done():
		case <-s.kick:
		case <-timer.C:
		}
		timer.Stop()
		s.ring()
	}
	return nil
}

// pending tells whether new work came up meanwhile.
func (s *Scheduler) pending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dirty) > 0 || len(s.checks) > 0 || len(s.joining) > 0
}

// alarm is a moment at which a process, or a work, must be looked at.
type alarm struct {
	at    time.Time
	lrp   lrp.ID
	check check
}

type alarms []alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(alarm)) }
func (a *alarms) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// set adds an alarm. The caller holds mu.
func (s *Scheduler) set(a alarm) { heap.Push(&s.alarms, a) }

// setFor sets the moment at which a process must be looked at, unless it is looked at
// sooner anyway: each look finds the next moment anew. The caller holds mu.
func (s *Scheduler) setFor(id lrp.ID, at time.Time) {
	if old, ok := s.looks[id]; ok && !old.After(at) {
		return
	}
	s.looks[id] = at
	s.set(alarm{at: at, lrp: id})
}

// nextAlarm returns the time until the next alarm.
func (s *Scheduler) nextAlarm() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.alarms) == 0 {
		return time.Hour
	}
	return max(0, s.alarms[0].at.Sub(s.now()))
}

// ring marks what alarms are due for.
func (s *Scheduler) ring() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for len(s.alarms) > 0 && !s.alarms[0].at.After(now) {
		a := heap.Pop(&s.alarms).(alarm)
		if a.lrp != "" {
			s.dirty[a.lrp] = struct{}{}
			if s.looks[a.lrp].Equal(a.at) {
				delete(s.looks, a.lrp)
			}
		}
		if a.check != (check{}) {
			s.checks[a.check] = struct{}{}
		}
	}
}
