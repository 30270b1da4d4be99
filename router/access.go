package router

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Access is what the access log is told of one request.
type Access struct {
	Time     time.Time // when the request came
	Duration time.Duration
	// Host, Method, URI, Proto, RemoteAddr, Referer and UserAgent are as the client sent them.
	Host, Method, URI, Proto, RemoteAddr, Referer, UserAgent string
	ForwardedFor, ForwardedProto                             string  // the client's headers
	RequestID                                                string  // X-Vcap-Request-Id
	Status                                                   int     // 0: the client got none
	Received, Sent                                           int64   // bytes of the bodies
	Backend                                                  Backend // the last one that was tried; zero: none
	Attempts                                                 int
	RouterError                                              string // X-Cf-RouterError; "": the response is the app's
	Err                                                      error  // why no backend answered
}

// String is the line that Cloud Foundry's router writes about a request.
func (a Access) String() string {
	q := func(s string) string {
		if s == "" {
			return `"-"`
		}
		return fmt.Sprintf("%q", s)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s - [%s] %q %d %d %d %s %s %s %s x_forwarded_for:%s x_forwarded_proto:%s vcap_request_id:%s response_time:%.6f",
		a.Host, a.Time.UTC().Format("2006-01-02T15:04:05.000000000Z"), a.Method+" "+a.URI+" "+a.Proto, a.Status, a.Received, a.Sent,
		q(a.Referer), q(a.UserAgent), q(a.RemoteAddr), q(a.Backend.Addr), q(a.ForwardedFor), q(a.ForwardedProto), q(a.RequestID), a.Duration.Seconds())
	index := ""
	if a.Backend.App != "" {
		index = fmt.Sprint(a.Backend.Index)
	}
	fmt.Fprintf(&b, " app_id:%s app_index:%s instance_id:%s x_cf_routererror:%s",
		q(a.Backend.App), q(index), q(a.Backend.Instance), q(a.RouterError))
	return b.String()
}

// recorder counts what passes.
type recorder struct {
	http.ResponseWriter
	start  time.Time
	in     *http.Request
	body   *counter
	status int
	sent   int64
}

type counter struct {
	io.ReadCloser
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// newRecorder returns the writer and the request to serve with; the request is a copy.
func newRecorder(w http.ResponseWriter, r *http.Request) (*recorder, *http.Request) {
	rec := &recorder{ResponseWriter: w, start: time.Now(), in: r}
	if r.ContentLength != 0 && r.Body != nil {
		rec.body = &counter{ReadCloser: r.Body}
		r = r.WithContext(r.Context())
		r.Body = rec.body
	}
	return rec, r
}

// Unwrap lets flushing and taking the connection over reach the server's writer.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.sent += int64(n)
	return n, err
}

func (r *recorder) access(x *exchange) Access {
	a := Access{
		Time: r.start, Duration: time.Since(r.start),
		Host: r.in.Host, Method: r.in.Method, URI: r.in.RequestURI, Proto: r.in.Proto,
		RemoteAddr: r.in.RemoteAddr, Referer: r.in.Referer(), UserAgent: r.in.UserAgent(),
		ForwardedFor: joinComma(r.in.Header["X-Forwarded-For"]), ForwardedProto: r.in.Header.Get("X-Forwarded-Proto"),
		RequestID: x.id, Status: r.status, Sent: r.sent,
		Attempts: x.attempts, RouterError: x.reason, Err: x.err,
	}
	if a.Status == 0 && x.upgraded {
		a.Status = http.StatusSwitchingProtocols // written past us, on the bare connection
	}
	if r.body != nil {
		a.Received = r.body.n.Load()
	}
	if x.last != nil {
		a.Backend = *x.last
	}
	return a
}
