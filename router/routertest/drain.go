package routertest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/router"
)

// testDrain takes instances out of the table under steady load: what they have they finish,
// nothing new goes to them, and no request is lost, also when they stop right after it.
func testDrain(t *testing.T, h *house) {
	const instances = 6
	entered, leave := make(chan struct{}), make(chan struct{})
	var out [instances]atomic.Bool // no longer in the table
	var backends []router.Backend
	var stop []func()
	for i := range instances {
		b, end := h.appThatStops(i, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				entered <- struct{}{}
				<-leave
			} else if out[i].Load() {
				w.Header().Set("X-Late", "1")
			}
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "instance %d got %d bytes", i, n)
		})
		backends, stop = append(backends, b), append(stop, end)
	}
	h.start(router.Config{}, router.Route{Host: "app", Backends: backends})

	var load sync.WaitGroup
	done := make(chan struct{})
	var late atomic.Int64
	var served [8]atomic.Int64
	// pass returns when every request that has begun is over.
	pass := func() {
		var from [len(served)]int64
		for i := range served {
			from[i] = served[i].Load()
		}
		for i := range served {
			for served[i].Load() < from[i]+2 && !t.Failed() {
				h.get("app", "/")
			}
		}
	}
	for i := range served {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				method, body := http.MethodGet, []byte(nil)
				if (n+i)%2 == 0 {
					method, body = http.MethodPost, make([]byte, 1000)
				}
				a, err := h.try(method, "app", "/", bytes.NewReader(body))
				if err != nil || a.status != 200 {
					t.Errorf("a request was lost: %v %d %s", err, a.status, a.body)
					return
				}
				if a.header.Get("X-Late") != "" {
					late.Add(1)
				}
				served[i].Add(1)
			}
		})
	}
	for i := range instances - 1 {
		slow := make(chan answer)
		go func() { slow <- h.get("app", "/slow", "X-CF-APP-INSTANCE", fmt.Sprint("app:", i)) }()
		<-entered
		h.h.SetTable(router.NewTable([]router.Route{{Host: "app", Backends: backends[i+1:]}}))
		pass()
		out[i].Store(true)
		pass()
		h.want(h.get("app", "/", "X-CF-APP-INSTANCE", fmt.Sprint("app:", i)), 400, "unknown_route", fmt.Sprintf(
			"400 Bad Request: Requested instance ('%d') with guid ('app') does not exist for route ('app')\n", i))
		leave <- struct{}{}
		if a := <-slow; a.status != 200 {
			t.Errorf("the request that instance %d had when it left: %d %s", i, a.status, a.body)
		}
		stop[i]()
	}
	close(done)
	load.Wait()
	if late.Load() > 0 {
		t.Errorf("%d requests came to instances that had left", late.Load())
	}
}

// testUsedAtSwap holds that a connection which is in use when its backend leaves is closed
// when the request is over.
func testUsedAtSwap(t *testing.T, h *house) {
	entered, leave, closed := make(chan struct{}), make(chan struct{}), make(chan struct{}, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		entered <- struct{}{}
		<-leave
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	b := backend(0, strings.TrimPrefix(s.URL, "http://"))
	h.start(router.Config{})
	for _, body := range []string{"", "body"} {
		h.h.SetTable(router.NewTable([]router.Route{{Host: "app", Backends: []router.Backend{b}}}))
		done := make(chan answer)
		method := map[string]string{"": http.MethodGet, "body": http.MethodPost}[body]
		go func() { done <- h.send(method, "app", "/", strings.NewReader(body)) }()
		<-entered
		h.h.SetTable(nil)
		leave <- struct{}{}
		if a := <-done; a.status != 200 {
			t.Errorf("%s: answer is %d %q", method, a.status, a.body)
		}
		select {
		case <-closed:
		case <-time.After(30 * time.Second):
			t.Errorf("%s: the connection stays open", method)
		}
	}
}
