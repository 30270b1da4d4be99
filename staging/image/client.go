package image

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// place is who is asked: a registry, or a mirror of it.
type place struct {
	host   string
	scheme string // "": https, or http where that is allowed
	prefix string
	lax    bool
	mirror bool
}

// mayHTTP tells whether nothing may be encrypted.
func (p place) mayHTTP() bool {
	return p.scheme == "http" || p.scheme == "" && (p.lax || loopback(p.host))
}

// request is what is asked for.
type request struct {
	method string // "": GET
	kind   string // "manifests" or "blobs"
	id     string
	accept string
	digest string // that the answer must have; "": any
	limit  int64  // bytes
}

type answer struct {
	body   []byte
	header http.Header
}

// httpError is an answer that says no.
type httpError struct {
	place  place
	what   string // "manifests", "blobs" or "token"
	login  bool   // credentials were sent
	status int
	codes  []transport.ErrorCode
	text   string // what the registry said, in one line
	after  time.Time
	asked  bool // it said when to come again
}

func (e *httpError) Error() string {
	return fmt.Sprintf("%s answered %d %s%s", e.place.host, e.status, http.StatusText(e.status), e.text)
}

// lieError is an answer whose bytes are not those that were asked for.
type lieError struct {
	place     place
	want, got string
}

func (e *lieError) Error() string {
	return fmt.Sprintf("what %s sent as %s has the digest %s", e.place.host, e.want, e.got)
}

// sizeError is an answer that is too large.
type sizeError struct {
	place place
	what  string
	limit int64
}

func (e *sizeError) Error() string {
	return fmt.Sprintf("what %s sent of %s has more than %d bytes", e.place.host, e.what, e.limit)
}

// get asks the places in their order, and those that did not have it no more.
func (s *session) get(ctx context.Context, r request) (answer, error) {
	for {
		a, err := s.try(ctx, s.places[0], r)
		if err == nil || ctx.Err() != nil || len(s.places) == 1 {
			return a, err
		}
		s.say("Mirror %s is passed over: %s", s.places[0].host, oneLine(err.Error()))
		s.places = s.places[1:]
	}
}

// try asks one place, more than once if that may help.
func (s *session) try(ctx context.Context, p place, r request) (answer, error) {
	wait := s.f.cfg.Backoff
	for n := 1; ; n++ {
		a, err := s.ask(ctx, p, r)
		if err == nil || ctx.Err() != nil || n >= s.f.cfg.Tries || !temporary(err) {
			return a, err
		}
		pause := wait
		if e, ok := errors.AsType[*httpError](err); ok && e.asked {
			if pause = e.after.Sub(s.f.now()); pause > s.f.cfg.MaxWait {
				return a, err
			}
		}
		if until, ok := ctx.Deadline(); ok && time.Until(until) <= pause {
			return a, err // what went wrong says more than that time is over
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return a, ctx.Err()
		}
		wait *= 2
	}
}

// temporary tells whether the same request may go well another time.
func temporary(err error) bool {
	if e, ok := errors.AsType[*httpError](err); ok {
		switch e.status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	for _, t := range []any{new(*lieError), new(*sizeError), new(*fault), new(*tls.CertificateVerificationError), new(*redirectError)} {
		if errors.As(err, t) {
			return false
		}
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return !e.IsNotFound
	}
	return !errors.Is(err, errLogin) && !errors.Is(err, http.ErrSchemeMismatch)
}

// ask makes one request, and with it those for a login.
func (s *session) ask(ctx context.Context, p place, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.f.cfg.Answer)
	defer cancel()
	schemes := []string{"https"}
	switch {
	case p.scheme != "":
		schemes = []string{p.scheme}
	case p.mayHTTP():
		if schemes = []string{"https", "http"}; s.f.scheme(p.host) != "" {
			schemes = []string{s.f.scheme(p.host)}
		}
	}
	var first error
	for _, scheme := range schemes {
		p.scheme = scheme
		a, err := s.exchange(ctx, p, r)
		if !reached(err) && len(schemes) > 1 {
			if ctx.Err() != nil {
				return a, ctx.Err()
			}
			if first == nil {
				first = err
			}
			continue
		}
		switch {
		case len(schemes) > 1:
			s.f.setScheme(p.host, scheme)
		case !reached(err): // what was learned may hold no more
			s.f.setScheme(p.host, "")
		}
		return a, err
	}
	return answer{}, first
}

// reached tells whether an error, or none, came from a server that speaks the scheme.
func reached(err error) bool {
	if err == nil {
		return true
	}
	if _, ok := errors.AsType[*net.OpError](err); ok && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)) {
		return false
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return false
	}
	return !errors.Is(err, http.ErrSchemeMismatch) && !errors.Is(err, io.EOF)
}

func (f *Fetcher) scheme(host string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.schemes[host]
}

