package routertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dewpoint-go/dewpoint/router"
)

// testHosts holds that case, port and a final dot of a host do not matter, in any of the
// router's answers.
func testHosts(t *testing.T, h *house) {
	h.start(router.Config{},
		router.Route{Host: "App.Example.com", Path: "/only", Backends: []router.Backend{h.app(0, name("app"))}},
		router.Route{Host: "empty.example.com"})
	for _, host := range []string{"app.example.com", "APP.example.COM", "app.example.com:80", "App.Example.Com.:65535"} {
		if a := h.get(host, "/only"); a.body != "app" {
			t.Errorf("%s: %d %q", host, a.status, a.body)
		}
	}
	h.want(h.get("app.example.com:8080", "/"), 404, "unknown_route",
		"404 Not Found: Requested route ('app.example.com') does not exist.\n")
	h.want(h.get("app.example.com", "/onlyX"), 404, "unknown_route",
		"404 Not Found: Requested route ('app.example.com') does not exist.\n")
	h.want(h.get("EMPTY.example.com:8080", "/any"), 503, "no_endpoints",
		"503 Service Unavailable: Requested route ('EMPTY.example.com') has no available endpoints.\n")
}

// refusing is an instance whose port nobody listens on any more.
func refusing(t *testing.T, index int) router.Backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return backend(index, addr)
}

// raw is an instance that answers each connection with the bytes given, once the head of a
// request was read, and closes it.
func raw(index int, says string) router.Backend {
	b := backend(index, "raw")
	b.Dial = func(context.Context) (net.Conn, error) {
		mine, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			if _, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
				_, _ = io.WriteString(theirs, says)
			}
		}()
		return mine, nil
	}
	return b
}

// early is an instance that answers each request when it has its head, and then takes its body.
func early(index int, says string) router.Backend {
	b := backend(index, "early")
	b.Dial = func(context.Context) (net.Conn, error) {
		mine, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			br := bufio.NewReader(theirs)
			for {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				_, _ = io.WriteString(theirs, says)
				_, _ = io.Copy(io.Discard, req.Body)
			}
		}()
		return mine, nil
	}
	return b
}

// testBroken has the backends that fail, in pairs: what did not reach the app is offered to
// another one, what reached it is not.
func testBroken(t *testing.T, h *house) {
	var served atomic.Int32
	good := h.app(9, func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		fmt.Fprint(w, "good")
	})
	var routes []router.Route
	broken := map[string]router.Backend{
		"refused": refusing(t, 0),
		"garbage": raw(1, "this is no HTTP\r\n\r\n"),
		"halves":  raw(2, "HTTP/1.1 200 OK\r\nContent-Le"),
		"status":  raw(3, "HTTP/1.1 99999 OK\r\n\r\n"),
		"length":  raw(4, "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
		"huge":    raw(5, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 2<<20)+"\r\n\r\n"),
	}
	for n, b := range broken {
		routes = append(routes, router.Route{Host: n, Backends: []router.Backend{b}},
			router.Route{Host: n + ".two", Backends: []router.Backend{b, good}})
	}
	h.start(router.Config{}, routes...)
	for n := range broken {
		h.want(h.get(n, "/"), 502, "endpoint_failure", failed)
		h.want(h.send(http.MethodPost, n, "/", strings.NewReader("body")), 502, "endpoint_failure", failed)
		served.Store(0)
		wrong := 0
		for range 4 { // each in turn
			if a := h.send(http.MethodPost, n+".two", "/", strings.NewReader("body")); a.status != 200 {
				h.want(a, 502, "endpoint_failure", failed)
				wrong++
			}
		}
		if reached := n != "refused"; (wrong > 0) != reached {
			t.Errorf("%s: %d of 4 requests failed, %d reached the other instance", n, wrong, served.Load())
		}
	}
}

// testCutOff holds that a response which breaks off is not passed on as a whole one.
func testCutOff(t *testing.T, h *house) {
	logged := make(chan router.Access, 1)
	h.start(router.Config{AccessLog: func(a router.Access) { logged <- a }},
		router.Route{Host: "length", Backends: []router.Backend{raw(0, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")}},
		router.Route{Host: "chunks", Backends: []router.Backend{raw(1, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")}})
	for _, host := range []string{"length", "chunks"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.front.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := h.front.Client().Transport.RoundTrip(req)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%s: the client sees no error, but a whole response", host)
		}
		if a := <-logged; a.Status != 200 || a.Backend.Addr != "raw" {
			t.Errorf("%s: logged %v", host, a)
		}
	}
}

// testUnread holds that a request whose body nobody reads, for the answer comes without it,
// is answered before its body has come (its end may come after that if it tells no length),
// and leaves its connection in order for the next one.
func testUnread(t *testing.T, h *house) {
	h.start(router.Config{},
		router.Route{Host: "refused", Backends: []router.Backend{refusing(t, 0)}},
		router.Route{Host: "early", Backends: []router.Backend{early(1, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")}},
		router.Route{Host: "chunked", Backends: []router.Backend{early(2, "HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n")}},
		router.Route{Host: "well", Backends: []router.Backend{h.app(3, name("well"))}})
	for host, status := range map[string]int{"refused": 502, "early": 413, "chunked": 413, "unknown": 404} {
		conn, err := net.Dial("tcp", h.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(conn)
		answer := func(want int, body string) {
			t.Helper()
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Errorf("%s: no answer: %v", host, err)
				return
			}
			text, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != want || body != "" && string(text) != body {
				t.Errorf("%s: answer is %d %q, want %d", host, res.StatusCode, text, want)
			}
		}
		for range 3 {
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\nhalf-", host)
			late := host == "chunked" || host == "unknown" // here the server takes the body first
			if !late {
				answer(status, "")
			}
			fmt.Fprint(conn, "other")
			if late {
				answer(status, "")
			}
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: well\r\n\r\n")
			answer(200, "well")
		}
		conn.Close()
	}
}
