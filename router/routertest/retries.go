package routertest

import (
	"bytes"
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

// replayable lets every body be read again, as code that calls a router itself can do.
func replayable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Replayable") != "" {
			data, _ := io.ReadAll(r.Body)
			get := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
			r.GetBody = get
			r.Body, _ = get()
		}
		next.ServeHTTP(w, r)
	})
}

// testRetryTable has one backend that closes the connection and one that works, and says
// which requests all get an answer.
func testRetryTable(t *testing.T, h *house) {
	closes := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
	h.wrap = replayable
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{h.app(0, closes), h.app(1, echo)}})
	type row struct {
		method, body, key string
		retry             bool
	}
	var rows []row
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE"} {
		rows = append(rows, row{method, "", "", true}, row{method, "replayable", "", true}, row{method, "once", "", false})
	}
	for _, key := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		rows = append(rows, row{"POST", "", key, true}, row{"POST", "replayable", key, true}, row{"POST", "once", key, false},
			row{"PUT", "", key, false}, row{"DELETE", "", key, false}, row{"PATCH", "replayable", key, false})
	}
	for _, body := range []string{"", "replayable", "once"} {
		rows = append(rows, row{"POST", body, "", false}, row{"PUT", body, "", false}, row{"DELETE", body, "", false})
	}
	for _, c := range rows {
		header := []string{}
		if c.key != "" {
			header = append(header, c.key, "k")
		}
		if c.body == "replayable" {
			header = append(header, "X-Replayable", "1")
		}
		lost := 0
		for range 4 { // each backend in its turn
			var body io.Reader
			if c.body != "" {
				body = strings.NewReader(c.body)
			}
			a := h.send(c.method, "app", "/", body, header...)
			switch {
			case a.status == 502:
				lost++
			case a.status != 200 || c.method != "HEAD" && a.body != c.body:
				t.Errorf("%+v: answer is %d %q", c, a.status, a.body)
			}
		}
		if (lost == 0) != c.retry {
			t.Errorf("%+v: %d of 4 requests failed", c, lost)
		}
	}
}

// busy is a backend that least-connection comes to last: it holds one request until let go.
func (h *house) busy(index int) (b router.Backend, hold, letGo func()) {
	entered, leave := make(chan struct{}), make(chan struct{})
	done := make(chan answer)
	b = h.app(index, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			entered <- struct{}{}
			<-leave
		}
		fmt.Fprint(w, index)
	})
	hold = func() {
		go func() { done <- h.get("app", "/hold", "X-CF-APP-INSTANCE", fmt.Sprint("app:", index)) }()
		<-entered
	}
	letGo = func() {
		leave <- struct{}{}
		if a := <-done; a.status != 200 {
			h.t.Errorf("the request that was held: %d %q", a.status, a.body)
		}
	}
	return b, hold, letGo
}

func testAttempts(t *testing.T, h *house) {
	for _, c := range []struct {
		name           string
		max, backends  int // of these one works, if last is set
		last           bool
		status, reach  int
		attempts, fail int
	}{
		{"4 of 5 fail, 4 attempts", 4, 5, true, 502, 0, 4, 4},
		{"4 of 5 fail, 10 attempts", 10, 5, true, 200, 1, 5, 4},
		{"all fail, 10 attempts", 10, 5, false, 502, 0, 5, 5},
		{"default", 0, 5, true, 502, 0, 3, 3},
		{"less than one", -1, 5, true, 502, 0, 1, 1},
		{"one", 1, 1, true, 200, 1, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &house{t: t, open: h.open}
			var dials atomic.Int32
			backends := []router.Backend{}
			for len(backends) < c.backends-1 {
				backends = append(backends, down(len(backends), &dials))
			}
			hold, letGo := func() {}, func() {}
			last := down(c.backends-1, &dials)
			if c.last {
				last, hold, letGo = h.busy(c.backends - 1)
			}
			logged := make(chan router.Access, 2)
			h.start(router.Config{MaxAttempts: c.max, AccessLog: func(a router.Access) { logged <- a }}, router.Route{
				Host: "app", Backends: append(backends, last), Options: router.Options{LoadBalancing: router.LeastConnection},
			})
			hold()
			if a := h.get("app", "/"); a.status != c.status {
				t.Errorf("status is %d, want %d", a.status, c.status)
			}
			if a := <-logged; a.Attempts != c.attempts {
				t.Errorf("%d attempts, want %d", a.Attempts, c.attempts)
			}
			if n := int(dials.Load()); n != c.fail {
				t.Errorf("%d backends that fail were tried, want %d", n, c.fail)
			}
			letGo()
		})
	}
	t.Run("what reached the app", func(t *testing.T) {
		h := &house{t: t, open: h.open}
		logged := make(chan router.Access, 1)
		garbage := "this is no HTTP\r\n\r\n"
		h.start(router.Config{MaxAttempts: 10, AccessLog: func(a router.Access) { logged <- a }}, router.Route{Host: "app",
			Backends: []router.Backend{raw(0, garbage), raw(1, garbage), raw(2, garbage)}})
		h.want(h.get("app", "/"), 502, "endpoint_failure", failed)
		if a := <-logged; a.Attempts != 1 {
			t.Errorf("%d attempts, want 1", a.Attempts)
		}
	})
}

// testComesMeanwhile has a backend that fails while another one comes, and one that fails
// when its route goes.
func testComesMeanwhile(t *testing.T, h *house) {
	dialled, fail := make(chan struct{}), make(chan struct{})
	slow := backend(0, "slow")
	slow.Dial = func(context.Context) (net.Conn, error) {
		dialled <- struct{}{}
		<-fail
		return nil, errors.New("nobody there")
	}
	h.start(router.Config{}, router.Route{Host: "app", Backends: []router.Backend{slow}})
	for _, c := range []struct {
		now    []router.Route
		status int
	}{
		{[]router.Route{{Host: "app", Backends: []router.Backend{slow, h.app(1, echo)}}}, 200},
		{nil, 502},
	} {
		for _, body := range []string{"", "body"} {
			h.h.SetTable(router.NewTable([]router.Route{{Host: "app", Backends: []router.Backend{slow}}}))
			done := make(chan answer)
			go func() { done <- h.send(http.MethodPost, "app", "/", strings.NewReader(body)) }()
			<-dialled
			h.h.SetTable(router.NewTable(c.now))
			fail <- struct{}{}
			if a := <-done; a.status != c.status || a.status == 200 && a.body != body {
				t.Errorf("answer is %d %q, want %d", a.status, a.body, c.status)
			}
		}
	}
}
