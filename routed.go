package dewpoint

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// instanceSet is the running instances as the scheduler's Watch tells them, by process and index.
type instanceSet struct {
	mu  sync.Mutex
	set map[lrp.ID]map[int]lrp.Instance
	// next is what is being told from the beginning; it takes set's place when that is whole.
	next map[lrp.ID]map[int]lrp.Instance
	// changed are processes whose instances are not as they were when take was called; whole: any may be.
	changed map[lrp.ID]bool
	whole   bool
}

func newInstanceSet() *instanceSet { return &instanceSet{changed: map[lrp.ID]bool{}, whole: true} }

// begin says that all is told from the beginning.
func (s *instanceSet) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = map[lrp.ID]map[int]lrp.Instance{}
}

// renew says that all is to be looked at.
func (s *instanceSet) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = true
}

// apply takes an event in, and tells whether there is another answer now.
func (s *instanceSet) apply(e lrp.Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Synced {
		s.set, s.next, s.whole = s.next, nil, true
		return true
	}
	into := s.set
	if s.next != nil {
		into = s.next
	}
	id, index := e.Instance.LRP, e.Instance.Index
	if e.Gone || !serves(e.Instance) && len(e.Instance.Others) == 0 {
		if delete(into[id], index); len(into[id]) == 0 {
			delete(into, id)
		}
	} else {
		if into[id] == nil {
			into[id] = map[int]lrp.Instance{}
		}
		into[id][index] = e.Instance
	}
	if s.next != nil {
		return false
	}
	s.changed[id] = true
	return true
}

// take returns the processes whose instances have changed since it was called last; whole: any.
func (s *instanceSet) take() (ids []lrp.ID, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids, whole = slices.Collect(maps.Keys(s.changed)), s.whole
	s.changed, s.whole = map[lrp.ID]bool{}, false
	return ids, whole
}

// of returns the instances of a process in order of their index.
func (s *instanceSet) of(id lrp.ID) []lrp.Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.set[id]), func(a, b lrp.Instance) int { return cmp.Compare(a.Index, b.Index) })
}

// list returns all, those of a process in order of their index.
func (s *instanceSet) list() []lrp.Instance {
	s.mu.Lock()
	ids := slices.Collect(maps.Keys(s.set))
	s.mu.Unlock()
	var all []lrp.Instance
	for _, id := range ids {
		all = append(all, s.of(id)...)
	}
	return all
}

// routedSet tells what the router's table has.
type routedSet struct {
	rev  uint64               // of the apps and routes that it shows; of the goroutine that makes the table
	apps map[string]routedApp // with routes, by id; likewise

	mu      sync.Mutex
	lrps    map[lrp.ID]string    // processes that it was made for, and their apps
	guids   map[string]bool      // works that get requests
	left    map[string]time.Time // works that got some until a moment ago
	known   map[lrp.ID]int       // instances that can serve, of every process: also of one that is not an app's yet
	changed chan struct{}        // closed at the next change
}

// routedApp is what of an app the table has.
type routedApp struct {
	lrps  []lrp.ID        // of its web process that serve
	keys  []string        // of its routes
	guids map[string]bool // works that get requests
}

// update says what of some apps the table has now, and how many instances serve: of all
// processes that have any (whole), or of some.
func (r *routedSet) update(next map[string]routedApp, known map[lrp.ID]int, whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.apps == nil {
		r.apps, r.lrps = map[string]routedApp{}, map[lrp.ID]string{}
		r.guids, r.left, r.known = map[string]bool{}, map[string]time.Time{}, map[lrp.ID]int{}
	}
	now := time.Now()
	for guid, at := range r.left {
		if now.Sub(at) > lastRequests {
			delete(r.left, guid)
		}
	}
	for id, app := range next {
		old := r.apps[id]
		for _, served := range old.lrps {
			delete(r.lrps, served)
		}
		for guid := range old.guids {
			if !app.guids[guid] {
				delete(r.guids, guid)
				r.left[guid] = now
			}
		}
		if len(app.keys) == 0 {
			delete(r.apps, id)
			continue
		}
		r.apps[id] = app
		for _, served := range app.lrps {
			r.lrps[served] = id
		}
		for guid := range app.guids {
			r.guids[guid] = true
		}
	}
	if whole {
		clear(r.known)
	}
	for id, n := range known {
		if r.known[id] = n; n == 0 {
			delete(r.known, id)
		}
	}
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
