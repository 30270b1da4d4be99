package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"
)

// This file is the short way of a request without a body that does no harm when it is sent
// twice: most requests are such. The library's proxy and transport can do more, but copy the
// request twice and pass it through two other goroutines. Here one goroutine writes the head
// and reads the response, which the library parses. What is in any way unusual goes by
// forward instead.

// quickRequest tells whether a request may go the short way.
func quickRequest(in *http.Request) bool {
	switch in.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
	default:
		return false
	}
	if in.ContentLength != 0 || len(in.TransferEncoding) > 0 || len(in.Trailer) > 0 {
		return false
	}
	h := in.Header
	return h["Upgrade"] == nil && h["Expect"] == nil && h["Te"] == nil
}

// quick offers the request to backends; false: nothing was sent, and forward must go on.
func (x *exchange) quick(w http.ResponseWriter) bool {
	for {
		p, err := x.pick()
		if err != nil {
			if x.err == nil {
				x.err = err
			}
			x.failed(w, x.in, x.err)
			return true
		}
		x.last = p.backend.Load()
		c, fresh := (*quickConn)(nil), false
		if x.last.Protocol != "http2" {
			c, fresh, err = p.connect(x.in.Context(), false)
		}
		if err == nil {
			if c == nil {
				x.held = p
				return false
			}
			var ok bool
			if c.head, ok = x.appendHead(c.head[:0]); !ok {
				p.put(c)
				x.held = p
				return false
			}
			var res *http.Response
			res, err = c.roundTrip(x, w) //nolint:bodyclose // reply reads it to its end or closes the connection
			if err != nil && !fresh && !c.got && !isTimeout(err) && x.in.Context().Err() == nil {
				// The backend closed the connection when the request was on its way.
				head := c.head
				c, _, err = p.connect(x.in.Context(), true)
				if err == nil && c == nil {
					x.held = p
					return false
				}
				if err == nil {
					c.head = head
					res, err = c.roundTrip(x, w) //nolint:bodyclose // as above
				}
			}
			if err == nil {
				x.attempts++
				p.answered()
				x.reply(w, res, c)
				return true
			}
		}
		x.attempts++
		if !x.again(p, err, true, func() bool { return true }) {
			x.failed(w, x.in, err)
			return true
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

var past = time.Unix(1, 0)

// roundTrip sends the head and reads that of the response. After an error the connection is
// closed.
func (c *quickConn) roundTrip(x *exchange, w http.ResponseWriter) (res *http.Response, err error) {
	c.got = false
	ctx := x.in.Context()
	_ = c.SetDeadline(time.Now().Add(x.router.conf.ResponseTimeout))
	c.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) })
	defer func() {
		if err != nil {
			c.stop()
			c.Close()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
	}()
	c.left = math.MaxInt64
	if _, err := c.Conn.Write(c.head); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	c.left = maxHead - int64(c.br.Buffered())
	for {
		if _, err := c.br.Peek(1); err != nil {
			return nil, err
		}
		res, err := http.ReadResponse(c.br, x.in)
		if err != nil {
			return nil, fmt.Errorf("read the response: %w", err)
		}
		switch {
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("the backend switches to a protocol that nobody asked for")
		case res.StatusCode == http.StatusContinue:
		case res.StatusCode < 200:
			inform(w, res)
		default:
			c.left = math.MaxInt64
			if c.br.Buffered() == 0 || int64(c.br.Buffered()) < res.ContentLength || res.ContentLength < 0 {
				_ = c.SetDeadline(time.Time{}) // the rest may take for ever
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
			}
			return res, nil
		}
	}
}

// inform passes a response on that comes before the real one.
func inform(w http.ResponseWriter, res *http.Response) {
	h := w.Header()
	kept := h.Clone()
	copyHeader(h, res.Header)
	w.WriteHeader(res.StatusCode)
	clear(h)
	for k, v := range kept {
		h[k] = v
	}
}

// smallBody is what is written at once: the client has its time for all of it together.
const smallBody = 16 << 10

// reply passes the response on and gives the connection back.
func (x *exchange) reply(w http.ResponseWriter, res *http.Response, c *quickConn) {
	whole := false
	defer func() {
		// The body of a response may end where the connection does; c.stop tells whether the
		// client is still there.
		if c.stop() && whole && !res.Close && c.br.Buffered() == 0 {
			_ = c.SetDeadline(time.Time{})
			c.pool.put(c)
			return
		}
		c.Close()
	}()
	_ = x.modify(res) // never fails here
	h := w.Header()
	copyHeader(h, res.Header)
	announced := len(res.Trailer)
	for k := range res.Trailer {
		h.Add("Trailer", k)
	}
	x.hurry()
	w.WriteHeader(res.StatusCode)
	if res.Body == http.NoBody || res.ContentLength == 0 {
		whole = true
		return
	}
	if res.ContentLength < 0 || res.ContentLength > smallBody {
		x.rest()
		w = x.patient(w)
	}
	err := x.copyBody(w, res, c.br)
	if err != nil {
		if x.in.Context().Value(http.ServerContextKey) == nil {
			return
		}
		// Only a connection that breaks off tells the client that the response did.
		panic(http.ErrAbortHandler)
	}
	whole = true
	if len(res.Trailer) == 0 {
		return
	}
	_ = http.NewResponseController(w).Flush() // with trailers the response must be in chunks
	for k, v := range res.Trailer {
		if len(res.Trailer) != announced {
			k = http.TrailerPrefix + k
		}
		h[k] = append(h[k], v...)
	}
}

// copyBody passes the body on. Of one whose length is not known, what has come is passed on
// as soon as nothing more is at hand.
func (x *exchange) copyBody(w http.ResponseWriter, res *http.Response, br *bufio.Reader) error {
	buf := x.router.buffers.get()
	defer x.router.buffers.put(buf)
	flush := func() {}
	if res.ContentLength < 0 || strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		rc := http.NewResponseController(w)
		flush = func() { _ = rc.Flush() }
		if br.Buffered() == 0 {
			flush() // the head goes ahead of a body that is still to be made
		}
	}
	for {
		n, err := res.Body.Read(buf[:])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err == nil && br.Buffered() == 0 {
				flush()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyHeader copies what is not of one connection only.
func copyHeader(to, from http.Header) {
	conn := from["Connection"]
	for k, v := range from {
		if hop(k) || len(conn) > 0 && namedInConnection(from, k) {
			continue
		}
		if had := to[k]; had != nil {
			v = append(had, v...)
		}
		to[k] = v
	}
}

// hop tells headers that are of one connection only.
func hop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// reserved tells headers that are of one connection, or the router's to set.
func reserved(name string) bool {
	switch name {
	case "Host", "Content-Length", "X-Cf-Applicationid", "X-Cf-Instanceid", "X-Cf-Instanceindex", "X-Vcap-Request-Id":
		return true
	}
	return hop(name)
}

// canonical tells a header's name that is a token in its usual form: any other might pass
// what looks for it by name.
func canonical(name string) bool {
	return name != "" && textproto.CanonicalMIMEHeaderKey(name) == name && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}
