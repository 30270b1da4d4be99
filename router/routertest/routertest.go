// Package routertest is the conformance suite of routers that are driven by a router.Table.
package routertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dewpoint-go/dewpoint/router"
)

// Handler is what the suite holds to the contract of router.Router.
type Handler interface {
	http.Handler
	SetTable(t *router.Table)
}

var _ Handler = (*router.Router)(nil)

// Run holds a router to its contract. open returns one that works as the Config says.
func Run(t *testing.T, open func(t *testing.T, c router.Config) Handler) {
	cases := []struct {
		name string
		test func(*testing.T, *house)
	}{
		{"Errors", testErrors},
		{"CaseAndPortOfHost", testHosts},
		{"BrokenBackends", testBroken},
		{"ResponseThatBreaksOff", testCutOff},
		{"BodyThatNobodyReads", testUnread},
		{"LongestPathAndWildcard", testLookup},
		{"RoundRobin", testRoundRobin},
		{"HeadersForTheApp", testHeaders},
		{"RequestAndResponsePassUnchanged", testUnchanged},
		{"RetriesWhereNothingReachedTheApp", testDialRetry},
		{"FailedBackendIsSkipped", testSkip},
		{"ClosedConnections", testEOF},
		{"NamedInstance", testNamedInstance},
		{"StickySession", testSticky},
		{"Upgrade", testUpgrade},
		{"RequestLimit", testLimit},
		{"TableSwapClosesConnections", testSwap},
		{"ClientLeaves", testClientLeaves},
		{"RetryTable", testRetryTable},
		{"NumberOfAttempts", testAttempts},
		{"BackendThatComesMeanwhile", testComesMeanwhile},
		{"LeastConnection", testLeastConnection},
		{"Hash", testHash},
		{"HashBalance", testHashBalance},
		{"Zone", testZone},
		{"EmptyPool", testEmptyPool},
		{"StickyAttributes", testStickyAttributes},
		{"StickyInstanceFails", testStickyFails},
		{"Drain", testDrain},
		{"Protocols", testProtocols},
		{"EarlyHints", testEarlyHints},
		{"Continue", testContinue},
		{"BigBodies", testBigBodies},
		{"Stream", testStream},
		{"SlowBody", testSlowBody},
		{"ClientThatDoesNotRead", testNoReader},
		{"PipelineThatNobodyReads", testPipeline},
		{"ConnectionHeader", testConnectionHeader},
		{"UnsolicitedResponse", testUnsolicited},
		{"StaleConnection", testStale},
		{"LateResponse", testLate},
		{"ConnectionInUseAtSwap", testUsedAtSwap},
		{"Smuggling", testSmuggling},
		{"TLS", testTLS},
		{"UpgradeOverTLS", testUpgradeTLS},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.test(t, &house{t: t, open: open}) })
	}
}

// house is a router with a server in front and apps behind it.
type house struct {
	t     *testing.T
	open  func(t *testing.T, c router.Config) Handler
	front *httptest.Server
	h     Handler
	wrap  func(http.Handler) http.Handler // what stands before the router; nil: nothing
}

func (h *house) wrapped() http.Handler {
	if h.wrap == nil {
		return h.h
	}
	return h.wrap(h.h)
}

func (h *house) start(c router.Config, routes ...router.Route) {
	h.t.Helper()
	h.h = h.open(h.t, c)
	h.h.SetTable(router.NewTable(routes))
	h.front = httptest.NewUnstartedServer(nil)
	h.front.Config = router.NewServer(h.wrapped(), router.ServerConfig{})
	h.front.Start()
	h.t.Cleanup(func() {
		h.front.Close()
		h.h.SetTable(nil)
	})
}

// app starts an instance.
func (h *house) app(index int, serve http.HandlerFunc) router.Backend {
	b, _ := h.appThatStops(index, serve)
	return b
}

func (h *house) appThatStops(index int, serve http.HandlerFunc) (b router.Backend, stop func()) {
	s := httptest.NewServer(serve)
	h.t.Cleanup(s.Close)
	return backend(index, strings.TrimPrefix(s.URL, "http://")), s.Close
}

func backend(index int, addr string) router.Backend {
	return router.Backend{App: "app", Process: "proc", Instance: fmt.Sprint("instance-", index), Index: index, Addr: addr}
}

// down is an instance that nobody can reach.
func down(index int, dials *atomic.Int32) router.Backend {
	b := backend(index, "down")
	b.Dial = func(context.Context) (net.Conn, error) {
		dials.Add(1)
		return nil, errors.New("nobody there")
	}
	return b
}

func name(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s) }
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (h *house) get(host, path string, header ...string) answer {
	h.t.Helper()
	return h.send(http.MethodGet, host, path, nil, header...)
}

