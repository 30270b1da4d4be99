package router

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"strings"
	"unsafe"
)

// Table is which routes there are. It is immutable; tables that come of one another by With
// share what is equal. The zero Table has no routes.
//
// It is a hash table whose parts, the shards, are found through a directory by the first bits
// of the hash of a host. A shard that is full is split in two, and the directory doubled
// where it must be, so that a change costs a copy of the directory and of one shard.
type Table struct {
	seed   maphash.Seed
	dir    []*shard // by the lowest bits of the hash; its length is 0 or a power of two
	wild   int      // hosts that begin with "*"
	routes int
}

const (
	shardGroups = 16
	groupSize   = 7
	shardFull   = shardGroups * groupSize * 3 / 4
)

// shard has the hosts whose hashes have the lowest bits in common. A host stands in the group
// that some of the highest bits say, or in the next one that has room.
type shard struct {
	groups [shardGroups]group
	owner  *owner // whose edit may change it; all else may not
	n      int
	bits   int // how many of the lowest bits are common
}

// group is one cache line: a byte of the hash for each host, 0 where there is none, and the hosts.
type group struct {
	tags  uint64
	hosts [groupSize]*host
}

const (
	eachByte = 0x0101010101010101
	noTag    = 0xff << 56 // for the byte that has no host
)

func tagOf(hash uint64) uint64 { return max(1, hash>>57) }

func groupOf(hash uint64) uint64 { return hash >> 53 }

// zeroBytes marks, by their highest bit, the bytes that are 0, and maybe some above one that is.
func zeroBytes(x uint64) uint64 { return (x - eachByte) &^ x & (eachByte << 7) }

// host is the routes of one host. Most have one only: it stands in the host
// itself, as do its name and its path if they are not too long, for with many routes each step through memory
// costs more than all else. It is two cache lines long.
type host struct {
	paths   map[string]*target // all but first, each with a path
	longest int32              // bytes of the longest of them
	known   bool               // first is a route
	n       uint8              // bytes of the name in near; far: it is first.host's
	m       uint8              // bytes of the path in near, behind the name; far: it is first.path
	near    [33]byte           // the name, in lower case, and first's path
	first   target
}

const far = 255 // as host.n and host.m: there is no room

func (h *host) setName(r *Route) {
	h.first.host, h.n = r.Host, far
	if key := strings.TrimPrefix(r.Host, "*"); len(key) <= len(h.near) {
		h.n = uint8(copy(h.near[:], key))
	}
}

// setFirst makes a route of the host's name its first.
func (h *host) setFirst(r *Route) {
	h.first.set(r)
	h.known, h.m = true, far
	if r.Path == "" {
		h.m = 0
	} else if h.n != far && int(h.n)+len(r.Path) <= len(h.near) {
		h.m = uint8(copy(h.near[h.n:], r.Path))
	}
}

// setOther makes a route with a path one of the others.
func (h *host) setOther(r *Route) {
	if h.paths == nil {
		h.paths = map[string]*target{}
	}
	x := &target{}
	x.set(r)
	h.paths[r.Path] = x
	h.longest = max(h.longest, int32(len(r.Path)))
}

// at returns the route that has exactly this path; nil: none has.
func (h *host) at(path string) *target {
	if h.known && h.first.path == path {
		return &h.first
	}
	return h.paths[path]
}

// matches tells whether first serves a path.
func (h *host) matches(path string) bool {
	if h.m == 0 {
		return true
	}
	p := h.first.path
	if h.m != far {
		p = unsafe.String(&h.near[h.n], h.m)
	}
	return strings.HasPrefix(path, p) && (len(path) == len(p) || path[len(p)] == '/')
}

// is compares the name; that of "*.example.com" is ".example.com".
func (h *host) is(name string) bool {
	if h.n != far {
		return string(h.near[:h.n]) == name
	}
	return h.key() == name
}

func (h *host) key() string { return strings.TrimPrefix(h.first.host, "*") }

// NewTable makes a table. Of two routes with the same host and path, the backends are put
// together, and the Options of the last one that has valid ones count. The caller must not
// change the routes' Backends any more.
func NewTable(routes []Route) *Table {
	e := (&Table{}).edit()
	for i := range routes {
		e.put(&routes[i], true)
	}
	return &e.t
}

// With returns a table with the changes made, in their order. It costs what changed, and a
// copy of 8 bytes for each hundred routes or so; a route with a path costs a copy of the
// other paths of its host too. The caller must not change the routes' Backends any more.
func (t *Table) With(changes ...Change) *Table {
	e := t.edit()
	for i := range changes {
		if changes[i].Gone {
			e.remove(&changes[i].Route)
		} else {
			e.put(&changes[i].Route, false)
		}
	}
	return &e.t
}

// Len returns the number of routes.
func (t *Table) Len() int { return t.routes }

