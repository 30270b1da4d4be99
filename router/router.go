package router

import (
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Config is how a Router works. The zero Config means Cloud Foundry's defaults.
type Config struct {
	// Logger hears of requests that no backend could answer; nil: nobody does.
	Logger *slog.Logger
	// AccessLog is called once for each request, after its end, by the request's goroutine;
	// nil: not at all.
	AccessLog func(Access)
	// DialTimeout is how long a connection to a backend may take; 0: 5 s.
	DialTimeout time.Duration
	// ResponseTimeout is how long a backend may take until the head of its response; 0: 900 s.
	// What follows, and connections that were upgraded, may take for ever.
	ResponseTimeout time.Duration
	// MaxAttempts is how many backends one request is offered to at most; 0: 3.
	MaxAttempts int
	// MaxRequests is how many requests one backend gets at the same time; 0: 500.
	MaxRequests int
	// SkipFailed is how long a backend that can't be reached is passed over while there
	// are others; 0: 30 s.
	SkipFailed time.Duration
	// StickyCookies are the cookies with which an app asks that a client's requests go to
	// the same instance; nil: JSESSIONID.
	StickyCookies []string
}

// Router is an http.Handler that sends requests to backends. Its methods may be called by
// any number of goroutines. It starts no goroutine but those of its connections, which end
// when their backend leaves the table and the requests in flight are over; so
// SetTable(nil) lets all go.
//
// The http.Server in front bounds the head of a request and how long a client may take to
// send it; CONNECT is refused.
type Router struct {
	conf    Config
	log     *slog.Logger
	buffers buffers
	now     atomic.Pointer[view]

	mu    sync.Mutex // serialises SetTable
	pools map[identity]*pool
}

// view is a table and the connections of its backends.
type view struct {
	table *Table
	pools []*pool // by the id of a backend
}

// New returns a Router that knows no routes.
func New(c Config) *Router {
	if c.DialTimeout <= 0 {
		c.DialTimeout = 5 * time.Second
	}
	if c.ResponseTimeout <= 0 {
		c.ResponseTimeout = 900 * time.Second
	}
	if c.MaxAttempts <= 0 {
		c.MaxAttempts = 3
	}
	if c.MaxRequests <= 0 {
		c.MaxRequests = 500
	}
	if c.SkipFailed <= 0 {
		c.SkipFailed = 30 * time.Second
	}
	if c.StickyCookies == nil {
		c.StickyCookies = []string{"JSESSIONID"}
	}
	r := &Router{conf: c, log: c.Logger, pools: map[identity]*pool{}}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.now.Store(&view{table: &Table{}})
	return r
}

var _ http.Handler = (*Router)(nil)

// SetTable swaps the table; nil: no routes. Requests that have begun go on with the old one.
// Connections to backends that both tables have are kept, the others are closed as soon as
// no request uses them.
func (r *Router) SetTable(t *Table) {
	if t == nil {
		t = &Table{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v := &view{table: t, pools: make([]*pool, len(t.backends))}
	kept := make(map[identity]*pool, len(t.backends))
	for i, b := range t.backends {
		id := b.identity()
		p := r.pools[id]
		if p == nil {
			p = &pool{conf: &r.conf}
		}
		p.backend.Store(b)
		v.pools[i], kept[id] = p, p
	}
	old := r.pools
	r.pools = kept
	r.now.Store(v)
	for id, p := range old {
		if kept[id] == nil {
			p.leave()
		}
	}
}

// Table returns the table in use.
func (r *Router) Table() *Table { return r.now.Load().table }

// ServeHTTP sends a request to a backend and its response back.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	x := &exchange{router: r, view: r.now.Load(), in: req}
	if r.conf.AccessLog != nil {
		rec, copied := newRecorder(w, req)
		w, x.in = rec, copied
		defer func() { r.conf.AccessLog(rec.access(x)) }()
	}
	x.serve(w)
}

// buffers keeps the buffers that bodies are copied with.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
