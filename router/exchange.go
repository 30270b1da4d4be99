package router

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
)

// exchange is one request on its way: which backends it may go to, and which it went to.
type exchange struct {
	router *Router
	in     *http.Request
	rc     *http.ResponseController
	id     string // X-Vcap-Request-Id
	name   string // of the host, as the client wrote it

	to       *serving
	wish     wish
	turn     int
	tried    []*pool
	held     *pool // counted in for the next attempt; nil: none
	used     *pool // counted in; nil: none
	last     *Backend
	attempts int
	err      error // why no backend answered
	upgraded bool

	body   *body
	values [4]string // of headers
	reason string    // X-Cf-RouterError that was sent; "": none
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
	x.name = bareHost(x.in.Host)
	if x.name == "" {
		x.refuse(w, http.StatusBadRequest, "empty_host", "Request had empty Host header")
		return
	}
	x.to = x.router.find(x.name, x.in.URL.Path)
	if x.to == nil || len(x.to.pools) == 0 && x.router.conf.EmptyPool404 {
		x.refuse(w, http.StatusNotFound, "unknown_route", "Requested route ('"+x.name+"') does not exist.")
		return
	}
	if len(x.to.pools) == 0 {
		x.refuse(w, http.StatusServiceUnavailable, "no_endpoints", "Requested route ('"+x.name+"') has no available endpoints.")
		return
	}
	if bad := x.wish.parse(x.in.Header); bad != nil {
		x.refuse(w, http.StatusBadRequest, bad.reason, bad.text)
		return
	}
	if x.wish.forced && !slices.ContainsFunc(x.to.pools, x.wish.fits) {
		x.refuse(w, http.StatusBadRequest, "unknown_route", fmt.Sprintf(
			"Requested instance ('%s') with guid ('%s') does not exist for route ('%s')", x.wish.index, x.wish.guid, x.name))
		return
	}
	x.wish.sticky(x.in, x.router.conf.StickyCookies)
	x.begin()
	if !quickRequest(x.in) || !x.quick(w) {
		x.forward(w)
	}
}

// begin takes a turn in the round of the route's backends.
func (x *exchange) begin() {
	x.turn = 0
	if n := len(x.to.pools); n > 1 {
		x.turn = int(x.to.turn.Add(1) % uint32(n))
	}
}

// release counts the request out of the backend that has it.
func (x *exchange) release() {
	if x.used != nil {
		x.used.release()
		x.used = nil
	}
}

// pick chooses the backend for the next attempt and counts the request in.
func (x *exchange) pick() (*pool, error) {
	if p := x.held; p != nil {
		x.held = nil
		return p, nil
	}
	if x.attempts > 0 {
		// Backends may have come and gone in the meantime.
		now := x.router.find(x.name, x.in.URL.Path)
		if now == nil {
			return nil, errNone
		}
		if now != x.to {
			x.to = now
			x.begin()
		}
	}
	any := func(p *pool) bool {
		return !slices.Contains(x.tried, p) && (!x.wish.forced || x.wish.fits(p))
	}
	if x.attempts == 0 {
		if x.wish.instance != "" {
			mine := func(p *pool) bool { return p.id.instance == x.wish.instance && p.well() }
			if p, _ := x.take(mine); p != nil {
				return p, nil
			}
		}
		if zone := x.router.conf.Zone; zone != "" {
			near := func(p *pool) bool { return p.backend.Load().Zone == zone && any(p) && p.well() }
			if p, _ := x.take(near); p != nil {
				return p, nil
			}
		}
	}
	p, full := x.take(func(p *pool) bool { return any(p) && p.well() })
	if p == nil { // those that are left have failed: give them another chance
		var more bool
		p, more = x.take(any)
		full = full || more
	}
	switch {
	case p != nil:
		return p, nil
	case full:
		return nil, errFull
	}
	return nil, errNone
}

