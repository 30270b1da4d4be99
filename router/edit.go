package router

import (
	"hash/maphash"
	"maps"
	"slices"
	"strings"
)

// edit is a table that is being made. What it made itself it changes in place; what it has
// from the table before is copied first.
type edit struct {
	t     Table
	me    *owner
	hosts map[*host]bool // that it made
}

// owner is who made a shard. It is not the edit itself, which then would live as long.
type owner struct{ _ byte }

// edit begins a new table that has what t has.
func (t *Table) edit() *edit {
	e := &edit{t: Table{seed: t.seed, wild: t.wild, routes: t.routes, dir: slices.Clone(t.dir)}, me: new(owner), hosts: map[*host]bool{}}
	if len(e.t.dir) == 0 {
		e.t.seed = maphash.MakeSeed()
		e.t.dir = []*shard{{owner: e.me}}
	}
	return e
}

// splitRoute makes a route's host and path what the table has them as.
func splitRoute(r *Route) (key, path string, wild bool) {
	r.Host = strings.TrimSuffix(strings.ToLower(r.Host), ".")
	r.Path = strings.TrimRight(r.Path, "/")
	key, wild = strings.CutPrefix(r.Host, "*")
	return key, r.Path, wild
}

// put adds a route, or puts it in the place of the one that is there; join adds its backends
// to those instead.
func (e *edit) put(from *Route, join bool) {
	r := *from
	key, path, wild := splitRoute(&r)
	r.Backends = r.Backends[:len(r.Backends):len(r.Backends)]
	h := e.host(key, wild)
	was := h.paths[path]
	if path == "" && h.known {
		was = &h.whole
	}
	if was == nil {
		e.t.routes++
	} else {
		if join {
			r.Backends = append(was.route.Backends, r.Backends...)
		}
		if !r.Options.valid() || join && r.Options == (Options{}) {
			r.Options = was.route.Options
		}
	}
	if !r.Options.valid() {
		r.Options = Options{}
	}
	if path == "" {
		h.known, h.whole.route = true, r
		return
	}
	if h.paths == nil {
		h.paths = map[string]*target{}
	}
	h.paths[path] = &target{route: r}
	h.longest = max(h.longest, len(path))
}

func (e *edit) remove(from *Route) {
	r := Route{Host: from.Host, Path: from.Path}
	key, path, wild := splitRoute(&r)
	hash := maphash.String(e.t.seed, key)
	h := e.t.host(hash, key)
	if h == nil || path == "" && !h.known || path != "" && h.paths[path] == nil {
		return
	}
	e.t.routes--
	h = e.host(key, wild)
	if path == "" {
		h.known, h.whole.route = false, Route{}
	} else {
		delete(h.paths, path)
		h.longest = 0
		for p := range h.paths {
			h.longest = max(h.longest, len(p))
		}
	}
	if !h.known && len(h.paths) == 0 {
		e.drop(hash, h)
		if wild {
			e.t.wild--
		}
	}
}

// host returns a host that may be changed. If it is new it has no routes.
func (e *edit) host(key string, wild bool) *host {
	hash := maphash.String(e.t.seed, key)
	old := e.t.host(hash, key)
	if e.hosts[old] {
		return old
	}
	h := &host{name: key}
	e.hosts[h] = true
	s := e.shard(hash)
	if old == nil {
		if wild {
			e.t.wild++
		}
		for s.n == shardFull {
			e.split(s, hash)
			s = e.shard(hash)
		}
		s.add(slot{hash, h})
		return h
	}
	h.known, h.longest, h.paths = old.known, old.longest, maps.Clone(old.paths)
	h.whole.route = old.whole.route
	for i := hash >> (64 - shardBits); ; i++ {
		if x := &s.slots[i%shardSize]; x.host == old {
			x.host = h
			return h
		}
	}
}

// shard returns the shard of a hash, which may be changed.
func (e *edit) shard(hash uint64) *shard {
	s := e.t.dir[hash&uint64(len(e.t.dir)-1)]
	if s.owner != e.me {
		c := *s
		c.owner = e.me
		s = &c
		e.aim(s, hash)
	}
	return s
}

// aim lets the directory's places for a shard lead to it.
func (e *edit) aim(s *shard, hash uint64) {
	step := uint64(1) << s.bits
	for i := hash & (step - 1); i < uint64(len(e.t.dir)); i += step {
		e.t.dir[i] = s
	}
}

// split puts the hosts of a shard into two.
func (e *edit) split(s *shard, hash uint64) {
	if 1<<s.bits == len(e.t.dir) {
		e.t.dir = append(e.t.dir, e.t.dir...)
	}
	bit := uint64(1) << s.bits
	zero, one := &shard{owner: e.me, bits: s.bits + 1}, &shard{owner: e.me, bits: s.bits + 1}
	for _, x := range s.slots {
		switch {
		case x.host == nil:
		case x.hash&bit == 0:
			zero.add(x)
		default:
			one.add(x)
		}
	}
	e.aim(zero, hash&^bit)
	e.aim(one, hash|bit)
}

func (s *shard) add(x slot) {
	s.n++
	for i := x.hash >> (64 - shardBits); ; i++ {
		if y := &s.slots[i%shardSize]; y.host == nil {
			*y = x
			return
		}
	}
}

// drop takes a host out. The others are placed anew, as one that gave way to it would no
// longer be found.
func (e *edit) drop(hash uint64, h *host) {
	s := e.shard(hash)
	all := s.slots
	s.n, s.slots = 0, [shardSize]slot{}
	for _, x := range all {
		if x.host != nil && x.host != h {
			s.add(x)
		}
	}
}

// diff returns the targets that only the new table has, and those that only the old one has.
// It looks at the shards alone that the two do not share.
func diff(old, now *Table) (came, gone []*target) {
	before := map[*host]bool{}
	oldOnly(old, now, func(h *host) { before[h] = true })
	same := map[*target]bool{}
	for h := range before {
		for x := range h.targets() {
			same[x] = false
		}
	}
	oldOnly(now, old, func(h *host) {
		for x := range h.targets() {
			if _, ok := same[x]; ok {
				same[x] = true
			} else {
				came = append(came, x)
			}
		}
	})
	for x, both := range same {
		if !both {
			gone = append(gone, x)
		}
	}
	return came, gone
}

// oldOnly calls visit for the hosts in those shards of a that b does not have in their place.
func oldOnly(a, b *Table, visit func(*host)) {
	for i, s := range a.dir {
		if i >= 1<<s.bits || len(b.dir) > 0 && b.dir[i&(len(b.dir)-1)] == s {
			continue
		}
		for h := range s.hosts() {
			visit(h)
		}
	}
}
