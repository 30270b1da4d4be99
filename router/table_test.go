package router_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/router"
)

// FuzzLookup compares the table with the rule written out.
func FuzzLookup(f *testing.F) {
	routes := []router.Route{
		{Host: "a.com"}, {Host: "a.com", Path: "/x"}, {Host: "a.com", Path: "/x/y"}, {Host: "a.com", Path: "/x/y/z/"},
		{Host: "b.a.com", Path: "/x"}, {Host: "*.a.com"}, {Host: "*.b.a.com", Path: "/q"}, {Host: "*.c.b.a.com", Path: "/é"},
	}
	table := router.NewTable(routes)
	for _, host := range []string{"a.com", "A.Com:80", "b.a.com", "x.b.a.com", "q.c.B.a.com.", ".a.com", "[::1]:80", "", ":", ".", strings.Repeat("x", 249) + ".a.com", strings.Repeat("x", 250) + ".a.com", strings.Repeat("X", 250) + ".a.com"} {
		for _, path := range []string{"", "/", "/x", "/x/", "/xy", "/x/y/z", "/x/y/zz", "//x", "/q/é", "/é", "*"} {
			f.Add(host, path)
		}
	}
	f.Fuzz(func(t *testing.T, host, path string) {
		got, found := table.Lookup(host, path)
		if want, ok := rule(routes, host, path); ok != found || want != got.Host+got.Path {
			t.Errorf("%q %q: route is %q, want %q", host, path, got.Host+got.Path, want)
		}
	})
}

// rule finds a route as the documentation of Lookup says it.
func rule(routes []router.Route, host, path string) (string, bool) {
	if i := strings.LastIndex(host, ":"); i >= 0 && !strings.Contains(host[i:], "]") {
		host = host[:i]
	}
	if host = strings.TrimSuffix(host, "."); len(host) > 255 {
		return "", false
	}
	lower := []byte(host)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] += 'a' - 'A'
		}
	}
	host = string(lower)
	best, rank := "", -1
	for _, r := range routes {
		p := strings.TrimSuffix(r.Path, "/")
		if path != p && !strings.HasPrefix(path, p+"/") && p != "" {
			continue
		}
		n := -1
		if suffix, wild := strings.CutPrefix(r.Host, "*"); !wild && host == r.Host {
			n = 1_000_000
		} else if wild && strings.HasSuffix(host, suffix) {
			n = 1000 * len(suffix)
		}
		if n >= 0 && n+len(p) > rank {
			best, rank = r.Host+p, n+len(p)
		}
	}
	return best, rank >= 0
}

func TestTableJoinsRoutes(t *testing.T) {
	t.Parallel()
	table := router.NewTable([]router.Route{
		{Host: "A.com.", Path: "/x/", Backends: []router.Backend{{Instance: "1"}}},
		{Host: "a.com", Path: "/x", Backends: []router.Backend{{Instance: "2"}}},
	})
	r, ok := table.Lookup("a.com", "/x")
	assert.True(t, ok)
	assert.Len(t, r.Backends, 2)
	_, ok = (&router.Table{}).Lookup("a.com", "/")
	assert.False(t, ok)
}

func TestLookupAllocatesNothing(t *testing.T) {
	table := router.NewTable(manyRoutes(1000))
	for _, host := range []string{"app-7.example.com", "APP-7.example.com:80", "x.y.wild-7.example.com", "no.such.example.org"} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { table.Lookup(host, "/some/path/of/it") }), host)
	}
}

func manyRoutes(n int) []router.Route {
	rs := make([]router.Route, 0, n)
	for i := range n / 2 {
		rs = append(rs, router.Route{Host: fmt.Sprintf("app-%d.example.com", i), Backends: []router.Backend{{Instance: fmt.Sprint(i)}}})
		rs = append(rs, router.Route{Host: fmt.Sprintf("*.wild-%d.example.com", i), Path: "/some"})
	}
	return rs
}

// plainMaps is the same by Go's maps, to compare with: by host, and there by path.
type plainMaps map[string]map[string]*router.Route

func (m plainMaps) lookup(host, path string) *router.Route {
	host, _, _ = strings.Cut(host, ":")
	for name := host; ; {
		for p := path; m[name] != nil; p = p[:strings.LastIndexByte(p, '/')] {
			if r := m[name][p]; r != nil {
				return r
			}
			if p == "" {
				break
			}
		}
		_, rest, ok := strings.Cut(strings.TrimPrefix(name, "*."), ".")
		if !ok {
			return nil
		}
		name = "*." + rest
	}
}