// take counts the request in at the backend that the route's options choose of those that fit.
func (x *exchange) take(fit func(*pool) bool) (p *pool, full bool) {
	o := &x.to.options
	c := choice{from: x.turn, by: o.LoadBalancing, fit: fit}
	if c.by == Hash {
		if v := x.in.Header.Get(o.HashHeader); v != "" {
			c.hash, c.limit = textHash(v), x.to.limit()
		} else {
			c.by = RoundRobin
		}
	}
	at, full := x.to.choose(c)
	if at < 0 && c.limit > 0 {
		c.limit = 0
		at, full = x.to.choose(c)
	}
	if at < 0 {
		return nil, full
	}
	x.used = x.to.pools[at]
	x.turn = (at + 1) % len(x.to.pools)
	return x.used, false
}

// again tells, after an attempt that failed, whether there may be another one: where nothing
// reached the app, or where the request may be repeated without harm. unused tells that
// nothing of the request was used, or makes it so.
func (x *exchange) again(p *pool, err error, repeat bool, unused func() bool) bool {
	x.err = err
	x.release()
	gone := x.in.Context().Err() != nil
	var dial *dialError
	isDial := errors.As(err, &dial)
	if isDial && !gone {
		p.fail()
	}
	if gone || x.attempts >= x.router.conf.MaxAttempts {
		return false
	}
	switch {
	case isDial:
		x.tried = append(x.tried, p)
		return unused()
	case errors.Is(err, io.EOF) && repeat && repeatable(x.in):
		x.tried = append(x.tried, p)
		return true
	}
	// The connection was stale and ended before the head of the request was written; the same
	// backend may be well.
	return x.body != nil && unused()
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

// failed answers where no backend did.
func (x *exchange) failed(w http.ResponseWriter, req *http.Request, err error) {
	const text = "Registered endpoint failed to handle the request."
	if errors.Is(err, errFull) {
		x.refuse(w, http.StatusServiceUnavailable, "Connection Limit Reached", "Requested route ('"+x.name+"') has reached the connection limit.")
		return
	}
	var big *http.MaxBytesError
	client := x.body.failed()
	var network net.Error
	if client != nil {
		w.Header().Set("Connection", "close") // nobody knows where the next request begins
	}
	switch {
	case errors.Is(client, os.ErrDeadlineExceeded):
		x.refuse(w, http.StatusRequestTimeout, "", "The body of the request did not arrive in time.")
	case errors.As(client, &big):
		x.refuse(w, http.StatusRequestEntityTooLarge, "", "The body of the request is too large.")
	case errors.Is(context.Cause(req.Context()), context.Canceled), errors.As(client, &network), errors.Is(client, io.ErrUnexpectedEOF):
		x.refuse(w, 499, "endpoint_failure ("+oneLine(err)+")", text)
	case client != nil:
		x.refuse(w, http.StatusBadRequest, "", "The body of the request is malformed.")
	default:
		x.router.log.LogAttrs(req.Context(), levelWarn, "no backend answered", errAttrs(x, err)...)
		status := http.StatusBadGateway
		if e, ok := errors.AsType[*dialError](err); ok && e.status != 0 {
			status = e.status
		}
		x.refuse(w, status, "endpoint_failure ("+oneLine(err)+")", text)
	}
}

// oneLine is an error as a header may have it.
func oneLine(err error) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, err.Error())
}

// refuse sends one of the router's own responses.
func (x *exchange) refuse(w http.ResponseWriter, status int, reason, text string) {
	x.reason = reason
	x.hurry()
	h := w.Header()
	if reason != "" {
		h.Set("X-Cf-Routererror", reason)
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Vcap-Request-Id", x.id)
	phrase := http.StatusText(status)
	if phrase == "" {
		phrase = phrases[status]
	}
	text = fmt.Sprintf("%d %s: %s\n", status, phrase, text)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// newID returns a random UUID.
func newID() string {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:], rand.Uint64())
	binary.NativeEndian.PutUint64(b[8:], rand.Uint64())
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var text [36]byte
	hex.Encode(text[:], b[:4])
	at := 8
	for i := 4; i < 10; i += 2 {
		text[at] = '-'
		hex.Encode(text[at+1:], b[i:i+2])
		at += 5
	}
	text[at] = '-'
	hex.Encode(text[at+1:], b[10:])
	return string(text[:])
}