func (f *Fetcher) setScheme(host, scheme string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.schemes[host] = scheme
}

// exchange is a request, and another one if the first was asked to log in.
func (s *session) exchange(ctx context.Context, p place, r request) (answer, error) {
	l := s.login(p)
	header, err := l.header(ctx, nil)
	if err != nil {
		return answer{}, err
	}
	a, challenge, err := s.send(ctx, p, r, header, l)
	if challenge == nil {
		return a, err
	}
	if header, err = l.header(ctx, challenge); err != nil {
		return answer{}, err
	}
	a, challenge, err = s.send(ctx, p, r, header, l)
	if challenge != nil {
		l.forget()
	}
	return a, err
}

// send makes one HTTP request. A challenge comes with its error.
func (s *session) send(ctx context.Context, p place, r request, authorization string, l *login) (answer, *transport.Challenge, error) {
	u := p.scheme + "://" + p.host + p.prefix + "/v2/" + s.ref.Context().RepositoryStr() + "/" + r.kind + "/" + r.id
	method := r.method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, u, nil)
	if err != nil {
		return answer{}, nil, err
	}
	req.Header.Set("User-Agent", "dewpoint")
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	client := s.f.plain
	if p.lax {
		client = s.f.lax
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized && resp.Request.URL.Host == req.URL.Host {
		return answer{}, challengeOf(resp, p), s.statusError(resp, p, r.kind, l)
	}
	if resp.StatusCode != http.StatusOK {
		return answer{}, nil, s.statusError(resp, p, r.kind, l)
	}
	if method == http.MethodHead {
		return answer{header: resp.Header}, nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, r.limit+1))
	switch {
	case err != nil:
		return answer{}, nil, fmt.Errorf("the answer of %s broke off: %w", p.host, err)
	case int64(len(body)) > r.limit:
		return answer{}, nil, &sizeError{p, r.kind, r.limit}
	}
	if r.digest != "" {
		got, err := digestOf(r.digest, body)
		if err != nil {
			return answer{}, nil, err
		}
		if got != r.digest {
			return answer{}, nil, &lieError{p, r.digest, got}
		}
	}
	return answer{body, resp.Header}, nil, nil
}

// digestOf is the digest of bytes, by the algorithm of another one.
func digestOf(like string, b []byte) (string, error) {
	h, err := v1.NewHash(like)
	if err != nil {
		return "", invalidf(fmt.Sprintf("%q is not a digest", cut(like)), "")
	}
	sum, err := v1.Hasher(h.Algorithm)
	if err != nil {
		return "", invalidf(fmt.Sprintf("digests of the kind %s are not known", cut(h.Algorithm)), "")
	}
	sum.Write(b)
	return h.Algorithm + ":" + hex.EncodeToString(sum.Sum(nil)), nil
}

// statusError reads why a registry says no.
func (s *session) statusError(resp *http.Response, p place, what string, l *login) error {
	e := &httpError{place: p, what: what, status: resp.StatusCode, login: l.known()}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what comes of it will do
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if te, ok := errors.AsType[*transport.Error](transport.CheckError(resp)); ok {
		for _, d := range te.Errors {
			e.codes = append(e.codes, d.Code)
			if d.Message != "" && e.text == "" {
				e.text = ": " + oneLine(d.Message)
			}
		}
	}
	if after := resp.Header.Get("Retry-After"); after != "" {
		if n, err := strconv.Atoi(after); err == nil && n >= 0 {
			e.after, e.asked = s.f.now().Add(time.Duration(min(n, 1e9))*time.Second), true
		} else if at, err := http.ParseTime(after); err == nil {
			e.after, e.asked = at, true
		}
	}
	return e
}

// redirectError is a redirect that is not followed.
type redirectError struct{ text string }

func (e *redirectError) Error() string { return e.text }

// checkRedirect follows a redirect that leads neither to where nothing is encrypted nor into this network, and keeps
// credentials where they belong.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	switch {
	case len(via) > 5:
		return &redirectError{"it redirects without end"}
	case from.Scheme == "https" && req.URL.Scheme != "https":
		return &redirectError{"it redirects from HTTPS to " + req.URL.Scheme + "://" + req.URL.Host}
	case req.URL.Scheme != "https" && req.URL.Scheme != "http":
		return &redirectError{"it redirects to " + req.URL.Scheme}
	}
	if req.URL.Host == from.Host {
		return nil
	}
	req.Header.Del("Authorization")
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && !loopback(from.Host) &&
		(ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()) {
		return &redirectError{"it redirects to " + req.URL.Host + ", which is an address of a private network"}
	}
	return nil
}

// oneLine makes text of others fit for an error.
func oneLine(text string) string {
	return cut(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text))
}

func cut(text string) string {
	if len(text) > 300 {
		return strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}
