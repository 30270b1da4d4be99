package routertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/router"
)

// window lets a writer be only so many bytes ahead of the reader at the other end: what
// stands in between can't keep a body back.
type window struct {
	mu   sync.Mutex
	cond *sync.Cond
	size int64
	sent int64
	got  int64
}

func newWindow(size int64) *window {
	w := &window{size: size}
	w.cond = sync.NewCond(&w.mu)
	return w
}

func (w *window) send(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.sent-w.got > w.size {
		w.cond.Wait()
	}
	w.sent += int64(n)
}

func (w *window) receive(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got += int64(n)
	w.cond.Broadcast()
}

// virtual is a body of zeros.
type virtual struct {
	left int64
	w    *window
}

func (v *virtual) Read(p []byte) (int, error) {
	if v.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), v.left))
	v.w.send(n)
	v.left -= int64(n)
	return n, nil
}

// drink reads a body and opens the window.
func drink(r io.Reader, w *window) (n int64, err error) {
	buf := make([]byte, 256<<10)
	for {
		k, err := r.Read(buf)
		n += int64(k)
		w.receive(k)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// testBigBodies sends a GiB (128 MB if tests are to be short) each way at the same time, of which no more than a few MB may
// be in between.
func testBigBodies(t *testing.T, h *house) {
	big := int64(1 << 30)
	if testing.Short() {
		big = 128 << 20
	}
	up, back := newWindow(16<<20), newWindow(16<<20)
	app := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		size, _ := strconv.ParseInt(r.Header.Get("X-Size"), 10, 64)
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		var wg sync.WaitGroup
		if r.Method == http.MethodPost {
			wg.Go(func() {
				if n, err := drink(r.Body, up); n != size || err != nil {
					t.Errorf("the app got %d bytes, %v", n, err)
				}
			})
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{w}, &virtual{size - 1, back}, make([]byte, 256<<10))
		wg.Wait() // when a response is over, a client may let go of the rest of its request
		_, _ = w.Write([]byte{0})
	}
	logged := make(chan router.Access, 1)
	h.start(router.Config{AccessLog: func(a router.Access) { logged <- a }}, router.Route{Host: "app", Backends: []router.Backend{h.app(0, app)}})
	for _, path := range []string{"/length", "/chunks"} {
		for _, method := range []string{http.MethodPost, http.MethodGet} {
			size := big
			if method == http.MethodGet {
				size = 64 << 20
			}
			var body io.Reader
			sent := int64(0)
			if method == http.MethodPost {
				sent = size
				body = &virtual{size, up}
			}
			req, err := http.NewRequestWithContext(t.Context(), method, h.front.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			if path == "/length" {
				req.ContentLength = sent
			}
			req.Host = "app"
			req.Header.Set("X-Size", fmt.Sprint(size))
			res, err := h.front.Client().Transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			n, err := drink(res.Body, back)
			res.Body.Close()
			if n != size || err != nil {
				t.Errorf("%s %s: the client got %d bytes, %v", method, path, n, err)
			}
			if a := <-logged; a.Sent != size || a.Received != sent {
				t.Errorf("%s %s: logged are %d bytes sent, %d received", method, path, a.Sent, a.Received)
			}
		}
	}
}

// testSlowBody has clients that stop in the middle of a body, and one that goes away.
func testSlowBody(t *testing.T, h *house) {
	logged := make(chan router.Access, 4)
	h.start(router.Config{BodyTimeout: 400 * time.Millisecond, AccessLog: func(a router.Access) { logged <- a }},
		router.Route{Host: "app", Backends: []router.Backend{h.app(0, echo)}},
		router.Route{Host: "early", Backends: []router.Backend{early(1, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")}})
	send := func(what string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", h.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: ", what)
		return conn, bufio.NewReader(conn)
	}
	var wg sync.WaitGroup
	var want, got []int
	for what, status := range map[string]int{
		"app\r\nContent-Length: 10\r\n\r\nhalf-":               408,
		"app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf-":  408,
		"app\r\nTransfer-Encoding: chunked\r\n\r\nno length\n": 400,
		"early\r\nContent-Length: 10\r\n\r\nhalf-":             413,
	} {
		want = append(want, status)
		_, br := send(what)
		wg.Go(func() {
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Errorf("%q: %v", what, err)
				return
			}
			res.Body.Close()
			if res.StatusCode != status {
				t.Errorf("%q: answer is %d, want %d", what, res.StatusCode, status)
			}
			if _, err := io.Copy(io.Discard, br); err != nil { // the connection is closed
				t.Errorf("%q: %v", what, err)
			}
		})
	}
	wg.Wait()
	for range want {
		got = append(got, (<-logged).Status)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("logged are %v, want %v", got, want)
	}
	conn, _ := send("app\r\nContent-Length: 10\r\n\r\nhalf-")
	conn.Close()
	if a := <-logged; a.Status != 499 {
		t.Errorf("a client that goes away in its body: logged is %d, want 499", a.Status)
	}
}

// testNoReader has a client that takes nothing of a big response; the app must get rid of it.
func testNoReader(t *testing.T, h *house) {
	ended := make(chan struct{}, 1)
	app := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		block := make([]byte, 1<<20)
		for {
			if _, err := w.Write(block); err != nil {
				ended <- struct{}{}
				return
			}
		}
	}
	h.start(router.Config{BodyTimeout: 50 * time.Millisecond}, router.Route{Host: "app", Backends: []router.Backend{h.app(0, app)}})
	for _, http2 := range []bool{false, true} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			ctx, cancel := context.WithCancel(t.Context())
			c, url := h.client(http2, false)
			req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(map[string]string{"POST": "body"}[method]))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "app"
			res, err := c.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			<-ended
			if _, err := io.Copy(io.Discard, res.Body); err == nil || errors.Is(err, context.Canceled) {
				t.Errorf("%s, HTTP/2 %v: the client sees a whole response: %v", method, http2, err)
			}
			res.Body.Close()
			cancel()
		}
	}
}

// testPipeline has a client that sends request after request on one connection, for small responses, and reads none. It
// must not keep the app for itself, nor its connection for ever.
func testPipeline(t *testing.T, h *house) {
	block := bytes.Repeat([]byte("x"), 8<<10)
	b := h.app(0, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/block" {
			w.Header().Set("Content-Length", strconv.Itoa(len(block)))
			_, _ = w.Write(block)
		}
	})
	h.start(router.Config{BodyTimeout: 100 * time.Millisecond, MaxRequests: 1}, router.Route{Host: "app", Backends: []router.Backend{b}})
	for _, path := range []string{"/block", "/unknown"} {
		host := "app"
		if path == "/unknown" { // the router's own answers
			host = "none"
		}
		conn, err := net.Dial("tcp", h.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		request := []byte("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		for sent := 0; err == nil; sent++ { // until the router lets go of the connection
			if sent > 10_000_000 {
				t.Fatalf("%s: the router takes requests without end", path)
			}
			_ = conn.SetWriteDeadline(time.Now().Add(patience))
			_, err = conn.Write(request)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: a client that reads nothing keeps its connection", path)
		}
		a := h.get("app", "/")
		for end := time.Now().Add(patience); a.status == http.StatusServiceUnavailable && time.Now().Before(end); { // the connection goes a moment before its place
			a = h.get("app", "/")
		}
		if a.status != 200 {
			t.Errorf("%s: another client gets %d %q", path, a.status, a.body)
		}
	}
}

// patience is for what should happen soon.
const patience = 20 * time.Second
