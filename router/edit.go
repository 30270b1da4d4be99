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
	hosts map[*host]bool // that it made; nil: all
}

// owner is who made a shard. It is not the edit itself, which then would live as long.
type owner struct{ _ byte }

// edit begins a new table that has what t has.
func (t *Table) edit() *edit {
	e := &edit{t: Table{seed: t.seed, wild: t.wild, routes: t.routes, dir: slices.Clone(t.dir)}, me: new(owner)}
	if len(e.t.dir) > 0 {
		e.hosts = map[*host]bool{}
	} else {
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
	h := e.host(key, &r, wild)
	was := h.at(path)
	if was == nil {
		e.t.routes++
	} else {
		if join {
			r.Backends = append(was.backends, r.Backends...)
		}
		if !r.Options.valid() || join && r.Options == (Options{}) {
			r.Options = was.balance()
		}
	}
	if !r.Options.valid() {
		r.Options = Options{}
	}
	switch {
	case was == &h.first, was == nil && !h.known:
		h.setFirst(&r)
	case path == "": // which is never among the others
		first := h.first.route()
		h.setOther(&first)
		h.setFirst(&r)
	default:
		h.setOther(&r)
	}
}

func (e *edit) remove(from *Route) {
	r := Route{Host: from.Host, Path: from.Path}
	key, path, wild := splitRoute(&r)
	hash := e.t.hash(key)
	h := e.t.host(hash, key)
	if h == nil || h.at(path) == nil {
		return
	}
	e.t.routes--
	h = e.host(key, &r, wild)
	if h.at(path) == &h.first {
		h.known = false
		h.first.set(&Route{Host: r.Host})
	} else {
		delete(h.paths, path)
		h.longest = 0
		for p := range h.paths {
			h.longest = max(h.longest, int32(len(p)))
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
func (e *edit) host(key string, r *Route, wild bool) *host {
	hash := e.t.hash(key)
	old := e.t.host(hash, key)
	if old != nil && (e.hosts == nil || e.hosts[old]) {
		return old
	}
	h := &host{}
	h.setName(r)
	if e.hosts != nil {
		e.hosts[h] = true
	}
	s := e.shard(hash)
	if old == nil {
		if wild {
			e.t.wild++
		}
		for s.n == shardFull {
			e.split(s, hash)
			s = e.shard(hash)
		}
		s.add(hash, h)
		return h
	}
	h.longest, h.paths = old.longest, maps.Clone(old.paths)
	if old.known {
		first := old.first.route()
		h.setFirst(&first)
	}
	for i := groupOf(hash); ; i++ {
		g := &s.groups[i%shardGroups]
		if j := slices.Index(g.hosts[:], old); j >= 0 {
			g.hosts[j] = h
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
	for h := range s.hosts() {
		if x := e.t.hash(h.key()); x&bit == 0 {
			zero.add(x, h)
		} else {
			one.add(x, h)
		}
	}
	e.aim(zero, hash&^bit)
	e.aim(one, hash|bit)
}

func (s *shard) add(hash uint64, h *host) {
	s.n++
	for i := groupOf(hash); ; i++ {
		g := &s.groups[i%shardGroups]
		if j := slices.Index(g.hosts[:], nil); j >= 0 {
			g.tags |= tagOf(hash) << (8 * j)
			g.hosts[j] = h
			return
		}
	}
}

// drop takes a host out. The others are placed anew, as one that gave way to it would no
// longer be found.
func (e *edit) drop(hash uint64, h *host) {
	s := e.shard(hash)
	old := *s
	s.n, s.groups = 0, [shardGroups]group{}
	for x := range old.hosts() {
		if x != h {
			s.add(e.t.hash(x.key()), x)
		}
	}
}

// diff returns the targets that only the new table has, and those that only the old one has.
// It looks at the shards alone that the two do not share.
func diff(old, now *Table) (came, gone []*target) {
	now.without(old, func(x *target) { came = append(came, x) })
	old.without(now, func(x *target) { gone = append(gone, x) })
	return came, gone
}

// without visits the targets that the other table does not have.
func (t *Table) without(other *Table, visit func(*target)) {
	kin := len(other.dir) > 0 && other.seed == t.seed
	for i, s := range t.dir {
		if i >= 1<<s.bits || kin && other.dir[i&(len(other.dir)-1)] == s {
			continue
		}
		for h := range s.hosts() {
			var twin *host
			if kin {
				twin = other.host(t.hash(h.key()), h.key())
			}
			if twin == h {
				continue
			}
			for x := range h.targets() {
				if twin == nil || twin.paths[x.path] != x {
					visit(x)
				}
			}
		}
	}
}