// BenchmarkLookup looks up one route, which stays in the processor's cache, and all in turn,
// in an order that has nothing to do with theirs, and those also in Go's maps.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000, 100_000} {
		table, maps := router.NewTable(manyRoutes(n)), plainMaps{}
		for _, r := range manyRoutes(n) {
			maps[r.Host] = map[string]*router.Route{r.Path: &r}
		}
		exact, wild := make([]string, n/2), make([]string, n/2)
		for i, j := range rand.New(rand.NewPCG(1, 1)).Perm(n / 2) {
			exact[i], wild[i] = fmt.Sprintf("app-%d.example.com", j), fmt.Sprintf("a.wild-%d.example.com:8080", j)
		}
		for _, c := range []struct {
			name  string
			hosts []string
		}{{"one", exact[:1]}, {"any", exact}, {"any-wildcard", wild}} {
			b.Run(fmt.Sprintf("routes=%d/%s", n, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if _, ok := table.Lookup(c.hosts[i%len(c.hosts)], "/some/path"); !ok {
						b.Fatal("not found")
					}
				}
			})
			b.Run(fmt.Sprintf("routes=%d/%s/maps", n, c.name), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					if maps.lookup(c.hosts[i%len(c.hosts)], "/some/path") == nil {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}

// BenchmarkSetTable swaps the table: one that is made anew, and one that has the backends of
// one route changed.
func BenchmarkSetTable(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000, 100_000} {
		routes := manyRoutes(n)
		b.Run(fmt.Sprintf("routes=%d/new", n), func(b *testing.B) {
			r := router.New(router.Config{})
			b.ReportAllocs()
			for b.Loop() {
				r.SetTable(router.NewTable(routes))
			}
		})
		b.Run(fmt.Sprintf("routes=%d/with", n), func(b *testing.B) {
			r := router.New(router.Config{})
			r.SetTable(router.NewTable(routes))
			c := router.Change{Route: routes[n/3]}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.Route.Backends = []router.Backend{{Instance: "new", Index: i % 2}}
				r.SetTable(r.Table().With(c))
			}
		})
	}
}

// TestChanges makes tables by changes of chance and compares each with one that is made of
// the same routes at once. Tables that others were made from must stay what they were.
func TestChanges(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(7, 7))
	now, want := &router.Table{}, map[string]router.Route{}
	type version struct {
		table *router.Table
		want  map[string]router.Route
	}
	var versions []version
	r := router.New(router.Config{})
	for range 300 {
		var changes []router.Change
		for range 1 + rnd.IntN(40) {
			route := router.Route{Host: fmt.Sprintf("app-%d.example.com", rnd.IntN(1500))}
			switch rnd.IntN(4) {
			case 0:
				route.Path = fmt.Sprintf("/%d", rnd.IntN(4))
			case 1:
				route.Host = "*." + route.Host
			case 2:
				route.Host = strings.Repeat("long-", 8) + route.Host
			}
			route.Backends = []router.Backend{{Instance: fmt.Sprint(rnd.IntN(50))}}
			gone := rnd.IntN(3) == 0
			changes = append(changes, router.Change{Route: route, Gone: gone})
			if gone {
				delete(want, route.Host+route.Path)
			} else {
				want[route.Host+route.Path] = route
			}
		}
		now = now.With(changes...)
		r.SetTable(now)
		versions = append(versions, version{now, maps.Clone(want)})
	}
	for _, v := range versions {
		got := map[string]router.Route{}
		for x := range v.table.All() {
			got[x.Host+x.Path] = x
		}
		require.Equal(t, v.want, got)
		require.Equal(t, len(v.want), v.table.Len())
	}
	all := slices.Collect(maps.Values(want))
	fresh := router.NewTable(all)
	require.Equal(t, len(all), fresh.Len())
	for range 5000 {
		host := fmt.Sprintf("%sapp-%d.example.com", []string{"", "a.", "b.a.", strings.Repeat("long-", 8)}[rnd.IntN(4)], rnd.IntN(1600))
		path := fmt.Sprintf("/%d/x", rnd.IntN(5))
		a, foundA := now.Lookup(host, path)
		b, foundB := fresh.Lookup(host, path)
		require.Equal(t, a, b)
		require.Equal(t, foundA, foundB)
	}
	var out []router.Change
	for _, x := range all {
		out = append(out, router.Change{Route: x, Gone: true}, router.Change{Route: x, Gone: true})
	}
	empty := now.With(out...)
	assert.Zero(t, empty.Len())
	_, found := empty.Lookup("a.app-1.example.com", "/")
	assert.False(t, found)
	r.SetTable(empty)
	assert.Zero(t, r.Pools(), "every backend has left")
}

// TestOneTableInTwoRouters holds that a table may be used by several routers, each with
// turns of its own.
func TestOneTableInTwoRouters(t *testing.T) {
	t.Parallel()
	table := router.NewTable(manyRoutes(10))
	one, two := router.New(router.Config{}), router.New(router.Config{})
	one.SetTable(table)
	two.SetTable(table)
	assert.Equal(t, 5, one.Pools())
	assert.Equal(t, 5, two.Pools())
	one.SetTable(nil)
	assert.Zero(t, one.Pools())
	assert.Equal(t, 5, two.Pools())
	two.SetTable(table)
	assert.Equal(t, 5, two.Pools())
	two.SetTable(nil)
	assert.Zero(t, two.Pools())
}

// TestOptionsOfRoutes holds that the last valid options count, and that invalid ones leave
// what was.
func TestOptionsOfRoutes(t *testing.T) {
	t.Parallel()
	route := func(by string) router.Route {
		return router.Route{Host: "a", Options: router.Options{LoadBalancing: by}}
	}
	options := func(t *router.Table) string {
		r, _ := t.Lookup("a", "/")
		return r.Options.LoadBalancing
	}
	table := router.NewTable([]router.Route{route(router.Hash), route(router.LeastConnection), route("by-dice"), {Host: "a"}})
	assert.Equal(t, router.LeastConnection, options(table))
	table = table.With(router.Change{Route: route("by-dice")})
	assert.Equal(t, router.LeastConnection, options(table))
	table = table.With(router.Change{Route: route(router.RoundRobin)}, router.Change{Route: route(router.Hash)})
	assert.Equal(t, router.Hash, options(table))
	table = table.With(router.Change{Route: route("")})
	assert.Empty(t, options(table))
	assert.Empty(t, options(router.NewTable([]router.Route{route("by-dice")})))
}
