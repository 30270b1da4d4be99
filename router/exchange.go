package router

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// exchange is one request on its way: which backends it may go to, and which it went to.
type exchange struct {
	router *Router
	view   *view
	in     *http.Request
	id     string // X-Vcap-Request-Id

	target   *target
	wish     wish
	turn     int
	tried    []*pool
	used     *pool // counted in; nil: none
	last     *Backend
	attempts int
	err      error // why no backend answered
	upgraded bool

	bodyEnded atomic.Bool // the request's body was read to its end
	values    [4]string   // of headers
	reason    string      // X-Cf-RouterError that was sent; "": none
}

var (
	errNone = errors.New("no backend is left to try")
	errFull = errors.New("all backends have as many requests as they may get")
)

func (x *exchange) serve(w http.ResponseWriter) {
	x.id = newID()
	defer x.release()
	if x.in.Method == http.MethodConnect {
		x.refuse(w, http.StatusMethodNotAllowed, "", "CONNECT is not supported")
		return
	}
	name := bareHost(x.in.Host)
	if name == "" {
		x.refuse(w, http.StatusBadRequest, "empty_host", "Request had empty Host header")
		return
	}
	x.target = x.view.table.find(name, x.in.URL.Path)
	if x.target == nil {
		x.refuse(w, http.StatusNotFound, "unknown_route", "Requested route ('"+name+"') does not exist.")
		return
	}
	if len(x.target.ids) == 0 {
		x.refuse(w, http.StatusServiceUnavailable, "no_endpoints", "Requested route ('"+name+"') has no available endpoints.")
		return
	}
	if bad := x.wish.parse(x.in.Header); bad != nil {
		x.refuse(w, http.StatusBadRequest, bad.reason, bad.text)
		return
	}
	if x.wish.forced && !slices.ContainsFunc(x.target.ids, func(id int) bool { return x.wish.fits(x.view.pools[id]) }) {
		x.refuse(w, http.StatusBadRequest, "unknown_route", fmt.Sprintf(
			"Requested instance ('%s') with guid ('%s') does not exist for route ('%s')", x.wish.index, x.wish.guid, name))
		return
	}
	x.wish.sticky(x.in, x.router.conf.StickyCookies)
	x.turn = int(x.target.turn.Add(1) % uint32(len(x.target.ids)))
	rc, duplex := http.NewResponseController(w), false
	if x.in.ContentLength != 0 {
		// An app may answer while it still reads. Where that isn't possible, the rest of the
		// body is lost as it is without a router.
		duplex = rc.EnableFullDuplex() == nil
	}
	proxy := httputil.ReverseProxy{
		Rewrite: x.rewrite, Transport: x, ModifyResponse: x.modify, ErrorHandler: x.failed,
		BufferPool: &x.router.buffers, ErrorLog: discard,
	}
	proxy.ServeHTTP(w, x.in)
	if duplex && !x.bodyEnded.Load() && !x.upgraded {
		// The body must have come to its end within the handler: a full-duplex server that
		// finds it after that can't read the next request (it panics). The answer goes first,
		// as the client may wait for it with the rest of the body.
		x.release()
		_ = rc.Flush()
		_ = x.in.Body.Close()
	}
}

// release counts the request out of the backend that has it.
func (x *exchange) release() {
	if x.used != nil {
		x.used.release()
		x.used = nil
	}
}

// rewrite adds what the app is told about the request. It runs after the headers that
// "Connection" names were taken off, so a client can't take these off.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	in, h := pr.In, pr.Out.Header
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = "backend" // each backend has a transport of its own
	// The router reads no query, so there is none that it and the app could read differently.
	pr.Out.URL.RawQuery = in.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For"} {
		if v, ok := in.Header[name]; ok && !namedInConnection(in.Header, name) {
			h[name] = slices.Clone(v)
		}
	}
	if ip, _, err := net.SplitHostPort(in.RemoteAddr); err == nil {
		if prior := h["X-Forwarded-For"]; len(prior) > 0 {
			ip = joinComma(prior) + ", " + ip
		}
		x.set(h, 0, "X-Forwarded-For", ip)
	}
	if h.Get("X-Forwarded-Proto") == "" {
		proto := "http"
		if in.TLS != nil {
			proto = "https"
		}
		x.set(h, 1, "X-Forwarded-Proto", proto)
	}
	if h.Get("X-Request-Start") == "" {
		x.set(h, 2, "X-Request-Start", strconv.FormatInt(time.Now().UnixMilli(), 10))
	}
	x.set(h, 3, "X-Vcap-Request-Id", x.id)
}

// set is Header.Set for a canonical name, with the space that the exchange has for it.
func (x *exchange) set(h http.Header, i int, name, value string) {
	x.values[i] = value
	h[name] = x.values[i : i+1 : i+1]
}

