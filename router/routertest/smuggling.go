package routertest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/router"
)

// testConnectionHeader holds that what a "Connection" header names goes no further, both
// ways, and that neither a client nor an app takes off what the router adds.
func testConnectionHeader(t *testing.T, h *house) {
	got := make(chan http.Header, 1)
	b := h.app(0, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		w.Header().Set("Connection", "X-Mine, X-Vcap-Request-Id")
		w.Header().Set("X-Mine", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-Stays", "1")
	})
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{b}})
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		a := h.send(method, "app", "/", nil, "Connection", "X-Private, x-cf-applicationid,X-Forwarded-For, X-Vcap-Request-Id, Host",
			"Connection", "X-Request-Start", "X-Private", "1", "X-Forwarded-For", "6.6.6.6", "X-Request-Start", "1",
			"Keep-Alive", "1", "Proxy-Authorization", "secret", "Proxy-Connection", "keep-alive", "X-Public", "1")
		header := <-got
		for _, k := range []string{"Connection", "X-Private", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection"} {
			if v := header[k]; v != nil {
				t.Errorf("%s: the app gets %s: %q", method, k, v)
			}
		}
		if header.Get("X-Cf-Applicationid") != "app" || header.Get("X-Vcap-Request-Id") == "" || header.Get("X-Public") != "1" ||
			header.Get("X-Forwarded-For") != "127.0.0.1" || len(header.Get("X-Request-Start")) != 13 {
			t.Errorf("%s: the app gets %v", method, header)
		}
		if a.header.Get("X-Mine") != "" || a.header.Get("Keep-Alive") != "" || a.header.Get("X-Stays") != "1" {
			t.Errorf("%s: the client gets %v", method, a.header)
		}
	}
}

// scripted is an instance that answers what comes on each of its connections with the texts
// given, one after the other, and closes the connection after the last. It tells how many
// requests it got.
func (h *house) scripted(index int, texts ...string) (b router.Backend, got func() int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				br := bufio.NewReader(conn)
				for _, text := range texts {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					mu.Lock()
					n++
					mu.Unlock()
					_, _ = io.WriteString(conn, text)
				}
			}()
		}
	}()
	h.t.Cleanup(func() { l.Close() })
	return backend(index, l.Addr().String()), func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// testUnsolicited has an app that sends two responses to one request: nobody else may get
// the second one.
func testUnsolicited(t *testing.T, h *house) {
	one := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	b, _ := h.scripted(0, one+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", one)
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{b}})
	for _, method := range []string{"GET", "POST", "GET", "HEAD", "GET", "GET"} {
		if a := h.send(method, "app", "/", nil); a.status != 200 || strings.Contains(a.body, "evil") {
			t.Errorf("%s: answer is %d %q", method, a.status, a.body)
		}
	}
}

// testLate has an app that sends what nobody asked for when the connection is idle already.
func testLate(t *testing.T, h *house) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conns := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
				conns <- conn
			}()
		}
	}()
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{backend(0, l.Addr().String())}})
	for range 3 {
		if a := h.get("app", "/"); a.status != 200 || a.body != "ok" {
			t.Errorf("answer is %d %q", a.status, a.body)
		}
		conn := <-conns
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
	}
}

// testStale has an app that closes each connection after one response without saying so.
func testStale(t *testing.T, h *house) {
	b, got := h.scripted(0, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{b}})
	for i := range 50 {
		if a := h.get("app", "/"); a.status != 200 || a.body != "ok" {
			t.Errorf("answer is %d %q", a.status, a.body)
		}
		if n := got(); n != i+1 {
			t.Fatalf("after %d requests the app got %d", i+1, n)
		}
	}
}

// seen is a request as one who stands in the chain got it.
type seen struct{ method, uri, host, body string }

// Smuggle sends bytes over one connection to a server with the router in it, and reports
// where an app was told anything else than what the server had read. The bytes are those of
// one client; nobody promises it an answer, but an app must never see a request that the
// server did not. reached is how many requests an app got.
func Smuggle(h Handler, data []byte) (reached int, err error) {
	var mu sync.Mutex
	var front, apps []seen
	see := func(r *http.Request) seen {
		body, err := io.ReadAll(r.Body)
		s := seen{r.Method, r.URL.RequestURI(), r.Host, string(body)}
		if err != nil {
			s.body = "broken"
		}
		return s
	}
	var wrong error
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	behind := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := see(r)
		mu.Lock()
		defer mu.Unlock()
		apps = append(apps, s)
		// The host carries the number of the request, as nothing else is sure to arrive.
		number := strings.TrimSuffix(r.Host[max(0, strings.LastIndex(r.Host, ".n")):], ".x")
		n, err := strconv.Atoi(strings.TrimPrefix(number, ".n"))
		switch {
		case err != nil || n < 0 || n >= len(front):
			wrong = fmt.Errorf("the app got %+v, which the server did not", s)
		case s.body != "broken" && s != front[n]:
			wrong = fmt.Errorf("the app got %+v of %+v", s, front[n])
		}
	})}
	var conns sync.WaitGroup // the app's
	behind.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
	go func() { _ = behind.Serve(app) }()
	defer func() { _ = behind.Close() }()
	h.SetTable(router.NewTable([]router.Route{{Host: "*.x", Backends: []router.Backend{backend(0, app.Addr().String())}}}))
	defer h.SetTable(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	before := router.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "end" {
			return
		}
		// The body is read here, so that it is known before the app tells of it.
		s := see(r)
		mu.Lock()
		n := len(front)
		front = append(front, s)
		mu.Unlock()
		if s.body == "broken" {
			panic(http.ErrAbortHandler)
		}
		if r.ContentLength != 0 {
			r.Body = io.NopCloser(strings.NewReader(s.body))
		}
		r.Host += fmt.Sprintf(".n%d.x", n)
		mu.Lock()
		front[n].host = r.Host
		mu.Unlock()
		h.ServeHTTP(w, r)
	}), router.ServerConfig{})
	before.Protocols.SetUnencryptedHTTP2(false)
	before.ReadTimeout, before.IdleTimeout = 250*time.Millisecond, 250*time.Millisecond // if the end is not understood
	go func() { _ = before.Serve(l) }()
	defer func() { _ = before.Close() }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	// It may be refused before it is whole.
	_, _ = conn.Write(append(data[:len(data):len(data)], "GET / HTTP/1.1\r\nHost: end\r\nConnection: close\r\n\r\n"...))
	_, _ = io.Copy(io.Discard, conn)
	h.SetTable(nil) // then the app's connections come to their end, and what was in them to the app
	conns.Wait()
	mu.Lock()
	defer mu.Unlock()
	return len(apps), wrong
}

