package router

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// pool is the connections to one backend, and what is known of its health.
type pool struct {
	conf    *Config
	id      identity
	hash    uint64                  // of the instance, the same in every router
	routes  int                     // of the table in use that have it; guarded by Router.mu
	backend atomic.Pointer[Backend] // of the newest table
	active  atomic.Int64            // requests in flight
	failed  atomic.Int64            // Unix nanoseconds until which it is passed over; 0: well
	gone    atomic.Bool             // out of the table

	mu    sync.Mutex
	trans [2]*http.Transport // of HTTP/1.1, of HTTP/2
	idle  []*quickConn       // the one used last is the last
	aging *time.Timer        // runs while there are idle ones
	alien bool               // its connections are not such as quickConn needs
	spare []net.Conn         // of those, to be used first
}

func newPool(c *Config, id identity) *pool {
	// The buffers of TLS would hide what came while a connection was idle.
	return &pool{conf: c, id: id, hash: mix(textHash(cmp.Or(id.instance, id.addr))), alien: id.serverName != ""}
}

// dialError says that nothing reached the app.
type dialError struct {
	err    error
	status int // of the answer; 0: 502
}

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// transport is made at the first request: most backends of a large table never get one.
func (p *pool) transport(http2 bool) *http.Transport {
	i := 0
	if http2 {
		i = 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trans[i] == nil {
		p.trans[i] = &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx, http2) },
			DisableCompression:     true, // bodies pass as they are
			MaxIdleConnsPerHost:    p.conf.MaxRequests,
			IdleConnTimeout:        idleFor,
			ResponseHeaderTimeout:  p.conf.ResponseTimeout,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxHead,
			ReadBufferSize:         8 << 10,
			WriteBufferSize:        8 << 10,
			Protocols:              new(http.Protocols),
		}
		p.trans[i].Protocols.SetHTTP1(!http2)
		p.trans[i].Protocols.SetUnencryptedHTTP2(http2)
	}
	return p.trans[i]
}

// idleFor is how long a connection that nobody uses is kept.
const idleFor = 90 * time.Second

// maxHead is the bytes that the head of a request or response may have.
const maxHead = 1 << 20

// closeIdle closes the connections that no request uses.
func (p *pool) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.trans {
		if t != nil {
			t.CloseIdleConnections()
		}
	}
	p.age(0)
}

func (p *pool) dial(ctx context.Context, http2 bool) (net.Conn, error) {
	p.mu.Lock()
	if n := len(p.spare); n > 0 {
		conn := p.spare[n-1]
		p.spare = p.spare[:n-1]
		p.mu.Unlock()
		return conn, nil
	}
	p.mu.Unlock()
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, p.conf.DialTimeout)
	defer cancel()
	b := p.backend.Load()
	open := b.Dial
	if open == nil {
		open = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", b.Addr)
		}
	}
	conn, err := open(ctx)
	if err != nil {
		return nil, &dialError{err: fmt.Errorf("dial: %w", err)}
	}
	if b.ServerName != "" {
		return p.secure(whole, conn, b, http2)
	}
	return conn, nil
}

// take counts a request in, or says that the backend has enough.
func (p *pool) take() bool {
	if p.active.Add(1) > int64(p.conf.MaxRequests) {
		p.active.Add(-1)
		return false
	}
	return true
}

func (p *pool) release() {
	p.active.Add(-1)
	if p.gone.Load() {
		p.closeIdle()
	}
}

func (p *pool) leave() {
	p.gone.Store(true)
	p.closeIdle()
}

func (p *pool) answered() {
	if p.failed.Load() != 0 {
		p.failed.Store(0)
	}
}

func (p *pool) fail() { p.failed.Store(time.Now().Add(p.conf.SkipFailed).UnixNano()) }

func (p *pool) well() bool {
	until := p.failed.Load()
	return until == 0 || time.Now().UnixNano() >= until
}
