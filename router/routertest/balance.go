package routertest

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dewpoint-go/dewpoint/router"
)

// testLeastConnection has three backends, of which one and then two are busy.
func testLeastConnection(t *testing.T, h *house) {
	var backends []router.Backend
	var hold, letGo []func()
	for i := range 3 {
		b, hi, lo := h.busy(i)
		backends, hold, letGo = append(backends, b), append(hold, hi), append(letGo, lo)
	}
	h.start(router.Config{}, router.Route{Host: "app", Backends: backends, Options: router.Options{LoadBalancing: router.LeastConnection}})
	counts := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			got[h.get("app", "/").body]++
		}
		return got
	}
	// A request may still be counted for a moment after its answer has come.
	if n := counts(30); n["0"] == 0 || n["1"] == 0 || n["2"] == 0 {
		t.Errorf("of backends that are all free 30 requests get %v", n)
	}
	hold[1]()
	if n := counts(20); n["1"] != 0 || n["0"] == 0 || n["2"] == 0 {
		t.Errorf("with 1 busy requests go %v", n)
	}
	hold[0]()
	if n := counts(20); n["2"] < 10 {
		t.Errorf("with 0 and 1 busy requests go %v", n)
	}
	hold[2]()
	if n := counts(30); n["0"] == 0 || n["1"] == 0 || n["2"] == 0 {
		t.Errorf("with all busy 30 requests go %v", n)
	}
	for _, f := range letGo {
		f()
	}
}

func (h *house) names(n int) []router.Backend {
	var all []router.Backend
	for i := range n {
		all = append(all, h.app(i, name(fmt.Sprint(i))))
	}
	return all
}

// testHash holds that a value keeps its backend, that values spread, and that a change of
// the backends moves only what it must.
func testHash(t *testing.T, h *house) {
	backends := h.names(5)
	options := router.Options{LoadBalancing: router.Hash, HashHeader: "X-Tenant"}
	set := func(bs ...router.Backend) {
		h.h.SetTable(h.table(router.Route{Host: "app", Backends: bs, Options: options}))
	}
	h.start(router.Config{MaxAttempts: 5})
	places := func() map[string]string {
		at := map[string]string{}
		for i := range 200 {
			v := fmt.Sprint("tenant-", i)
			at[v] = h.get("app", "/", "X-Tenant", v).body
		}
		return at
	}
	set(backends[:4]...)
	first := places()
	n := map[string]int{}
	for v, b := range first {
		n[b]++
		if again := h.get("app", "/", "x-tenant", v).body; again != b {
			t.Errorf("%s goes to %s and then to %s", v, b, again)
		}
	}
	for b, k := range n {
		if k < 25 || k > 80 {
			t.Errorf("of 200 values backend %s has %d", b, k)
		}
	}
	set(backends[3], backends[1], backends[4], backends[2], backends[0]) // one comes, and the order changes
	moved := 0
	second := places()
	for v, b := range second {
		if b != first[v] {
			moved++
			if b != "4" {
				t.Errorf("%s moves from %s to %s, which was there before", v, first[v], b)
			}
		}
	}
	if moved < 15 || moved > 80 {
		t.Errorf("%d of 200 values moved to the fifth backend", moved)
	}
	set(backends[0], backends[1], backends[3], backends[4]) // one goes
	for v, b := range places() {
		if b != second[v] && second[v] != "2" {
			t.Errorf("%s moves from %s to %s, though its backend stays", v, second[v], b)
		}
	}
	set(backends[:4]...)
	if again := places(); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Error("with the same backends as at first the values go elsewhere")
	}
	without := map[string]int{}
	for range 20 {
		without[h.get("app", "/").body]++
	}
	if len(without) != 4 {
		t.Errorf("without the header 20 requests go %v, want each in its turn", without)
	}
	var dials atomic.Int32
	set(down(0, &dials), down(1, &dials), backends[2], down(3, &dials))
	for v := range first {
		if a := h.get("app", "/", "X-Tenant", v); a.body != "2" {
			t.Errorf("%s goes to %q, want the one that works", v, a.body)
		}
	}
}

func (h *house) table(routes ...router.Route) *router.Table { return router.NewTable(routes) }

// testHashBalance holds that a value whose backend has too much goes to its next one, and
// always to the same.
func testHashBalance(t *testing.T, h *house) {
	var backends []router.Backend
	var hold, letGo []func()
	for i := range 3 {
		b, hi, lo := h.busy(i)
		backends, hold, letGo = append(backends, b), append(hold, hi), append(letGo, lo)
	}
	options := router.Options{LoadBalancing: router.Hash, HashHeader: "X-Tenant", HashBalance: 1.25}
	h.start(router.Config{}, router.Route{Host: "app", Backends: backends, Options: options})
	home := h.get("app", "/", "X-Tenant", "t").body
	i := int(home[0] - '0')
	hold[i]() // of 2 requests in flight, 0.67 each, it may have 1
	next := h.get("app", "/", "X-Tenant", "t").body
	if next == home {
		t.Errorf("the value stays with %s, which has too much", home)
	}
	for range 5 {
		if b := h.get("app", "/", "X-Tenant", "t").body; b != next {
			t.Errorf("the value goes to %s and to %s", next, b)
		}
	}
	letGo[i]()
	for range 10_000 { // it comes back as soon as the router knows that the other request is over
		if next = h.get("app", "/", "X-Tenant", "t").body; next == home {
			break
		}
	}
	if next != home {
		t.Errorf("the value stays with %s when %s is free again", next, home)
	}
	options.HashBalance = 0
	h.h.SetTable(h.table(router.Route{Host: "app", Backends: backends, Options: options}))
	hold[i]()
	if b := h.get("app", "/", "X-Tenant", "t").body; b != home {
		t.Errorf("without a bound the value goes from %s to %s", home, b)
	}
	letGo[i]()
}

