package router_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/router/routertest"
)

func TestMain(m *testing.M) {
	if role, app, ok := strings.Cut(os.Getenv(roleVariable), " "); ok {
		play(role, app)
	}
	goleak.VerifyTestMain(m)
}

func TestRouter(t *testing.T) {
	t.Parallel()
	routertest.Run(t, func(_ *testing.T, c router.Config) routertest.Handler { return router.New(c) })
}

// app starts an instance that says its name.
func app(t *testing.T, index int) router.Backend {
	t.Helper()
	b := newApp(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "instance ", index)
	})
	b.Instance, b.Index = fmt.Sprint("i", index), index
	return b
}

func newApp(t *testing.T, serve http.HandlerFunc) router.Backend {
	t.Helper()
	s := httptest.NewServer(serve)
	t.Cleanup(s.Close)
	return router.Backend{App: "app", Instance: "i", Addr: strings.TrimPrefix(s.URL, "http://")}
}

func front(t *testing.T, r *router.Router) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(func() {
		s.Close()
		r.SetTable(nil)
	})
	return s
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	logged := make(chan router.Access, 1)
	r := router.New(router.Config{AccessLog: func(a router.Access) { logged <- a }})
	b := app(t, 2)
	s := front(t, r)
	r.SetTable(router.NewTable([]router.Route{{Host: "app.x", Backends: []router.Backend{b}}}))
	send := func(host string) router.Access {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/a?b=c", strings.NewReader("12345"))
		require.NoError(t, err)
		req.Host = host
		req.Header.Set("Referer", "elsewhere")
		req.Header.Set("X-Forwarded-For", "9.9.9.9")
		req.Header.Set("User-Agent", "tester")
		res, err := s.Client().Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		a := <-logged
		assert.Equal(t, res.Header.Get("X-Vcap-Request-Id"), a.RequestID)
		return a
	}
	a := send("app.x")
	assert.Equal(t, int64(5), a.Received)
	assert.Equal(t, int64(10), a.Sent)
	assert.Equal(t, 1, a.Attempts)
	assert.Equal(t, "i2", a.Backend.Instance)
	line := a.String()
	for _, part := range []string{
		`app.x - [20`, `] "POST /a?b=c HTTP/1.1" 200 5 10 "elsewhere" "tester" "127.0.0.1:`, `"` + b.Addr + `" x_forwarded_for:"9.9.9.9"`,
		`x_forwarded_proto:"-"`, `app_id:"app" app_index:"2" instance_id:"i2" x_cf_routererror:"-"`,
	} {
		assert.Contains(t, line, part)
	}
	a = send("no.x")
	assert.Equal(t, 404, a.Status)
	assert.Equal(t, "unknown_route", a.RouterError)
	assert.Contains(t, a.String(), `"-" x_forwarded_for`)

	hostile := router.Access{URI: "/\n\"", UserAgent: "a\" \nb"}
	assert.NotContains(t, hostile.String(), "\n", "nobody can forge a line")
}

// TestSwapUnderLoad holds that no request is lost while the table is swapped: instances
// that leave it finish what they have.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	r := router.New(router.Config{})
	s := front(t, r)
	bs := []router.Backend{app(t, 0), app(t, 1), app(t, 2)}
	set := func(i int) {
		r.SetTable(router.NewTable([]router.Route{{Host: "app", Backends: []router.Backend{bs[i%3], bs[(i+1)%3]}}}))
	}
	set(0)
	served := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				var body io.Reader
				if i%2 == 0 {
					body = strings.NewReader("body")
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, body)
				if !assert.NoError(t, err) {
					return
				}
				req.Host = "app"
				res, err := s.Client().Do(req)
				if !assert.NoError(t, err) {
					return
				}
				text, _ := io.ReadAll(res.Body)
				res.Body.Close()
				assert.Equal(t, 200, res.StatusCode, string(text))
				served <- struct{}{}
			}
		})
	}
	go func() {
		wg.Wait()
		close(served)
	}()
	i := 0
	for range served {
		i++
		set(i)
	}
}

func TestConnectIsRefused(t *testing.T) {
	t.Parallel()
	r := router.New(router.Config{})
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(http.MethodConnect, "app:80", nil))
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
}

// TestFailedBackendGetsAnotherChance holds that a backend that could not be reached is asked
// again after a while, and at once if there is no other.
func TestFailedBackendGetsAnotherChance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := false
		dials := 0
		dial := func(context.Context) (net.Conn, error) {
			dials++
			if !up {
				return nil, errors.New("down")
			}
			mine, theirs := net.Pipe()
			go serveOnce(theirs)
			return mine, nil
		}
		r := router.New(router.Config{})
		defer r.SetTable(nil)
		r.SetTable(router.NewTable([]router.Route{{Host: "example.com", Backends: []router.Backend{{Instance: "i", Dial: dial}}}}))
		get := func() int {
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			return w.Code
		}
		assert.Equal(t, 502, get())
		assert.Equal(t, 502, get())
		assert.Equal(t, 2, dials)
		up = true
		assert.Equal(t, 200, get())

		other := router.Backend{Instance: "other", Dial: func(context.Context) (net.Conn, error) {
			mine, theirs := net.Pipe()
			go serveOnce(theirs)
			return mine, nil
		}}
		r.SetTable(router.NewTable([]router.Route{{Host: "example.com", Backends: []router.Backend{{Instance: "i2", Dial: dial}, other}}}))
		up, dials = false, 0
		for range 4 {
			assert.Equal(t, 200, get())
		}
		assert.Equal(t, 1, dials)
		up = true
		time.Sleep(31 * time.Second)
		for range 4 {
			assert.Equal(t, 200, get())
		}
		assert.Greater(t, dials, 1)
	})
}

// TestSlowDial holds that a dial that hangs ends after DialTimeout, and the next backend is asked.
func TestSlowDial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := router.Backend{Instance: "hang", Dial: func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		well := router.Backend{Instance: "well", Dial: func(context.Context) (net.Conn, error) {
			mine, theirs := net.Pipe()
			go serveOnce(theirs)
			return mine, nil
		}}
		r := router.New(router.Config{})
		defer r.SetTable(nil)
		r.SetTable(router.NewTable([]router.Route{{Host: "example.com", Backends: []router.Backend{hang, well}}}))
		start := time.Now()
		for range 4 {
			w := httptest.NewRecorder()
			r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			assert.Equal(t, 200, w.Code)
		}
		assert.Equal(t, 5*time.Second, time.Since(start), "of the fake clock")
	})
}

// TestSilentBackend holds that a backend without an answer costs ResponseTimeout.
func TestSilentBackend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := router.Backend{Instance: "silent", Dial: func(context.Context) (net.Conn, error) {
			mine, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			return mine, nil
		}}
		r := router.New(router.Config{})
		defer r.SetTable(nil)
		r.SetTable(router.NewTable([]router.Route{{Host: "example.com", Backends: []router.Backend{silent}}}))
		start := time.Now()
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		assert.Equal(t, 502, w.Code)
		assert.Equal(t, 900*time.Second, time.Since(start), "of the fake clock")
	})
}

// serveOnce answers one request and closes the connection.
func serveOnce(c net.Conn) {
	defer c.Close()
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, req.Body)
	fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}
