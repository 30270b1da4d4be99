package routertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/router"
)

// testEOF holds the table of which requests are repeated when a backend closes the
// connection instead of answering.
func testEOF(t *testing.T, h *house) {
	var closed atomic.Int32
	closes := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		closed.Add(1)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.Close()
		}
	}
	// Where both close, what was repeated is counted: twice or once.
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{h.app(0, closes), h.app(1, closes)}})
	for _, c := range []struct {
		method, body, key string
		times             int32
	}{
		{"GET", "", "", 2}, {"HEAD", "", "", 2}, {"OPTIONS", "", "", 2}, {"TRACE", "", "", 2},
		{"GET", "body", "", 1}, {"POST", "", "", 1}, {"POST", "body", "", 1}, {"PUT", "", "", 1}, {"DELETE", "", "", 1},
		{"POST", "", "Idempotency-Key", 2}, {"POST", "", "X-Idempotency-Key", 2},
		{"POST", "body", "Idempotency-Key", 1},
	} {
		closed.Store(0)
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		var header []string
		if c.key != "" {
			header = []string{c.key, "k"}
		}
		a := h.send(c.method, "app", "/", body, header...)
		if a.status != 502 {
			t.Errorf("%+v: status %d, want 502", c, a.status)
		}
		if n := closed.Load(); n != c.times {
			t.Errorf("%+v: reached %d backends, want %d", c, n, c.times)
		}
	}
}

func testNamedInstance(t *testing.T, h *house) {
	var dials atomic.Int32
	h.start(router.Config{}, router.Route{Host: "app.x", Backends: []router.Backend{
		h.app(0, name("0")), h.app(1, name("1")), h.app(2, name("2")), down(3, &dials),
	}})
	for range 3 {
		for header, value := range map[string]string{"X-CF-APP-INSTANCE": "app:1", "X-CF-PROCESS-INSTANCE": "proc:1"} {
			if a := h.get("app.x", "/", header, value); a.body != "1" {
				t.Errorf("%s %s goes to %q", header, value, a.body)
			}
		}
		if a := h.get("app.x", "/", "X-CF-PROCESS-INSTANCE", "proc"); a.status != 200 {
			t.Errorf("any instance of a process: %d %q", a.status, a.body)
		}
	}
	dials.Store(0)
	h.want(h.get("app.x", "/", "X-CF-APP-INSTANCE", "app:3"), 502, "endpoint_failure", failed)
	if n := dials.Load(); n != 1 {
		t.Errorf("the instance that was named was tried %d times, want once", n)
	}
	h.want(h.get("app.x", "/", "X-CF-APP-INSTANCE", "app:7"), 400, "unknown_route",
		"400 Bad Request: Requested instance ('7') with guid ('app') does not exist for route ('app.x')\n")
	h.want(h.get("app.x", "/", "X-CF-APP-INSTANCE", "other:0"), 400, "unknown_route",
		"400 Bad Request: Requested instance ('0') with guid ('other') does not exist for route ('app.x')\n")
	h.want(h.get("app.x", "/", "X-CF-PROCESS-INSTANCE", "proc:7"), 400, "unknown_route",
		"400 Bad Request: Requested instance ('7') with guid ('proc') does not exist for route ('app.x')\n")
	h.want(h.get("app.x", "/", "X-CF-PROCESS-INSTANCE", "app:0"), 400, "unknown_route",
		"400 Bad Request: Requested instance ('0') with guid ('app') does not exist for route ('app.x')\n")
	h.want(h.get("app.x:80", "/", "X-CF-PROCESS-INSTANCE", "other"), 400, "unknown_route",
		"400 Bad Request: Requested instance ('') with guid ('other') does not exist for route ('app.x')\n")
	for _, bad := range []string{"app", "app:", ":1", "app:x", "app:1:2", "app:-1", "app:99999999999999999999"} {
		h.want(h.get("app.x", "/", "X-CF-APP-INSTANCE", bad), 400, "invalid_cf_app_instance_header",
			"400 Bad Request: Invalid X-CF-App-Instance Header\n")
	}
	for _, bad := range []string{"proc:", ":1", "proc:x", "proc:1:2"} {
		h.want(h.get("app.x", "/", "X-CF-PROCESS-INSTANCE", bad), 400, "invalid_cf_process_instance_header",
			"400 Bad Request: Invalid X-CF-Process-Instance Header\n")
	}
}

