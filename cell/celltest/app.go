package celltest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// app is the HTTP server of the suites' program: GET of
//
//	/            200
//	/status/N    status N
//	/redirect    302 to /
//	/set/N       200, and from now on /state answers N (at first 503)
//	/state       what /set has set
//	/echo        200, and prints who asks
//	/hang        nothing, until the end
//	/drip        200, and a body that never ends, slowly
//	/flood       200, and a body that never ends
//	/head        a head that never ends
//	/garbage     no HTTP
//	/finish      prints "working", and answers "finished" only after TERM
//
// After TERM it takes no more connections, finishes what it does, and goes on.
type app struct {
	m      *machine
	state  atomic.Int64
	closed chan struct{}
}

func (m *machine) app() (code int, end bool) {
	port, err := strconv.Atoi(m.getenv("PORT"))
	if err != nil {
		fmt.Fprintln(m.stderr, "PORT:", err)
		return 1, true
	}
	l, err := m.listen(port)
	if err != nil {
		fmt.Fprintln(m.stderr, err)
		return 1, true
	}
	a := &app{m: m, closed: make(chan struct{})}
	a.state.Store(http.StatusServiceUnavailable)
	srv := &http.Server{Handler: a, ReadHeaderTimeout: patience}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l) // ends by Shutdown below
	}()
	select {
	case <-m.ctx.Done():
	case <-ended:
	}
	close(a.closed)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = srv.Shutdown(ctx)
	_ = srv.Close()
	<-ended
	return 0, false
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what, arg, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	n, _ := strconv.Atoi(arg)
	switch what {
	case "":
	case "status":
		w.WriteHeader(n)
	case "redirect":
		http.Redirect(w, r, "/", http.StatusFound)
	case "set":
		a.state.Store(int64(n))
	case "state":
		w.WriteHeader(int(a.state.Load()))
	case "echo":
		fmt.Fprintln(a.m.stdout, "asked by", r.Method, r.UserAgent(), r.Header.Get("X-Forwarded-Proto"))
	case "hang":
		a.until(r, 0, func() error { return nil })
	case "drip":
		a.until(r, time.Millisecond, func() error { _, err := w.Write([]byte("x")); w.(http.Flusher).Flush(); return err })
	case "flood":
		a.until(r, time.Nanosecond, func() error { _, err := w.Write(make([]byte, 1<<16)); return err })
	case "head", "garbage":
		a.raw(w, r, what)
	case "finish":
		fmt.Fprintln(a.m.stdout, "working")
		<-a.m.ctx.Done()
		_, _ = io.WriteString(w, "finished")
	default:
		http.NotFound(w, r)
	}
}

// until does something again and again, until it fails or the program ends; each 0: it only waits.
func (a *app) until(r *http.Request, each time.Duration, do func() error) {
	if each == 0 {
		select {
		case <-a.closed:
		case <-r.Context().Done():
		}
		return
	}
	t := time.NewTicker(each)
	defer t.Stop()
	for do() == nil {
		select {
		case <-a.closed:
			return
		case <-r.Context().Done():
			return
		case <-t.C:
		}
	}
}

func (a *app) raw(w http.ResponseWriter, r *http.Request, what string) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	if what == "garbage" {
		_, _ = io.WriteString(c, "\x15\x03\x01\x00\x02\x02\x46\r\n\r\n")
		return
	}
	if _, err = io.WriteString(c, "HTTP/1.1 200 OK\r\n"); err == nil {
		a.until(r, time.Nanosecond, func() error {
			_, err := io.WriteString(c, "X-More: "+strings.Repeat("x", 1000)+"\r\n")
			return err
		})
	}
}