// All returns the routes, in no order.
func (t *Table) All() iter.Seq[Route] {
	return func(yield func(Route) bool) {
		for x := range t.targets() {
			if !yield(x.route()) {
				return
			}
		}
	}
}

func (t *Table) targets() iter.Seq[*target] {
	return func(yield func(*target) bool) {
		for i, s := range t.dir {
			if i >= 1<<s.bits { // it came before
				continue
			}
			for h := range s.hosts() {
				for x := range h.targets() {
					if !yield(x) {
						return
					}
				}
			}
		}
	}
}

func (s *shard) hosts() iter.Seq[*host] {
	return func(yield func(*host) bool) {
		for i := range s.groups {
			for _, h := range s.groups[i].hosts {
				if h != nil && !yield(h) {
					return
				}
			}
		}
	}
}

func (h *host) targets() iter.Seq[*target] {
	return func(yield func(*target) bool) {
		if h.known && !yield(&h.first) {
			return
		}
		for _, x := range h.paths {
			if !yield(x) {
				return
			}
		}
	}
}

// Lookup returns the route that serves a host (a port, the case and a final dot don't
// matter) and a path: that of the exact name, or else of the wildcard that shares most
// labels with it, and there the one with the longest path. A name of more than 255 bytes has none. It allocates
// nothing.
func (t *Table) Lookup(host, path string) (Route, bool) {
	x := t.find(host, path)
	if x == nil {
		return Route{}, false
	}
	return x.route(), true
}

func (t *Table) find(name, path string) *target {
	if len(t.dir) == 0 {
		return nil
	}
	var lower [255]byte // the longest name that DNS has
	if plain(name) {
		if len(name) > len(lower) {
			return nil
		}
	} else {
		name = strings.TrimSuffix(bareHost(name), ".")
		if len(name) > len(lower) {
			return nil
		}
		for i := range len(name) {
			c := name[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			lower[i] = c
		}
		name = unsafe.String(&lower[0], len(name)) // which nobody keeps
	}
	if h := t.host(t.hash(name), name); h != nil {
		if x := h.find(path); x != nil {
			return x
		}
	}
	if t.wild == 0 {
		return nil
	}
	for i := strings.IndexByte(name, '.'); i >= 0; {
		name = name[i:]
		if h := t.host(t.hash(name), name); h != nil {
			if x := h.find(path); x != nil {
				return x
			}
		}
		if i = strings.IndexByte(name[1:], '.'); i >= 0 {
			i++
		}
	}
	return nil
}

// plain tells a name that has neither a port nor capitals nor a final dot: nearly all are
// such. It reads eight bytes at a time, as a branch for each byte costs more than the look-up.
func plain(name string) bool {
	n := len(name)
	if n < 8 || name[n-1] == '.' {
		return false
	}
	found := odd(eight(name[n-8:]))
	for i := 0; i < n-8; i += 8 {
		found |= odd(eight(name[i:]))
	}
	return found == 0
}

func eight(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// odd is 0 if of eight bytes none is a colon or a capital.
func odd(x uint64) uint64 {
	low := x & (eachByte * 0x7f)
	capital := (low + eachByte*(0x80-'A')) &^ (low + eachByte*(0x7f-'Z')) &^ x & (eachByte * 0x80)
	return capital | zeroBytes(x^eachByte*':')
}

func (t *Table) hash(name string) uint64 { return maphash.String(t.seed, name) }

func (t *Table) host(hash uint64, name string) *host {
	s := t.dir[hash&uint64(len(t.dir)-1)]
	want := tagOf(hash) * eachByte
	for i := groupOf(hash); ; i++ {
		g := &s.groups[i%shardGroups]
		tags := g.tags | noTag
		for m := zeroBytes(tags ^ want); m != 0; m &= m - 1 {
			if h := g.hosts[bits.TrailingZeros64(m)/8]; h != nil && h.is(name) {
				return h
			}
		}
		if zeroBytes(tags) != 0 { // there is room, so it would be here
			return nil
		}
	}
}

// find returns the route whose path is the longest that is a prefix, by whole segments.
func (h *host) find(path string) *target {
	var first *target
	if h.known && h.matches(path) {
		first = &h.first
	}
	if h.longest > 0 {
		// What is longer than any route can't match: so a path of a million slashes costs nothing.
		if n := int(h.longest); len(path) > n {
			if path[n] == '/' {
				path = path[:n]
			} else {
				path = path[:max(0, strings.LastIndexByte(path[:n], '/'))]
			}
		}
		for path != "" {
			if x := h.paths[path]; x != nil {
				if first != nil && len(first.path) > len(path) {
					return first
				}
				return x
			}
			path = path[:max(0, strings.LastIndexByte(path, '/'))]
		}
	}
	return first
}

// bareHost takes the port off.
func bareHost(hostport string) string {
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && strings.IndexByte(hostport[i:], ']') < 0 {
		return hostport[:i]
	}
	return hostport
}
