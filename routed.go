package dewpoint

import (
	"context"
	"fmt"
	"sync"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// instanceSet is the running instances as Scheduler.Watch tells them.
type instanceSet struct {
	mu  sync.Mutex
	set map[instanceKey]lrp.Instance
}

type instanceKey struct {
	lrp   lrp.ID
	index int
}

func newInstanceSet() *instanceSet { return &instanceSet{set: map[instanceKey]lrp.Instance{}} }

func (s *instanceSet) apply(e lrp.Event) {
	if e.Synced {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := instanceKey{e.Instance.LRP, e.Instance.Index}
	if e.Gone || e.Instance.State != lrp.Running {
		delete(s.set, k)
		return
	}
	s.set[k] = e.Instance
}

func (s *instanceSet) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.set)
}

func (s *instanceSet) list() []lrp.Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]lrp.Instance, 0, len(s.set))
	for _, in := range s.set {
		out = append(out, in)
	}
	return out
}

// routedSet tells which processes have instances in the router's table.
type routedSet struct {
	mu      sync.Mutex
	lrps    map[lrp.ID]bool
	changed chan struct{} // closed at the next change
}

func (r *routedSet) set(lrps map[lrp.ID]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lrps = lrps
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

func (r *routedSet) wait(ctx context.Context, id lrp.ID) error {
	for {
		r.mu.Lock()
		if r.lrps[id] {
			r.mu.Unlock()
			return nil
		}
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the router: %w", ctx.Err())
		}
	}
}

func lastPosition(p *Platform, app string) logs.Position {
	if last := p.logs.Tail(app, 1); len(last) > 0 {
		return last[0].Pos
	}
	return 0
}
