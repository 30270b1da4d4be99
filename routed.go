package dewpoint

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// instanceSet is the running instances as the scheduler's Watch tells them.
type instanceSet struct {
	mu  sync.Mutex
	set map[instanceKey]lrp.Instance
	// next is what is being told from the beginning; it takes set's place when that is whole.
	next map[instanceKey]lrp.Instance
}

type instanceKey struct {
	lrp   lrp.ID
	index int
}

func newInstanceSet() *instanceSet { return &instanceSet{} }

// begin says that all is told from the beginning.
func (s *instanceSet) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = map[instanceKey]lrp.Instance{}
}

// apply takes an event in, and tells whether list may have another answer now.
func (s *instanceSet) apply(e lrp.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Synced {
		s.set, s.next = s.next, nil
		return true
	}
	into := s.set
	if s.next != nil {
		into = s.next
	}
	k := instanceKey{e.Instance.LRP, e.Instance.Index}
	if e.Gone || !serves(e.Instance) && len(e.Instance.Others) == 0 {
		delete(into, k)
	} else {
		into[k] = e.Instance
	}
	return s.next == nil
}

func (s *instanceSet) list() []lrp.Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]lrp.Instance, 0, len(s.set))
	for _, in := range s.set {
		out = append(out, in)
	}
	slices.SortFunc(out, func(a, b lrp.Instance) int {
		return cmp.Or(cmp.Compare(a.LRP, b.LRP), cmp.Compare(a.Index, b.Index))
	})
	return out
}

// routedSet tells what the router's table has.
type routedSet struct {
	mu      sync.Mutex
	lrps    map[lrp.ID]bool      // processes that it was made for
	guids   map[string]bool      // works that get requests
	left    map[string]time.Time // works that got some until a moment ago
	known   map[lrp.ID]int       // instances that can serve, of every process: also of one that is not an app's yet
	changed chan struct{}        // closed at the next change
}

func (r *routedSet) set(lrps map[lrp.ID]bool, guids map[string]bool, known map[lrp.ID]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.left == nil {
		r.left = map[string]time.Time{}
	}
	for guid, at := range r.left {
		if now.Sub(at) > lastRequests {
			delete(r.left, guid)
		}
	}
	for guid := range r.guids {
		if !guids[guid] {
			r.left[guid] = now
		}
	}
	r.lrps, r.guids, r.known = lrps, guids, known
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// until waits until ok, which is asked with mu held, or ctx ends.
func (r *routedSet) until(ctx context.Context, ok func() bool) error {
	for {
		r.mu.Lock()
		if ok() {
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

// wait waits until the table is made for a process.
func (r *routedSet) wait(ctx context.Context, id lrp.ID) error {
	return r.until(ctx, func() bool { return r.lrps[id] })
}

// knows waits until at least n instances of a process that can serve are known here.
func (r *routedSet) knows(ctx context.Context, id lrp.ID, n int) error {
	return r.until(ctx, func() bool { return r.known[id] >= n })
}

// lastRequests is how long after a work has left the table it is not yet told to stop: requests
// for which it was chosen just before are then on it, and are finished there.
const lastRequests = 250 * time.Millisecond

// gone waits until a work gets no requests any more.
func (r *routedSet) gone(ctx context.Context, guid string) {
	if r.until(ctx, func() bool { return !r.guids[guid] }) != nil {
		return // then it is stopped all the same
	}
	r.mu.Lock()
	at, ok := r.left[guid]
	r.mu.Unlock()
	if !ok {
		return
	}
	t := time.NewTimer(lastRequests - time.Since(at))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func lastPosition(p *Platform, app string) logs.Position {
	if last := p.logs.Tail(app, 1); len(last) > 0 {
		return last[0].Pos
	}
	return 0
}