func (h *house) send(method, host, path string, body io.Reader, header ...string) answer {
	h.t.Helper()
	a, err := h.try(method, host, path, body, header...)
	if err != nil {
		h.t.Errorf("%s %s%s: %v", method, host, path, err)
	}
	return a
}

// try is send for those who know what to do with an error.
func (h *house) try(method, host, path string, body io.Reader, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.front.URL+path, body)
	if err != nil {
		return answer{}, err
	}
	req.Host = host
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := h.front.Client().Transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, fmt.Errorf("read the response: %w", err)
	}
	return answer{res.StatusCode, res.Header, string(text)}, nil
}

func (h *house) want(got answer, status int, reason, body string) {
	h.t.Helper()
	if got.status != status || got.body != body {
		h.t.Errorf("answer is %d %q, want %d %q", got.status, got.body, status, body)
	}
	if r := got.header.Get("X-Cf-RouterError"); r != reason && (reason != "endpoint_failure" || !strings.HasPrefix(r, reason+" (")) {
		h.t.Errorf("X-Cf-RouterError is %q, want %q", r, reason)
	}
	if reason != "" {
		if ct := got.header.Get("Content-Type"); ct != "text/plain; charset=utf-8" {
			h.t.Errorf("Content-Type is %q", ct)
		}
		if o := got.header.Get("X-Content-Type-Options"); o != "nosniff" {
			h.t.Errorf("X-Content-Type-Options is %q", o)
		}
	}
	if got.header.Get("X-Vcap-Request-Id") == "" {
		h.t.Error("the answer has no X-Vcap-Request-Id")
	}
}

const failed = "502 Bad Gateway: Registered endpoint failed to handle the request.\n"

func testErrors(t *testing.T, h *house) {
	var dials atomic.Int32
	h.start(router.Config{},
		router.Route{Host: "empty.example.com"},
		router.Route{Host: "down.example.com", Backends: []router.Backend{down(0, &dials)}})
	h.want(h.get("no.example.com:80", "/"), 404, "unknown_route",
		"404 Not Found: Requested route ('no.example.com') does not exist.\n")
	h.want(h.get("empty.example.com", "/"), 503, "no_endpoints",
		"503 Service Unavailable: Requested route ('empty.example.com') has no available endpoints.\n")
	h.want(h.get("down.example.com", "/"), 502, "endpoint_failure", failed)

	conn, err := net.Dial("tcp", h.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	text, _ := io.ReadAll(conn)
	if s := string(text); !strings.HasPrefix(s, "HTTP/1.0 400") || !strings.Contains(s, "empty_host") ||
		!strings.HasSuffix(s, "\r\n\r\n400 Bad Request: Request had empty Host header\n") {
		t.Errorf("no Host: %q", s)
	}
}

func testLookup(t *testing.T, h *house) {
	r := func(host, path string) router.Route {
		return router.Route{Host: host, Path: path, Backends: []router.Backend{h.app(0, name(host+path))}}
	}
	h.start(router.Config{}, r("a.example.com", ""), r("a.example.com", "/api"), r("a.example.com", "/api/v2/"),
		r("*.example.com", ""), r("*.deep.example.com", "/x"), r("only.example.com", "/path"))
	for _, c := range [][2]string{
		{"a.example.com/", "a.example.com"},
		{"A.Example.COM:8080/", "a.example.com"},
		{"a.example.com/apis", "a.example.com"},
		{"a.example.com/api", "a.example.com/api"},
		{"a.example.com/api/", "a.example.com/api"},
		{"a.example.com/api/v1?x=/api/v2", "a.example.com/api"},
		{"a.example.com/api/v2", "a.example.com/api/v2/"},
		{"a.example.com/api/v2/deeper/still", "a.example.com/api/v2/"},
		{"b.example.com/api", "*.example.com"},
		{"c.b.example.com/", "*.example.com"},
		{"c.deep.example.com/x/y", "*.deep.example.com/x"},
		{"c.deep.example.com/y", "*.example.com"},
		{"only.example.com/path", "only.example.com/path"},
		{"only.example.com/", "*.example.com"},
	} {
		host, path, _ := strings.Cut(c[0], "/")
		if got := h.get(host, "/"+path); got.body != c[1] {
			t.Errorf("%s goes to %q, want %q", c[0], got.body, c[1])
		}
	}
	h.want(h.get("example.com", "/"), 404, "unknown_route", "404 Not Found: Requested route ('example.com') does not exist.\n")
}

func testRoundRobin(t *testing.T, h *house) {
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{
		h.app(0, name("0")), h.app(1, name("1")), h.app(2, name("2")),
	}})
	n := map[string]int{}
	for range 30 {
		n[h.get("app", "/").body]++
	}
	if n["0"] != 10 || n["1"] != 10 || n["2"] != 10 {
		t.Errorf("30 requests went %v, want 10 each", n)
	}
}

