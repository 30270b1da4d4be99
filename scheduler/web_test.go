package scheduler_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

// serveWeb is a web process: it listens on PORT, tells its index and version, and can be crashed.
func serveWeb(ctx context.Context, p cell.MemoryProcess) int {
	port, err := strconv.Atoi(p.Getenv("PORT"))
	if err != nil {
		return 2
	}
	l, err := p.Listen(port)
	if err != nil {
		return 3
	}
	crash := make(chan struct{}, 1)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(p.Stdout, "asked for", r.URL.Path)
		if r.URL.Path == "/crash" {
			crash <- struct{}{}
		}
		fmt.Fprint(w, p.Getenv("VERSION"), " ", r.Header.Get("X-CF-InstanceIndex"))
	})}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	fmt.Fprintln(p.Stdout, "listening")
	code := 0
	select {
	case <-ctx.Done():
	case <-crash:
		fmt.Fprintln(p.Stderr, "falling over")
		code = 17
	}
	_ = srv.Close()
	<-ended
	return code
}

// house is all parts of a running web app but staging: a cell, a scheduler, a router whose
// table follows Watch, and a log store.
type house struct {
	*testing.T
	s     *scheduler.Scheduler
	lines *logs.Memory
	front *httptest.Server
	// turn gets a token at each new table.
	turn chan struct{}
}

func openHouse(t *testing.T) *house {
	h := &house{T: t, lines: logs.NewMemory(logs.MemoryConfig{}), turn: make(chan struct{}, 1)}
	a, _ := agent(t, "c1", cell.NewMemory(cell.MemoryConfig{Programs: map[string]func(context.Context, cell.MemoryProcess) int{
		"web": serveWeb,
		"deaf": func(ctx context.Context, _ cell.MemoryProcess) int {
			<-ctx.Done()
			return 0
		},
	}}), false)
	h.s = open(t, state.NewMemory(), scheduler.Config{Cells: []cell.Cell{a}, LogSink: h.lines.Append})
	run(t, h.s)
	r := router.New(router.Config{})
	h.front = httptest.NewServer(r)
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan struct{})
	go func() {
		defer close(left)
		h.route(ctx, r)
	}()
	t.Cleanup(func() {
		cancel()
		<-left
		h.front.Close()
		r.SetTable(nil)
	})
	return h
}

// route gives each process the host of its name, and one that is wanted no more none.
func (h *house) route(ctx context.Context, r *router.Router) {
	run := map[string]lrp.Instance{}
	for e, err := range h.s.Watch(ctx, 0) {
		if !assert.NoError(h, err) {
			return
		}
		if key := lrp.RowKey(e.Instance.LRP, e.Instance.Index); e.Gone || e.Instance.State != lrp.Running {
			delete(run, key)
		} else {
			run[key] = e.Instance
		}
		var routes []router.Route
		for d := range h.s.Desired() {
			x := router.Route{Host: string(d.ID)}
			for _, i := range run {
				if i.LRP == d.ID {
					x.Backends = append(x.Backends, router.Backend{App: "app", Instance: i.GUID, Index: i.Index, Addr: i.Addresses[0].Host, Dial: i.Addresses[0].Dial})
				}
			}
			routes = append(routes, x)
		}
		r.SetTable(router.NewTable(routes))
		select {
		case h.turn <- struct{}{}:
		default:
		}
	}
}

func (h *house) await(cond func() bool) {
	for !cond() {
		<-h.turn
	}
}

