package router

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// forward sends the request by the library's proxy: it can do all that HTTP can.
func (x *exchange) forward(w http.ResponseWriter) {
	rc, duplex := x.rc, false
	if x.in.ContentLength != 0 && x.in.Body != nil {
		x.body = &body{from: x.in.Body, rc: rc, patience: x.router.conf.BodyTimeout}
		// An app may answer while it still reads. Where that isn't possible, the rest of the
		// body is lost as it is without a router.
		duplex = rc.EnableFullDuplex() == nil
	}
	sent := x.body
	w = x.patient(w)
	proxy := httputil.ReverseProxy{
		Rewrite: x.rewrite, Transport: x, ModifyResponse: x.modify, ErrorHandler: x.failed,
		BufferPool: &x.router.buffers, ErrorLog: discard,
	}
	proxy.ServeHTTP(w, x.in)
	if duplex && !sent.ended.Load() && !x.upgraded {
		// The body must have come to its end within the handler: a full-duplex server that
		// finds it after that can't read the next request (it panics). The answer goes first,
		// as the client may wait for it with the rest of the body.
		x.release()
		_ = rc.Flush()
		sent.wait()
		err := x.in.Body.Close()
		sent.rest()
		if (err != nil || sent.failed() != nil) && x.in.Context().Value(http.ServerContextKey) != nil {
			// What comes on this connection might be the rest of the body, not a request.
			panic(http.ErrAbortHandler)
		}
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
	pr.Out.Trailer = in.Trailer // filled when the body ends
	for k := range h {
		if c := textproto.CanonicalMIMEHeaderKey(k); c != k && reserved(c) {
			delete(h, k) // no server makes such a name, but the library would send it
		}
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For"} {
		if v, ok := in.Header[name]; ok && !namedInConnection(in.Header, name) {
			h[name] = slices.Clone(v)
		}
	}
	if v := x.forwardedFor(h["X-Forwarded-For"]); v != "" {
		x.set(h, 0, "X-Forwarded-For", v)
	}
	if h.Get("X-Forwarded-Proto") == "" {
		x.set(h, 1, "X-Forwarded-Proto", proto(in))
	}
	if h.Get("X-Request-Start") == "" {
		x.set(h, 2, "X-Request-Start", strconv.FormatInt(time.Now().UnixMilli(), 10))
	}
	x.set(h, 3, "X-Vcap-Request-Id", x.id)
}

// forwardedFor returns X-Forwarded-For with the client's address put to what it has; "" if
// that is not known.
func (x *exchange) forwardedFor(prior []string) string {
	ip, _, err := net.SplitHostPort(x.in.RemoteAddr)
	switch {
	case err != nil:
		return ""
	case len(prior) > 0:
		return joinComma(prior) + ", " + ip
	}
	return ip
}

func proto(in *http.Request) string {
	if in.TLS != nil {
		return "https"
	}
	return "http"
}

// set is Header.Set for a canonical name, with the space that the exchange has for it.
func (x *exchange) set(h http.Header, i int, name, value string) {
	x.values[i] = value
	h[name] = x.values[i : i+1 : i+1]
}

// RoundTrip offers the request to backends until one takes it.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	upgrade := req.Header.Get("Upgrade") != ""
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
			out.Trailer = req.Trailer
		}
		x.last = p.backend.Load()
		setBackend(out.Header, x.last)
		var t *touch
		unused := func() bool { return true }
		if req.Body != nil && x.body != nil {
			t = &touch{body: x.body}
			out = out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{
				WroteHeaders: func() { t.use() },
			}))
			out.Body, unused = t, t.revoke
		}
		res, err := p.transport(x.last.Protocol == "http2" && !upgrade).RoundTrip(out)
		if err == nil {
			p.answered()
			return res, nil
		}
		err = p.late(err)
		again := x.again(p, err, t == nil || x.in.GetBody != nil, unused)
		if again && t != nil && !t.revoked() {
			again = x.rewind()
		}
		if !again {
			return nil, err
		}
	}
}

// body is the body of a request, which a client may send as slowly as it likes, but not stop
// sending.
type body struct {
	from     io.Reader
	rc       *http.ResponseController
	patience time.Duration
	ended    atomic.Bool // it was read to its end
	err      atomic.Pointer[error]
}

// wait gives the client its time for the next bytes.
func (b *body) wait() {
	if b.patience > 0 {
		_ = b.rc.SetReadDeadline(time.Now().Add(b.patience)) // a writer without deadlines has none
	}
}

// rest ends that.
func (b *body) rest() {
	if b.patience > 0 {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
}

func (b *body) Read(p []byte) (int, error) {
	b.wait()
	n, err := b.from.Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.rest()
		b.ended.Store(true)
	default:
		b.err.CompareAndSwap(nil, &err)
	}
	return n, err
}

// failed returns why the client's body could not be read; nil: it could.
func (b *body) failed() error {
	if b == nil {
		return nil
	}
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

// rewind gets the body once more, for a caller of ServeHTTP that has it.
func (x *exchange) rewind() bool {
	if x.in.GetBody == nil {
		return false
	}
	from, err := x.in.GetBody()
	if err != nil {
		return false
	}
	x.body = &body{from: from, rc: x.body.rc, patience: x.body.patience}
	return true
}

// patient is the client as the router writes to it, which may take the response as slowly as
// it likes, but not stop taking it.
type patient struct {
	http.ResponseWriter
	x *exchange
}

func (x *exchange) patient(w http.ResponseWriter) http.ResponseWriter {
	if x.router.conf.BodyTimeout < 0 {
		return w
	}
	return &patient{w, x}
}

// hurry gives the client its time to take what is written from now on, all of it together.
func (x *exchange) hurry() {
	if d := x.router.conf.BodyTimeout; d >= 0 {
		_ = x.rc.SetWriteDeadline(time.Now().Add(d)) // a writer without deadlines has none
	}
}

// rest takes that away.
func (x *exchange) rest() {
	if x.router.conf.BodyTimeout >= 0 {
		_ = x.rc.SetWriteDeadline(time.Time{})
	}
}

// Unwrap lets all else reach the server's writer.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *patient) Write(b []byte) (int, error) {
	p.x.hurry()
	defer p.x.rest() // in HTTP/2 a deadline would end a response that only rests
	return p.ResponseWriter.Write(b)
}

// FlushError is what http.ResponseController calls.
func (p *patient) FlushError() error {
	p.x.hurry()
	defer p.x.rest()
	return p.x.rc.Flush()
}

// touch is the body as one attempt sees it. Either the attempt begins to use it, or it is
// revoked for the next one: a connection that failed may be read for a moment longer.
// Close does nothing: the body is the server's.
type touch struct {
	body  *body
	state atomic.Int32 // 0: untouched, 1: in use, 2: revoked
}

var errOver = errors.New("the attempt is over")

func (t *touch) use() bool {
	return t.state.CompareAndSwap(0, 1) || t.state.Load() == 1
}

func (t *touch) revoke() bool { return t.state.CompareAndSwap(0, 2) }

func (t *touch) revoked() bool { return t.state.Load() == 2 }

func (t *touch) Read(p []byte) (int, error) {
	if !t.use() {
		return 0, errOver
	}
	return t.body.Read(p)
}

func (t *touch) Close() error { return nil }
