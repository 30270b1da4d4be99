package router

import (
	"context"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
)

// Backend is an instance that requests can be sent to.
type Backend struct {
	// App is the app's id: it is what X-CF-APP-INSTANCE names and the app is told as
	// X-CF-ApplicationID.
	App string
	// Process is the process's id, which X-CF-PROCESS-INSTANCE names; "" if there is none.
	Process string
	// Instance is the instance's id, unique; Index its index.
	Instance string
	Index    int
	// Addr is "host:port". It may be anything if Dial is set.
	Addr string
	// Dial opens a connection; nil: TCP to Addr. Two Backends that differ in nothing else
	// share connections.
	Dial func(ctx context.Context) (net.Conn, error)
}

// identity is what must be equal for two Backends to be the same one.
type identity struct {
	app, process, instance, addr string
	index                        int
}

func (b *Backend) identity() identity {
	return identity{b.App, b.Process, b.Instance, b.Addr, b.Index}
}

// Route is a host and path, and who serves it.
type Route struct {
	// Host is a name without port, in any case: "shop.example.com", or "*.example.com" for
	// all names that end so and have no route of their own.
	Host string
	// Path is "" or begins with a slash: "/api" serves /api and all below it, but not
	// /apis. Case matters.
	Path string
	// Backends may be none: the route is known, and answered with status 503.
	Backends []Backend
}

// Table is which routes there are. It is immutable. The zero Table has none.
type Table struct {
	hosts    map[string]host // "*.example.com" stands as ".example.com"
	wild     bool
	backends []*Backend
}

// host is the routes of one host. Most have one only, without a path: it stands here itself,
// for with many routes each step through memory costs more than all else.
type host struct {
	whole   *target            // without a path; nil: none
	paths   map[string]*target // the others
	longest int                // bytes of the longest path
}

func (h *host) at(path string) *target {
	if path == "" {
		return h.whole
	}
	return h.paths[path]
}

func (h *host) put(path string, x *target) {
	if path == "" {
		h.whole = x
		return
	}
	if h.paths == nil {
		h.paths = map[string]*target{}
	}
	h.paths[path] = x
	h.longest = max(h.longest, len(path))
}

// target is a Route that is ready for use.
type target struct {
	route Route
	ids   []int         // of Table.backends, in the order of route.Backends
	turn  atomic.Uint32 // whose turn it is
}

// NewTable makes a table. Of two routes with the same host and path, the backends are put
// together. The caller must not change the routes' Backends any more.
func NewTable(routes []Route) *Table {
	t := &Table{hosts: make(map[string]host, len(routes))}
	known := map[identity]int{}
	for _, r := range routes {
		r.Host = strings.TrimSuffix(strings.ToLower(r.Host), ".")
		r.Path = strings.TrimRight(r.Path, "/")
		key, wild := strings.CutPrefix(r.Host, "*")
		t.wild = t.wild || wild
		h := t.hosts[key]
		x := h.at(r.Path)
		if x == nil {
			x = &target{route: Route{Host: r.Host, Path: r.Path}}
			// Tables come often; were the first backend always the first, it would get most.
			x.turn.Store(rand.Uint32())
			h.put(r.Path, x)
			t.hosts[key] = h
		}
		for i := range r.Backends {
			b := &r.Backends[i]
			id, ok := known[b.identity()]
			if !ok {
				id = len(t.backends)
				known[b.identity()] = id
				t.backends = append(t.backends, b)
			}
			x.ids = append(x.ids, id)
		}
		if x.route.Backends == nil {
			x.route.Backends = r.Backends[:len(r.Backends):len(r.Backends)]
		} else {
			x.route.Backends = append(x.route.Backends, r.Backends...)
		}
	}
	return t
}

// Lookup returns the route that serves a host (a port, the case and a final dot don't
// matter) and a path: that of the exact name, or else of the wildcard that shares most
// labels with it, and there the one with the longest path. It allocates nothing.
func (t *Table) Lookup(host, path string) (Route, bool) {
	x := t.find(host, path)
	if x == nil {
		return Route{}, false
	}
	return x.route, true
}

func (t *Table) find(name, path string) *target {
	name = strings.TrimSuffix(bareHost(name), ".")
	var lower [255]byte // the longest name that DNS has
	for i := 0; i < len(name); i++ {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			if len(name) > len(lower) {
				return nil
			}
			low := lower[:len(name)]
			for j := range low {
				low[j] = name[j]
				if c := name[j]; 'A' <= c && c <= 'Z' {
					low[j] = c + 'a' - 'A'
				}
			}
			return t.findLower(low, path)
		}
	}
	if x := t.hosts[name].find(path); x != nil || !t.wild {
		return x
	}
	for i := strings.IndexByte(name, '.'); i >= 0; {
		name = name[i:]
		if x := t.hosts[name].find(path); x != nil {
			return x
		}
		if i = strings.IndexByte(name[1:], '.'); i >= 0 {
			i++
		}
	}
	return nil
}

// findLower does what find does after lowering, with bytes, as a map look-up with
// string(bytes) allocates nothing.
func (t *Table) findLower(name []byte, path string) *target {
	if x := t.hosts[string(name)].find(path); x != nil || !t.wild {
		return x
	}
	for i, c := range name {
		if c == '.' {
			if x := t.hosts[string(name[i:])].find(path); x != nil {
				return x
			}
		}
	}
	return nil
}

// find returns the longest path that is a prefix, by whole segments.
func (h host) find(path string) *target {
	if h.longest == 0 {
		return h.whole
	}
	// What is longer than any route can't match: so a path of a million slashes costs nothing.
	if len(path) > h.longest {
		if path[h.longest] == '/' {
			path = path[:h.longest]
		} else {
			path = path[:max(0, strings.LastIndexByte(path[:h.longest], '/'))]
		}
	}
	for path != "" {
		if x := h.paths[path]; x != nil {
			return x
		}
		path = path[:max(0, strings.LastIndexByte(path, '/'))]
	}
	return h.whole
}

// bareHost takes the port off.
func bareHost(hostport string) string {
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && strings.IndexByte(hostport[i:], ']') < 0 {
		return hostport[:i]
	}
	return hostport
}