func testZone(t *testing.T, h *house) {
	near, far := h.app(0, name("near")), h.app(1, name("far"))
	near.Zone, far.Zone = "z1", "z2"
	h.start(router.Config{Zone: "z1"}, router.Route{Host: "app", Backends: []router.Backend{far, near}},
		router.Route{Host: "far", Backends: []router.Backend{far}})
	for range 4 {
		if a := h.get("app", "/"); a.body != "near" {
			t.Errorf("answer is %d %q", a.status, a.body)
		}
	}
	if a := h.get("far", "/"); a.body != "far" {
		t.Errorf("a route without backends in the zone: %d %q", a.status, a.body)
	}
	var dials atomic.Int32
	gone := down(2, &dials)
	gone.Zone = "z1"
	h.h.SetTable(h.table(router.Route{Host: "app", Backends: []router.Backend{far, gone}}))
	if a := h.get("app", "/"); a.body != "far" || dials.Load() != 1 {
		t.Errorf("where the one in the zone fails: %d %q, it was tried %d times", a.status, a.body, dials.Load())
	}
}

func testEmptyPool(t *testing.T, h *house) {
	h.start(router.Config{EmptyPool404: true}, router.Route{Host: "empty.x"})
	h.want(h.get("empty.x", "/"), 404, "unknown_route", "404 Not Found: Requested route ('empty.x') does not exist.\n")
}

// testStickyAttributes holds which attributes the router's cookie takes from the app's.
func testStickyAttributes(t *testing.T, h *house) {
	b := h.app(0, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", r.Header.Get("X-Set"))
	})
	h.start(router.Config{StickyCookies: []string{"JSESSIONID", "SID"}},
		router.Route{Host: "app", Backends: []router.Backend{b}}, router.Route{Host: "app", Path: "/deep/path", Backends: []router.Backend{b}})
	for set, want := range map[string]string{
		"JSESSIONID=s":                          "Path=/; HttpOnly",
		"SID=s":                                 "Path=/; HttpOnly",
		"jsessionid=s":                          "",
		"OTHER=s; Secure":                       "",
		"JSESSIONID=s; Path=/app; Domain=x.com": "Path=/; HttpOnly",
		"JSESSIONID=s; Secure":                  "Path=/; HttpOnly; Secure",
		"JSESSIONID=s; SameSite=Strict":         "Path=/; HttpOnly; SameSite=Strict",
		"JSESSIONID=s; Secure; SameSite=None; Partitioned":        "Path=/; HttpOnly; Secure; SameSite=None; Partitioned",
		"JSESSIONID=s; Expires=Wed, 01 Jan 2031 00:00:00 GMT":     "Path=/; Expires=Wed, 01 Jan 2031 00:00:00 GMT; HttpOnly",
		"JSESSIONID=s; Max-Age=60":                                "Path=/; HttpOnly",
		"JSESSIONID=s; Max-Age=0":                                 "Path=/; Max-Age=0; HttpOnly",
		"JSESSIONID=; Max-Age=-1; Secure; HttpOnly; SameSite=Lax": "Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
	} {
		c := h.get("app", "/", "X-Set", set).header["Set-Cookie"]
		if c[0] != set {
			t.Errorf("the app's cookie %q becomes %q", set, c[0])
		}
		switch {
		case want == "" && len(c) != 1:
			t.Errorf("%s: the router adds %q", set, c[1:])
		case want != "" && (len(c) != 2 || c[1] != "__VCAP_ID__=instance-0; "+want):
			t.Errorf("%s: cookies are %q, want %s", set, c, want)
		}
	}
	if c := h.get("app", "/deep/path/x", "X-Set", "SID=s").header["Set-Cookie"]; len(c) != 2 || !strings.Contains(c[1], "Path=/deep/path;") {
		t.Errorf("below a path cookies are %q", c)
	}
}

// testStickyFails holds that a session moves when its instance can't be reached, is full or
// gone, and that the cookie without the app's own, or of an instance named by a header, does not bind.
func testStickyFails(t *testing.T, h *house) {
	var dials atomic.Int32
	busy, hold, letGo := h.busy(1)
	h.start(router.Config{MaxRequests: 1}, router.Route{Host: "app", Backends: []router.Backend{down(0, &dials), busy, h.app(2, name("2"))}})
	hold()
	for _, instance := range []string{"instance-0", "instance-1", "instance-9"} {
		a := h.get("app", "/", "Cookie", "__VCAP_ID__="+instance+"; JSESSIONID=s")
		if c := a.header["Set-Cookie"]; a.body != "2" || len(c) != 1 || !strings.HasPrefix(c[0], "__VCAP_ID__=instance-2;") {
			t.Errorf("session of %s: %d %q, cookies %q", instance, a.status, a.body, c)
		}
	}
	letGo()
	for range 4 {
		a := h.get("app", "/", "Cookie", "__VCAP_ID__=instance-2; JSESSIONID=s", "X-CF-APP-INSTANCE", "app:1")
		if a.body != "1" {
			t.Errorf("an instance that a header names goes first: %q", a.body)
		}
	}
	seen := map[string]bool{}
	for range 4 {
		a := h.get("app", "/", "Cookie", "__VCAP_ID__=instance-2")
		seen[a.body] = true
		if c := a.header["Set-Cookie"]; len(c) != 0 {
			t.Errorf("without a session cookies are %q", c)
		}
	}
	if len(seen) != 2 {
		t.Errorf("without a session requests go to %v", seen)
	}
}