// RoundTrip offers the request to backends until one takes it. Another one is tried only
// where nothing reached the app, or where the request may be repeated without harm.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	body := req.Body
	for {
		p, err := x.pick()
		if err != nil {
			if x.err == nil {
				x.err = err
			}
			return nil, x.err
		}
		x.attempts++
		out := req
		if x.attempts > 1 {
			// The failed connection may still read the headers of the attempt before.
			out = req.Clone(req.Context())
		}
		x.last = p.backend.Load()
		setBackend(out.Header, x.last)
		var touched *touch
		if body != nil {
			touched = &touch{Reader: body, ended: &x.bodyEnded}
			out = out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{
				WroteHeaders: func() { touched.use() },
			}))
			out.Body = touched
		}
		res, err := p.transport().RoundTrip(out)
		if err == nil {
			if p.failed.Load() != 0 {
				p.failed.Store(0)
			}
			return res, nil
		}
		x.err = err
		x.release()
		var dial *dialError
		isDial := errors.As(err, &dial)
		if req.Context().Err() != nil || x.attempts >= x.router.conf.MaxAttempts {
			if isDial && req.Context().Err() == nil {
				p.fail()
			}
			return nil, err
		}
		switch {
		case isDial:
			p.fail()
			if touched != nil && !touched.revoke() {
				return nil, err
			}
			x.tried = append(x.tried, p)
		case touched != nil && touched.revoke():
			// The connection was stale and ended before the head of the request was
			// written; the same backend may be well.
		case body == nil && repeatable(req) && errors.Is(err, io.EOF):
			x.tried = append(x.tried, p)
		default:
			return nil, err
		}
	}
}

// pick chooses the backend for the next attempt and counts the request in.
func (x *exchange) pick() (*pool, error) {
	full := false
	try := func(fit func(p *pool) bool) *pool {
		n := len(x.target.ids)
		for i := range n {
			p := x.view.pools[x.target.ids[(x.turn+i)%n]]
			if slices.Contains(x.tried, p) || x.wish.forced && !x.wish.fits(p) || !fit(p) {
				continue
			}
			if p.take() {
				x.used = p
				x.turn = (x.turn + i + 1) % n
				return p
			}
			full = true
		}
		return nil
	}
	if x.wish.instance != "" && x.attempts == 0 {
		mine := func(p *pool) bool { return p.backend.Load().Instance == x.wish.instance && p.well() }
		if p := try(mine); p != nil {
			return p, nil
		}
	}
	if p := try((*pool).well); p != nil {
		return p, nil
	}
	if p := try(func(*pool) bool { return true }); p != nil { // all have failed: give them another chance
		return p, nil
	}
	if full {
		return nil, errFull
	}
	return nil, errNone
}

// repeatable tells requests that do no harm when the app gets them twice.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "":
		return true
	case http.MethodPost:
		return req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != ""
	}
	return false
}

// touch is the body as one attempt sees it. Either the attempt begins to use it, or it is
// revoked for the next one: a connection that failed may be read for a moment longer.
// Close does nothing: the body is the server's.
type touch struct {
	io.Reader
	ended *atomic.Bool // set at its end
	state atomic.Int32 // 0: untouched, 1: in use, 2: revoked
}

func (t *touch) use() bool {
	return t.state.CompareAndSwap(0, 1) || t.state.Load() == 1
}

func (t *touch) revoke() bool { return t.state.CompareAndSwap(0, 2) }

func (t *touch) Read(p []byte) (int, error) {
	if !t.use() {
		return 0, errors.New("the attempt is over")
	}
	n, err := t.Reader.Read(p)
	if err == io.EOF {
		t.ended.Store(true)
	}
	return n, err
}

func (t *touch) Close() error { return nil }

// failed answers where no backend did.
func (x *exchange) failed(w http.ResponseWriter, req *http.Request, err error) {
	name := bareHost(x.in.Host)
	switch {
	case errors.Is(err, errFull):
		x.refuse(w, http.StatusServiceUnavailable, "Connection Limit Reached", "Requested route ('"+name+"') has reached the connection limit.")
		return
	case errors.Is(context.Cause(req.Context()), context.Canceled):
		x.refuse(w, 499, "endpoint_failure ("+err.Error()+")", "Registered endpoint failed to handle the request.")
		return
	}
	x.router.log.LogAttrs(req.Context(), levelWarn, "no backend answered", errAttrs(x, err)...)
	x.refuse(w, http.StatusBadGateway, "endpoint_failure ("+err.Error()+")", "Registered endpoint failed to handle the request.")
}

// refuse sends one of the router's own responses.
func (x *exchange) refuse(w http.ResponseWriter, status int, reason, text string) {
	x.reason = reason
	h := w.Header()
	if reason != "" {
		h.Set("X-Cf-Routererror", reason)
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Vcap-Request-Id", x.id)
	phrase := http.StatusText(status)
	if status == 499 {
		phrase = "Client Closed Request"
	}
	text = fmt.Sprintf("%d %s: %s\n", status, phrase, text)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// newID returns a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var text [36]byte
	hex.Encode(text[:], b[:4])
	at := 8
	for _, part := range [][]byte{b[4:6], b[6:8], b[8:10], b[10:]} {
		text[at] = '-'
		hex.Encode(text[at+1:], part)
		at += 1 + 2*len(part)
	}
	return string(text[:])
}
