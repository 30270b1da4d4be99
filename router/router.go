package router

import (
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
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
	// BackendTLS is how apps with a ServerName are spoken to: whose certificates are trusted (RootCAs), and which one the
	// router shows (GetClientCertificate, asked for each connection). ServerName and NextProtos are set for each. Nil: those
	// whom this machine trusts, and none. Do not change it after New.
	BackendTLS *tls.Config
	// HandshakeTimeout is how long TLS with a backend may take to come about; 0: 10 s.
	HandshakeTimeout time.Duration
	// ResponseTimeout is how long a backend may take until the head of its response; 0: 900 s.
	// What follows, and connections that were upgraded, may take for ever.
	ResponseTimeout time.Duration
	// MaxAttempts is how many backends one request is offered to at most, each of them once;
	// 0: 3, less: 1.
	MaxAttempts int
	// MaxRequests is how many requests one backend gets at the same time; 0: 500.
	MaxRequests int
	// SkipFailed is how long a backend that can't be reached is passed over while there
	// are others; 0: 30 s.
	SkipFailed time.Duration
	// BodyTimeout is how long a client may send nothing while more of its request's body is
	// awaited, or take nothing of the response; 0: 900 s, negative: for ever, and what
	// deadlines the server sets are left alone. The first is answered with status 408, the
	// second breaks the response off. Upgraded connections may rest as long as they like.
	BodyTimeout time.Duration
	// Zone is where the router runs: a request is first offered to backends of the same zone,
	// if there are any; "": zones don't matter.
	Zone string
	// EmptyPool404 answers requests for a route without backends as if there were no such
	// route, with status 404 instead of 503.
	EmptyPool404 bool
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
	now     atomic.Pointer[Table]

	mu    sync.Mutex // serialises SetTable
	pools map[identity]*pool
}

// New returns a Router that knows no routes.
func New(c Config) *Router {
	if c.DialTimeout <= 0 {
		c.DialTimeout = 5 * time.Second
	}
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = 10 * time.Second
	}
	if c.ResponseTimeout <= 0 {
		c.ResponseTimeout = 900 * time.Second
	}
	switch {
	case c.MaxAttempts == 0:
		c.MaxAttempts = 3
	case c.MaxAttempts < 0:
		c.MaxAttempts = 1
	}
	if c.MaxRequests <= 0 {
		c.MaxRequests = 500
	}
	if c.SkipFailed <= 0 {
		c.SkipFailed = 30 * time.Second
	}
	if c.BodyTimeout == 0 {
		c.BodyTimeout = 900 * time.Second
	}
	if c.StickyCookies == nil {
		c.StickyCookies = []string{"JSESSIONID"}
	}
	r := &Router{conf: c, log: c.Logger, pools: map[identity]*pool{}}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.now.Store(&Table{})
	return r
}

var _ http.Handler = (*Router)(nil)

// SetTable swaps the table; nil: no routes. Requests that have begun go on with the backend
// that they have, and go by the new table where they must be offered to another one.
// Connections to backends that both tables have are kept, the others are closed as soon as
// no request uses them. It costs what a table does not share with the one before.
func (r *Router) SetTable(t *Table) {
	if t == nil {
		t = &Table{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	came, gone := diff(r.now.Load(), t)
	for _, x := range came {
		x.users.add(r.serve(x))
	}
	r.now.Store(t)
	for _, x := range gone {
		s := x.users.remove(r)
		for _, p := range s.pools {
			if p.routes--; p.routes == 0 {
				delete(r.pools, p.id)
				p.leave()
			}
		}
	}
}

// serve makes what the router needs for a route that is new.
func (r *Router) serve(x *target) *serving {
	s := &serving{router: r, options: x.balance(), path: x.path, pools: make([]*pool, len(x.backends))}
	// Routes change often; were the first backend always the first, it would get most.
	s.turn.Store(rand.Uint32())
	for i := range x.backends {
		b := &x.backends[i]
		id := b.identity()
		p := r.pools[id]
		if p == nil {
			p = newPool(&r.conf, id)
			r.pools[id] = p
		}
		p.routes++
		p.backend.Store(b)
		s.pools[i] = p
	}
	return s
}

// find returns who serves a host and path now; nil: the route is unknown.
func (r *Router) find(name, path string) *serving {
	for {
		t := r.now.Load()
		x := t.find(name, path)
		if x == nil {
			return nil
		}
		if s := x.users.find(r); s != nil {
			return s
		}
		// The table was swapped in between, and the route has no place in the new one.
	}
}

// Table returns the table in use.
func (r *Router) Table() *Table { return r.now.Load() }

// ServeHTTP sends a request to a backend and its response back.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	x := &exchange{router: r, in: req, rc: http.NewResponseController(w)}
	if r.conf.AccessLog != nil {
		rec, copied := newRecorder(w, req)
		w, x.in = rec, copied
		defer func() { r.conf.AccessLog(rec.access(x)) }()
	}
	x.rest()
	defer x.hurry() // what the server still has to send
	x.serve(w)      //nolint:contextcheck // the context is the request's, in x
}

// buffers keeps the buffers that bodies are copied with.
type buffers struct{ pool sync.Pool }

type buffer = [32 << 10]byte

func (b *buffers) get() *buffer {
	if p, ok := b.pool.Get().(*buffer); ok {
		return p
	}
	return new(buffer)
}

func (b *buffers) put(p *buffer) { b.pool.Put(p) }

// Get and Put are what the library's proxy calls.
func (b *buffers) Get() []byte { return b.get()[:] }

func (b *buffers) Put(p []byte) { b.put((*buffer)(p)) }
