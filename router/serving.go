package router

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// serving is what one Router has for one target.
type serving struct {
	router  *Router
	options Options
	path    string
	pools   []*pool // in the order of the route's backends
	turn    atomic.Uint32
	next    atomic.Pointer[serving] // of another Router
}

// users is the Routers that use a target: one nearly always.
type users struct {
	mu    sync.Mutex // serialises changes
	first atomic.Pointer[serving]
}

func (u *users) find(r *Router) *serving {
	s := u.first.Load()
	for s != nil && s.router != r {
		s = s.next.Load()
	}
	return s
}

func (u *users) add(s *serving) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.next.Store(u.first.Load())
	u.first.Store(s)
}

func (u *users) remove(r *Router) *serving {
	u.mu.Lock()
	defer u.mu.Unlock()
	at := &u.first
	for s := at.Load(); ; s = at.Load() {
		if s.router == r {
			at.Store(s.next.Load())
			return s
		}
		at = &s.next
	}
}

// choice is how the backend for one attempt is chosen.
type choice struct {
	from  int    // where the round begins
	by    string // of Options
	hash  uint64 // of the request, with Hash
	limit int64  // requests in flight that a backend may have with Hash; 0: any number
	fit   func(p *pool) bool
}

// choose counts a request in at the best backend that fits; -1: there is none. full tells
// that there are some, but all have as many requests as they may get.
func (s *serving) choose(c choice) (at int, full bool) {
	n := len(s.pools)
	for range n + 1 { // others choose at the same time
		at, full = -1, false
		var least int64
		var most uint64
		for i := range n {
			j := c.from + i
			if j >= n {
				j -= n
			}
			p := s.pools[j]
			if !c.fit(p) {
				continue
			}
			active := p.active.Load()
			if active >= int64(p.conf.MaxRequests) {
				full = true
				continue
			}
			switch c.by {
			case LeastConnection:
				if at < 0 || active < least {
					at, least = j, active
				}
				continue
			case Hash:
				if rank := mix(p.hash ^ c.hash); (c.limit == 0 || active < c.limit) && (at < 0 || rank > most) {
					at, most = j, rank
				}
				continue
			}
			at = j
			break
		}
		if at < 0 || s.pools[at].take() {
			return at, full
		}
	}
	return -1, true
}

// limit returns how many requests in flight a backend may have before another one is taken
// for a value's hash.
func (s *serving) limit() int64 {
	f := s.options.HashBalance
	if f < 1 {
		return 0
	}
	sum := int64(1) // this one
	for _, p := range s.pools {
		sum += p.active.Load()
	}
	return max(1, int64(f*float64(sum)/float64(len(s.pools))+0.999999))
}

// textHash and mix are the same in every router and for ever, so that a client's requests go
// to the same instance whoever passes them on: FNV-1a (64 bits), and a product folded.
func textHash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

func mix(h uint64) uint64 {
	hi, lo := bits.Mul64(h^0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
	hi, lo = bits.Mul64(hi^lo^0xa0761d6478bd642f, 0xe7037ed1a0b428db)
	return hi ^ lo
}