func (h *house) get(host, path string, header ...string) (int, string) {
	req, err := http.NewRequestWithContext(h.Context(), http.MethodGet, h.front.URL+path, nil)
	require.NoError(h, err)
	req.Host = host
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := h.front.Client().Do(req)
	require.NoError(h, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(h, err)
	return res.StatusCode, string(text)
}

// serves awaits that exactly these answers come from a host, in turn.
func (h *house) serves(host string, want ...string) {
	h.await(func() bool {
		got := map[string]bool{}
		for range 3 * len(want) {
			code, text := h.get(host, "/")
			if code != http.StatusOK {
				return false
			}
			got[text] = true
		}
		return len(got) == len(want) && !slices.ContainsFunc(want, func(w string) bool { return !got[w] })
	})
}

func webProcess(id lrp.ID, n int, path, version string) lrp.Desired {
	return lrp.Desired{ID: id, Instances: n, Work: cell.Work{
		Spec:    cell.Spec{Memory: 64 << 20, Ports: []int{8080}},
		Process: cell.Process{Path: path, Env: []string{"VERSION=" + version}},
		Health:  &cell.Health{Type: "port", StartInterval: 5 * time.Millisecond, StartTimeout: time.Minute},
		Log:     cell.LogTag{App: "app", Source: "APP/PROC/WEB"},
	}}
}

// TestWebProcess takes a web process through its life, by HTTP: it is healthy when it
// listens, heals after a crash, is scaled, replaced by a new version, stopped and removed.
func TestWebProcess(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	ctx := t.Context()
	code, body := h.get("web-1", "/")
	assert.Equal(t, "404 404 Not Found: Requested route ('web-1') does not exist.\n", fmt.Sprint(code, " ", body))

	require.NoError(t, h.s.Apply(ctx, webProcess("web-1", 3, "web", "v1")))
	h.serves("web-1", "v1 0", "v1 1", "v1 2")

	before := instances(t, h.s, "web-1")
	h.get("web-1", "/crash", "X-CF-APP-INSTANCE", "app:1")
	h.await(func() bool {
		i := instances(t, h.s, "web-1")[1]
		return i.State == lrp.Running && i.GUID != before[1].GUID
	})
	h.serves("web-1", "v1 0", "v1 1", "v1 2")
	i := instances(t, h.s, "web-1")[1]
	assert.Equal(t, 1, i.Crashes)
	assert.Equal(t, "APP/PROC/WEB: Exited with status 17", i.LastCrash.Failure)
	assert.Contains(t, i.LastCrash.Last, "falling over")

	require.NoError(t, h.s.Apply(ctx, webProcess("web-1", 1, "web", "v1")))
	h.serves("web-1", "v1 0")
	require.NoError(t, h.s.Apply(ctx, webProcess("web-2", 2, "web", "v2"))) // a new droplet, beside the old one
	h.serves("web-2", "v2 0", "v2 1")
	h.serves("web-1", "v1 0")
	require.NoError(t, h.s.Remove(ctx, "web-1"))
	h.await(func() bool { code, _ := h.get("web-1", "/"); return code == http.StatusNotFound })
	old := instances(t, h.s, "web-2")[0].GUID
	require.NoError(t, h.s.Restart(ctx, "web-2", 0))
	h.await(func() bool {
		i := instances(t, h.s, "web-2")[0]
		return i.State == lrp.Running && i.GUID != old
	})
	h.serves("web-2", "v2 0", "v2 1")
	require.NoError(t, h.s.Apply(ctx, webProcess("web-2", 0, "web", "v2")))
	h.await(func() bool { code, _ := h.get("web-2", "/"); return code == http.StatusServiceUnavailable })
	_, body = h.get("web-2", "/")
	assert.Equal(t, "503 Service Unavailable: Requested route ('web-2') has no available endpoints.\n", body)
}

// TestWebProcessThatNeverListens crashes, with the reason that users know.
func TestWebProcessThatNeverListens(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	d := webProcess("deaf", 1, "deaf", "")
	d.Work.Health.StartTimeout = 30 * time.Millisecond
	require.NoError(t, h.s.Apply(t.Context(), d))
	h.await(func() bool {
		all := instances(t, h.s, "deaf")
		return len(all) == 1 && all[0].State == lrp.Crashed
	})
	i := instances(t, h.s, "deaf")[0]
	assert.Equal(t, 3, i.Crashes, "two are answered at once, the third by a wait")
	assert.Equal(t, lrp.FirstBackoff, i.Next.Sub(i.LastCrash.Time))
	assert.Equal(t, cell.ReasonHealth, i.LastCrash.Reason)
	assert.Contains(t, i.LastCrash.Failure, "Instance never healthy after 30ms")
}

// TestWebProcessLines follows the lines of instances while they come, and reads them again.
func TestWebProcessLines(t *testing.T) {
	t.Parallel()
	h := openHouse(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := map[string]logs.Line{}
	from := time.Now()
	require.NoError(t, h.s.Apply(ctx, webProcess("web", 2, "web", "v1")))
	h.serves("web", "v1 0", "v1 1")
	for i := range 2 {
		h.get("web", fmt.Sprint("/from-", i), "X-CF-APP-INSTANCE", fmt.Sprint("app:", i))
	}
	for l, err := range h.lines.Read(ctx, "app", 0, true) {
		require.NoError(t, err)
		if strings.HasPrefix(l.Text, "asked for /from-") {
			if seen[l.Text] = l; len(seen) == 2 {
				break
			}
		}
	}
	all := instances(t, h.s, "web")
	for i := range 2 {
		l := seen[fmt.Sprint("asked for /from-", i)]
		assert.Equal(t, "APP/PROC/WEB", l.Source)
		assert.Equal(t, i, l.Index)
		assert.Equal(t, all[i].GUID, l.Instance)
		assert.False(t, l.Stderr)
		assert.False(t, l.Time.Before(from))
		assert.Contains(t, h.lines.Tail("app", 1000), l, "recent lines have it, too")
	}
}
