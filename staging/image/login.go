package image

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// errLogin is a login that cannot be made.
var errLogin = errors.New("no login")

// tokenKey names a token: it is for a repository, and for whom.
type tokenKey struct {
	host, repository string
	auth             authn.AuthConfig
}

// login is how a session shows a place who it is.
type login struct {
	s     *session
	p     place
	asked bool // for the credentials
	auth  authn.AuthConfig
	err   error
}

// login returns that for a place; it is made once, as a helper may be a program.
func (s *session) login(p place) *login {
	key := p.scheme + p.host + p.prefix
	if s.logins[key] == nil {
		s.logins[key] = &login{s: s, p: p}
	}
	return s.logins[key]
}

// known tells whether there are credentials.
func (l *login) known() bool { return l.auth != authn.AuthConfig{} }

// credentials are those of the request for its registry, or what is configured for a host.
func (l *login) credentials(ctx context.Context) (authn.AuthConfig, error) {
	if l.asked {
		return l.auth, l.err
	}
	l.asked = true
	r := l.s.req
	if !l.p.mirror && (r.Username != "" || r.Password != "") {
		l.auth = authn.AuthConfig{Username: r.Username, Password: r.Password}
		return l.auth, nil
	}
	host := hubless(l.p.host)
	if login := l.s.f.cfg.Login; login != nil {
		user, password, err := login(ctx, host)
		if err != nil || user != "" || password != "" {
			l.auth, l.err = authn.AuthConfig{Username: user, Password: password}, err
			return l.auth, l.err
		}
	}
	if l.s.f.cfg.Docker != "" {
		l.auth, l.err = dockerLogin(ctx, l.s.f.cfg.Docker, host)
	}
	return l.auth, l.err
}

func (l *login) key() tokenKey {
	return tokenKey{l.p.host + l.p.prefix, l.s.ref.Context().RepositoryStr(), l.auth}
}

// header is the value of Authorization: without a challenge what was learned before, if anything was.
func (l *login) header(ctx context.Context, c *transport.Challenge) (string, error) {
	auth, err := l.credentials(ctx)
	if err != nil {
		return "", &fault{reason: "", text: "the credentials for " + l.p.host + " could not be had: " + oneLine(err.Error()), err: err}
	}
	f := l.s.f
	f.mu.Lock()
	have := f.tokens[l.key()]
	f.mu.Unlock()
	if c == nil {
		return have, nil
	}
	var header string
	switch strings.ToLower(c.Scheme) {
	case "basic":
		if auth.Username == "" && auth.Password == "" {
			return "", nil // it is asked once more, and says no in its words
		}
		header = "Basic " + base64.StdEncoding.EncodeToString([]byte(auth.Username+":"+auth.Password))
	case "bearer":
		if auth.RegistryToken != "" {
			header = "Bearer " + auth.RegistryToken
			break
		}
		t, err := l.token(ctx, c, auth)
		if err != nil {
			return "", err
		}
		header = "Bearer " + t
	default:
		return "", &fault{reason: "", err: errLogin, text: l.p.host + " wants a login of the kind " + oneLine(c.Scheme) + ", which is not known"}
	}
	f.mu.Lock()
	if len(f.tokens) > maxKnown {
		clear(f.tokens)
	}
	f.tokens[l.key()] = header
	f.mu.Unlock()
	return header, nil
}

// token asks the server that a challenge names.
func (l *login) token(ctx context.Context, c *transport.Challenge, auth authn.AuthConfig) (string, error) {
	reg, err := name.NewRegistry(l.p.host)
	if err != nil {
		return "", err
	}
	client := l.s.f.plain
	if l.p.lax {
		client = l.s.f.lax
	}
	scope := cmp.Or(c.Parameters["scope"], l.s.ref.Context().Scope(transport.PullScope))
	seen := &lastAnswer{next: client.Transport}
	t, err := transport.Exchange(ctx, reg, authn.FromConfig(auth), seen, []string{scope}, c)
	if err == nil {
		return cmp.Or(t.AccessToken, t.Token), nil
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		e := &httpError{place: l.p, what: "token", status: te.StatusCode, login: l.known()}
		for _, d := range te.Errors {
			e.codes = append(e.codes, d.Code)
		}
		return "", e
	}
	if seen.err != nil { // it was not reached
		return "", seen.err
	}
	// What it said may hold a secret, and so it is not told.
	return "", &fault{reason: "", err: errLogin, text: "the server that gives tokens for " + l.p.host + " did not answer as one should"}
}

// lastAnswer keeps why a server was not reached.
type lastAnswer struct {
	next http.RoundTripper
	err  error
}

func (a *lastAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.next.RoundTrip(r)
	a.err = err
	return resp, err
}

// forget has the next request log in anew.
func (l *login) forget() {
	l.s.f.mu.Lock()
	defer l.s.f.mu.Unlock()
	delete(l.s.f.tokens, l.key())
}

// challengeOf reads what login a registry wants: RFC 9110, 11.6.1. Nil: none that can be read.
func challengeOf(resp *http.Response, p place) *transport.Challenge {
	var found *transport.Challenge
	for _, h := range resp.Header.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(strings.TrimSpace(h), " ")
		c := &transport.Challenge{Scheme: scheme, Parameters: parameters(rest), Insecure: p.scheme == "http"}
		switch strings.ToLower(scheme) {
		case "basic", "bearer":
			return c
		}
		if found == nil {
			found = c
		}
	}
	return found
}

// parameters reads a="b",c=d.
func parameters(s string) map[string]string {
	all := map[string]string{}
	for s = strings.TrimLeft(s, " ,\t"); s != ""; s = strings.TrimLeft(s, " ,\t") {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		var value strings.Builder
		if rest, ok = strings.CutPrefix(rest, `"`); ok {
			for rest != "" && rest[0] != '"' {
				if rest[0] == '\\' && len(rest) > 1 {
					rest = rest[1:]
				}
				value.WriteByte(rest[0])
				rest = rest[1:]
			}
			rest = strings.TrimPrefix(rest, `"`)
		} else {
			end := strings.IndexAny(rest, ", \t")
			if end < 0 {
				end = len(rest)
			}
			value.WriteString(rest[:end])
			rest = rest[end:]
		}
		all[strings.ToLower(strings.TrimSpace(key))] = value.String()
		s = rest
	}
	return all
}