func testHeaders(t *testing.T, h *house) {
	got := make(chan http.Header, 1)
	seen := make(chan string, 1)
	b := h.app(3, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		seen <- r.Host
		w.Header().Set("X-Vcap-Request-Id", "the app's")
	})
	h.start(router.Config{}, router.Route{Host: "app.example.com", Backends: []router.Backend{b}})
	a := h.get("app.example.com:81", "/", "X-Forwarded-For", "1.2.3.4", "X-Vcap-Request-Id", "mine", "X-CF-InstanceIndex", "9",
		"X-Forwarded-Host", "front", "Connection", "X-CF-ApplicationID")
	header := <-got
	for k, want := range map[string]string{
		"X-CF-ApplicationID": "^app$", "X-CF-InstanceID": "^instance-3$", "X-CF-InstanceIndex": "^3$",
		"X-Forwarded-For": `^1\.2\.3\.4, 127\.0\.0\.1$`, "X-Forwarded-Proto": "^http$", "X-Forwarded-Host": "^front$",
		"X-Request-Start": `^\d{13}$`, "X-Vcap-Request-Id": `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`,
		"User-Agent": "^Go-http-client", "X-Cf-App-Instance": "^$",
	} {
		if v := strings.Join(header.Values(k), "|"); !regexp.MustCompile(want).MatchString(v) {
			t.Errorf("the app gets %s: %q, want %s", k, v, want)
		}
	}
	if host := <-seen; host != "app.example.com:81" {
		t.Errorf("the app gets Host %q", host)
	}
	if id := a.header.Values("X-Vcap-Request-Id"); len(id) != 1 || id[0] != header.Get("X-Vcap-Request-Id") {
		t.Errorf("the response has X-Vcap-Request-Id %q, the app got %q", id, header.Get("X-Vcap-Request-Id"))
	}
	h.get("app.example.com", "/", "X-Forwarded-Proto", "https", "X-Request-Start", "5")
	if header = <-got; header.Get("X-Forwarded-Proto") != "https" || header.Get("X-Request-Start") != "5" {
		t.Errorf("what a proxy before us set was changed: %v", header)
	}
}

func testUnchanged(t *testing.T, h *house) {
	b := h.app(0, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("X-Twice", "1")
		w.Header().Add("X-Twice", "2")
		w.Header().Set("X-Uri", r.RequestURI)
		w.Header().Set("X-Encoding", r.Header.Get("Accept-Encoding"))
		w.Header().Set("Trailer", "X-End")
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusTeapot)
		n, _ := io.Copy(w, r.Body)
		w.Header().Set("X-End", fmt.Sprint(n))
	})
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{b}})
	big := strings.Repeat("0123456789", 100_000)
	for _, method := range []string{"POST", "PUT", "PATCH", "QUERY"} {
		a := h.send(method, "app", "/a%2Fb//c/../d;e?q=%20;x&y=%zz", strings.NewReader(big), "Accept-Encoding", "br")
		if a.status != http.StatusTeapot || a.body != big || fmt.Sprint(a.header["X-Twice"]) != "[1 2]" {
			t.Errorf("%s: answer is %d, %d bytes, %v", method, a.status, len(a.body), a.header)
		}
		if u := a.header.Get("X-Uri"); u != "/a%2Fb//c/../d;e?q=%20;x&y=%zz" {
			t.Errorf("the app gets the URI %q", u)
		}
		if e := a.header.Get("X-Encoding"); e != "br" {
			t.Errorf("the app gets Accept-Encoding %q", e)
		}
	}
}

func testDialRetry(t *testing.T, h *house) {
	var dials atomic.Int32
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{
		down(0, &dials), h.app(1, echo), down(2, &dials),
	}}, router.Route{Host: "many", Backends: []router.Backend{down(3, &dials), down(4, &dials), down(5, &dials), down(6, &dials)}})
	for range 6 {
		if a := h.send(http.MethodPost, "app", "/", strings.NewReader("body")); a.status != 200 || a.body != "body" {
			t.Errorf("answer is %d %q", a.status, a.body)
		}
	}
	dials.Store(0)
	h.want(h.get("many", "/"), 502, "endpoint_failure", failed)
	if n := dials.Load(); n != 3 {
		t.Errorf("%d backends were tried, want 3", n)
	}
}

func echo(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }

func testSkip(t *testing.T, h *house) {
	var dials atomic.Int32
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{down(0, &dials), h.app(1, name("1"))}})
	for range 20 {
		if a := h.get("app", "/"); a.body != "1" {
			t.Errorf("answer is %d %q", a.status, a.body)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("the backend that can't be reached was tried %d times, want once", n)
	}
}
