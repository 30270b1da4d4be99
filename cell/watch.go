package cell

import (
	"context"
	"iter"
	"maps"
	"slices"
)

// watcher holds what a consumer of Watch has not taken yet: one Event for each work.
type watcher struct {
	wake    chan struct{} // holds one token while there is something
	pending map[string]Event
	order   []string
}

// tell replaces what w holds of a work; Agent.mu is held.
func (w *watcher) tell(id string, e Event) {
	if _, ok := w.pending[id]; !ok {
		w.order = append(w.order, id)
	}
	w.pending[id] = e
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns and forgets what w holds, and what is counted with that.
func (a *Agent) take(w *watcher) (all []Event, changes uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all = make([]Event, len(w.order))
	for i, id := range w.order {
		all[i] = w.pending[id]
	}
	if len(all) > 0 {
		all[len(all)-1].Changes = a.changes
	}
	clear(w.pending)
	w.order = w.order[:0]
	return all, a.changes
}

// add makes a job known; a.mu is held.
func (a *Agent) add(j *job) {
	a.jobs[j.work.ID] = j
	a.publish(j)
}

// publish tells all watchers of a job's status; a.mu is held.
func (a *Agent) publish(j *job) {
	a.changes++
	for w := range a.watchers {
		w.tell(j.work.ID, Event{Status: j.status.clone()})
	}
}

// forget drops a job that has ended.
func (a *Agent) forget(j *job) {
	a.lines.leave(j.log)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.jobs, j.work.ID)
	a.changes++
	for w := range a.watchers {
		w.tell(j.work.ID, Event{Status: j.status.clone(), Gone: true})
	}
}

// Watch implements [Cell]. It ends with an error when the Agent has ended.
func (a *Agent) Watch(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := a.ready(ctx); err != nil {
			if ctx.Err() == nil {
				yield(Event{}, err)
			}
			return
		}
		w := &watcher{wake: make(chan struct{}, 1), pending: map[string]Event{}}
		a.mu.Lock()
		a.watchers[w] = struct{}{}
		for _, id := range slices.Sorted(maps.Keys(a.jobs)) {
			w.tell(id, Event{Status: a.jobs[id].status.clone()})
		}
		a.mu.Unlock()
		defer func() {
			a.mu.Lock()
			delete(a.watchers, w)
			a.mu.Unlock()
		}()
		for synced := false; ; {
			events, changes := a.take(w)
			for _, e := range events {
				if ctx.Err() != nil || !yield(e, nil) {
					return
				}
			}
			if !synced {
				if synced = true; !yield(Event{Synced: true, Changes: changes}, nil) {
					return
				}
			}
			select {
			case <-w.wake:
				continue
			case <-ctx.Done():
				return
			default:
			}
			select {
			case <-w.wake:
			case <-ctx.Done():
				return
			case <-a.ended:
				events, _ := a.take(w) // what came with the end
				for _, e := range events {
					if !yield(e, nil) {
						return
					}
				}
				yield(Event{}, a.errEnded())
				return
			}
		}
	}
}

// clone makes a Status that shares nothing that changes.
func (s Status) clone() Status {
	s.Addresses = slices.Clone(s.Addresses)
	s.Outputs = maps.Clone(s.Outputs)
	s.Last = slices.Clone(s.Last)
	s.Probes = slices.Clone(s.Probes)
	if s.Exit != nil {
		e := *s.Exit
		s.Exit = &e
	}
	return s
}
