package router

import (
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
	backend atomic.Pointer[Backend] // of the newest table
	active  atomic.Int64            // requests in flight
	failed  atomic.Int64            // Unix nanoseconds until which it is passed over; 0: well
	gone    atomic.Bool             // out of the table

	once  sync.Once
	trans *http.Transport
}

// dialError says that nothing reached the app.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// transport is made at the first request: most backends of a large table never get one.
func (p *pool) transport() *http.Transport {
	p.once.Do(func() {
		p.trans = &http.Transport{
			DialContext:            p.dial,
			DisableCompression:     true, // bodies pass as they are
			MaxIdleConnsPerHost:    p.conf.MaxRequests,
			IdleConnTimeout:        90 * time.Second,
			ResponseHeaderTimeout:  p.conf.ResponseTimeout,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: 1 << 20,
			ReadBufferSize:         8 << 10,
			WriteBufferSize:        8 << 10,
		}
	})
	return p.trans
}

func (p *pool) dial(ctx context.Context, _, _ string) (net.Conn, error) {
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
		return nil, &dialError{fmt.Errorf("dial: %w", err)}
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
		p.transport().CloseIdleConnections()
	}
}

func (p *pool) leave() {
	p.gone.Store(true)
	p.transport().CloseIdleConnections()
}

func (p *pool) fail() { p.failed.Store(time.Now().Add(p.conf.SkipFailed).UnixNano()) }

func (p *pool) well() bool {
	until := p.failed.Load()
	return until == 0 || time.Now().UnixNano() >= until
}