func testSticky(t *testing.T, h *house) {
	login := func(index string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/app/login":
				http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", Value: "s", Secure: true, SameSite: http.SameSiteLaxMode})
			case "/app/logout":
				http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", Value: "s", MaxAge: -1})
			case "/app/own":
				http.SetCookie(w, &http.Cookie{Name: "JSESSIONID", Value: "s"})
				http.SetCookie(w, &http.Cookie{Name: "__VCAP_ID__", Value: "own"})
			case "/app/other":
				http.SetCookie(w, &http.Cookie{Name: "theme", Value: "dark"})
			}
			fmt.Fprint(w, index)
		}
	}
	h.start(router.Config{}, router.Route{Host: "app", Path: "/app", Backends: []router.Backend{
		h.app(0, login("0")), h.app(1, login("1")), h.app(2, login("2")),
	}})
	a := h.get("app", "/app/login")
	want := "__VCAP_ID__=instance-" + a.body + "; Path=/app; HttpOnly; Secure; SameSite=Lax"
	if c := a.header["Set-Cookie"]; len(c) != 2 || c[1] != want {
		t.Errorf("cookies are %q, want %q", c, want)
	}
	session := "JSESSIONID=s; __VCAP_ID__=instance-" + a.body
	for range 4 {
		b := h.get("app", "/app", "Cookie", session)
		if b.body != a.body || len(b.header["Set-Cookie"]) != 0 {
			t.Errorf("the session goes to %q with cookies %q, want %q", b.body, b.header["Set-Cookie"], a.body)
		}
	}
	if c := h.get("app", "/app/logout", "Cookie", session).header["Set-Cookie"]; len(c) != 2 || !strings.Contains(c[1], "Max-Age=0") {
		t.Errorf("after logout cookies are %q", c)
	}
	b := h.get("app", "/app", "Cookie", "JSESSIONID=s; __VCAP_ID__=gone")
	if c := b.header["Set-Cookie"]; b.status != 200 || len(c) != 1 || !strings.HasPrefix(c[0], "__VCAP_ID__=instance-"+b.body+";") {
		t.Errorf("session of an instance that is gone: %d, cookies %q", b.status, c)
	}
	if c := h.get("app", "/app/own").header["Set-Cookie"]; len(c) != 2 || c[1] != "__VCAP_ID__=own" {
		t.Errorf("an app's own cookie: %q", c)
	}
	if c := h.get("app", "/app/other").header["Set-Cookie"]; len(c) != 1 {
		t.Errorf("without a session cookies are %q", c)
	}
}

func testUpgrade(t *testing.T, h *house) {
	h.upgrades(router.Config{}, h.app(0, h.talk()))
}

// talk upgrades, and repeats what is said.
func (h *house) talk() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			h.t.Errorf("hijack: %v", err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_ = rw.Flush()
		for {
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(rw, "you said ", line)
			_ = rw.Flush()
		}
	}
}

// upgrades holds that an instance's connections can be upgraded, also if it speaks HTTP/2.
func (h *house) upgrades(conf router.Config, b router.Backend) {
	t := h.t
	logged := make(chan router.Access, 1)
	modern := b // an app that speaks HTTP/2 too
	modern.Protocol, modern.Instance = "http2", "instance-1"
	conf.BodyTimeout, conf.AccessLog = 50*time.Millisecond, func(a router.Access) { logged <- a }
	h.start(conf, router.Route{Host: "app", Backends: []router.Backend{b}}, router.Route{Host: "modern", Backends: []router.Backend{modern}})
	for host, instance := range map[string]string{"app": "instance-0", "modern": "instance-1"} {
		conn, err := net.Dial("tcp", h.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", host)
		br := bufio.NewReader(conn)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" {
			t.Fatalf("answer is %d %v", res.StatusCode, res.Header)
		}
		for _, s := range []string{"one\n", "two\n"} {
			<-time.After(60 * time.Millisecond) // longer than a body may rest
			fmt.Fprint(conn, s)
			if line, err := br.ReadString('\n'); line != "you said "+s {
				t.Errorf("got %q, %v", line, err)
			}
		}
		conn.Close()
		if a := <-logged; a.Status != 101 || a.Backend.Instance != instance {
			t.Errorf("logged: %v", a)
		}
	}
}

