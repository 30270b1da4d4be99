package router_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/router"
)

// FuzzLookup compares the table with the rule written out.
func FuzzLookup(f *testing.F) {
	routes := []router.Route{
		{Host: "a.com"}, {Host: "a.com", Path: "/x"}, {Host: "a.com", Path: "/x/y"}, {Host: "a.com", Path: "/x/y/z/"},
		{Host: "b.a.com", Path: "/x"}, {Host: "*.a.com"}, {Host: "*.b.a.com", Path: "/q"}, {Host: "*.c.b.a.com", Path: "/é"},
	}
	table := router.NewTable(routes)
	for _, host := range []string{"a.com", "A.Com:80", "b.a.com", "x.b.a.com", "q.c.B.a.com.", ".a.com", "[::1]:80", "", ":", "."} {
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
	host = strings.TrimSuffix(host, ".")
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

// BenchmarkLookup looks up one route, which stays in the processor's cache, and all in turn,
// in an order that has nothing to do with theirs.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000, 100_000} {
		table := router.NewTable(manyRoutes(n))
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
		}
	}
}

// BenchmarkSetTable makes a table anew and swaps it, as is done for each change.
func BenchmarkSetTable(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			r := router.New(router.Config{})
			routes := manyRoutes(n)
			b.ReportAllocs()
			for b.Loop() {
				r.SetTable(router.NewTable(routes))
			}
		})
	}
}