// Shapes are requests with which clients tried to make two servers in a chain disagree
// about where one ends.
func Shapes() []string {
	evil := "GET /evil HTTP/1.1\r\nHost: victim\r\n\r\n"
	body := func(header, body string) string { return "POST / HTTP/1.1\r\nHost: a\r\n" + header + "\r\n\r\n" + body }
	get := func(header string) string { return "GET / HTTP/1.1\r\nHost: a\r\n" + header + "\r\n\r\n" + evil }
	shapes := []string{
		body("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"+evil),
		body("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"+evil),
		body("Content-Length: 0\r\nContent-Length: 44", evil),
		body("Content-Length: 0, 0", evil), body("Content-Length: 5, 5", "12345"+evil),
		body("Content-Length: +5", "12345"+evil), body("Content-Length: 0x5", "12345"+evil), body("Content-Length: 5 5", "12345"+evil),
		body("Content-Length: -1", evil), body("Content-Length:", evil), body("Content-Length: 99999999999999999999", evil),
		body("Content-Length : 5", "12345"+evil), body(" Content-Length: 5", "12345"+evil), body("Content_Length: 5", "12345"+evil),
		body("X: 1\nContent-Length: 5", "12345"+evil), body("X: 1\rContent-Length: 5", "12345"+evil), body("X: 1\x00\r\nContent-Length: 5", "12345"+evil),
		body("X: a\r\n b\r\nContent-Length: 5", "12345"+evil),
		body("Transfer-Encoding: chunked", "5;x=\"\r\n\"\r\n12345\r\n0\r\n\r\n"+evil),
		body("Transfer-Encoding: chunked", "5\n12345\n0\n\n"+evil), body("Transfer-Encoding: chunked", "+5\r\n12345\r\n0\r\n\r\n"+evil),
		body("Transfer-Encoding: chunked", "0x5\r\n12345\r\n0\r\n\r\n"+evil), body("Transfer-Encoding: chunked", "5\r\n12345X0\r\n\r\n"+evil),
		body("Transfer-Encoding: chunked", "10000000000000005\r\n12345\r\n0\r\n\r\n"+evil),
		body("Transfer-Encoding: chunked", "0\r\nContent-Length: 44\r\nHost: victim\r\n\r\n"+evil),
		body("Connection: Content-Length\r\nContent-Length: 5", "12345"+evil),
		body("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "5\r\n12345\r\n0\r\n\r\n"+evil),
		get("Connection: Host"), get("Host: victim"), get("Content-Length: 44"), get("Content-Length: 0"), get("Transfer-Encoding: chunked"),
		get("Upgrade: websocket\r\nConnection: Upgrade"), get("Expect: 100-continue"), get("Expect: 100-continue\r\nContent-Length: 44"),
		get("X: \xff\xfe"), get("X: a\tb"),
		"GET http://victim/x HTTP/1.1\r\nHost: a\r\n\r\n" + evil, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n" + evil,
		"GET /a%0d%0aX: y HTTP/1.1\r\nHost: a\r\n\r\n" + evil, "GET /?a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /#b HTTP/1.1\r\nHost: a\r\n\r\n" + evil,
		"GET //victim/x HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + evil, "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: a\r\nContent-Length: 44\r\n\r\n" + evil, "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + evil,
		"GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + evil, "GET / HTTP/1.1\r\nHost: a@b/\r\n\r\n" + evil, "GET / HTTP/1.1\r\nHost: a:80\r\nHOST: b\r\n\r\n" + evil,
		"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345" + evil, "GE\tT / HTTP/1.1\r\nHost: a\r\n\r\n" + evil,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + evil,
	}
	for _, coding := range []string{"Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Transfer-Encoding: chunked, chunked",
		"Transfer-Encoding: identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding:\tchunked", "Transfer-Encoding: \x0bchunked",
		"Transfer-Encoding: gzip, chunked", "Transfer-Encoding\r\n : chunked", "X: x\nTransfer-Encoding: chunked", "tRANSFER-eNCODING: CHUNKED", "Transfer-Encoding: \"chunked\""} {
		shapes = append(shapes, body(coding+"\r\nContent-Length: 5", "0\r\n\r\n"+evil), body(coding, "0\r\n\r\n"+evil))
	}
	return shapes
}

// testSmuggling sends all Shapes.
func testSmuggling(t *testing.T, h *house) {
	r := h.open(t, router.Config{})
	var wg sync.WaitGroup
	for _, s := range Shapes() {
		wg.Go(func() {
			if _, err := Smuggle(h.open(t, router.Config{}), []byte(s)); err != nil {
				t.Errorf("%q: %v", s, err)
			}
		})
	}
	wg.Wait()
	well := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n"
	if n, err := Smuggle(r, []byte(well)); n != 2 || err != nil {
		t.Errorf("of two requests without guile %d reach the app, %v", n, err)
	}
}