func testLimit(t *testing.T, h *house) {
	entered, leave := make(chan struct{}), make(chan struct{})
	b := h.app(0, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	})
	h.start(router.Config{MaxRequests: 1}, router.Route{Host: "app", Backends: []router.Backend{b}})
	done := make(chan answer)
	go func() { done <- h.get("app", "/") }()
	<-entered
	h.want(h.send(http.MethodPost, "app", "/", strings.NewReader("body")), 503, "Connection Limit Reached",
		"503 Service Unavailable: Requested route ('app') has reached the connection limit.\n")
	h.want(h.get("app", "/"), 503, "Connection Limit Reached",
		"503 Service Unavailable: Requested route ('app') has reached the connection limit.\n")
	close(leave)
	if a := <-done; a.status != 200 {
		t.Errorf("the first request: %d", a.status)
	}
	h.h.SetTable(router.NewTable([]router.Route{{Host: "app", Backends: []router.Backend{h.app(1, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
	}), h.app(2, name("free"))}}}))
	go func() { done <- h.get("app", "/", "X-CF-APP-INSTANCE", "app:1") }()
	for range 4 {
		if a := h.get("app", "/", "X-CF-APP-INSTANCE", "app:2"); a.body != "free" {
			t.Errorf("with another one free: %d %q", a.status, a.body)
		}
	}
	<-entered
	<-done
}

// watched tells when a connection is closed.
type watched struct {
	net.Conn
	closed chan struct{}
	once   atomic.Bool
}

func (w *watched) Close() error {
	if w.once.CompareAndSwap(false, true) {
		close(w.closed)
	}
	return w.Conn.Close()
}

func testSwap(t *testing.T, h *house) {
	conns := make(chan *watched, 10)
	watch := func(b router.Backend) router.Backend {
		b.Dial = func(ctx context.Context) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.Addr)
			if err != nil {
				return nil, err
			}
			w := &watched{Conn: c, closed: make(chan struct{})}
			conns <- w
			return w, nil
		}
		return b
	}
	one, two := watch(h.app(0, name("one"))), watch(h.app(1, name("two")))
	h.start(router.Config{}, router.Route{Host: "one", Backends: []router.Backend{one}}, router.Route{Host: "two", Backends: []router.Backend{two}})
	for range 3 {
		h.get("one", "/")
		h.get("two", "/")
		h.h.SetTable(router.NewTable([]router.Route{
			{Host: "two", Backends: []router.Backend{two}}, {Host: "one", Backends: []router.Backend{one}},
		}))
	}
	if len(conns) != 2 {
		t.Errorf("%d connections were opened, want 2: those of backends that stay are kept", len(conns))
	}
	h.h.SetTable(router.NewTable([]router.Route{{Host: "two", Backends: []router.Backend{two}}}))
	<-(<-conns).closed
	h.want(h.get("one", "/"), 404, "unknown_route", "404 Not Found: Requested route ('one') does not exist.\n")
	if a := h.get("two", "/"); a.body != "two" {
		t.Errorf("the route that stays: %d %q", a.status, a.body)
	}
	h.h.SetTable(nil)
	<-(<-conns).closed
}

func testClientLeaves(t *testing.T, h *house) {
	entered, left := make(chan struct{}), make(chan struct{})
	b := h.app(0, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done() // the router lets go of the app
		close(left)
	})
	logged := make(chan router.Access, 1)
	h.start(router.Config{AccessLog: func(a router.Access) { logged <- a }}, router.Route{Host: "app", Backends: []router.Backend{b}})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.front.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "app"
	go func() {
		<-entered
		cancel()
	}()
	if res, err := h.front.Client().Transport.RoundTrip(req); err == nil {
		res.Body.Close()
		t.Error("the request succeeded")
	}
	<-left
	if a := <-logged; a.Status != 499 || !strings.HasPrefix(a.RouterError, "endpoint_failure") {
		t.Errorf("logged: %v", a)
	}
}
