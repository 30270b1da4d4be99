package image

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dewpoint-go/dewpoint/staging"
)

// hub is what Docker Hub is called in references; its registry has another name.
const hub = "docker.io"

// hubless gives Docker Hub its one name.
func hubless(host string) string {
	if host == name.DefaultRegistry || host == "registry-1.docker.io" {
		return hub
	}
	return host
}

// session is one fetch.
type session struct {
	f        *Fetcher
	req      staging.ImageRequest
	say      func(format string, args ...any)
	platform v1.Platform
	ref      name.Reference
	host     string // of the registry, as in references
	name     string // host/repository:tag, without a digest
	places   []place
	logins   map[string]*login
}

// key names what is asked for, among all that a Fetcher remembers.
func (s *session) key() string { return s.name + " " + s.ref.Identifier() + " " + s.platform.String() }

// pinned is the digest of the reference, "" if it names a tag.
func (s *session) pinned() string {
	if d, ok := s.ref.(name.Digest); ok {
		return d.DigestStr()
	}
	return ""
}

func (f *Fetcher) session(r staging.ImageRequest, say func(string, ...any)) (*session, error) {
	s := &session{f: f, req: r, say: say, platform: f.platform, logins: map[string]*login{}}
	var err error
	if r.Platform != "" {
		if s.platform, err = platformOf(r.Platform); err != nil {
			return nil, err
		}
	}
	if s.ref, err = parse(r.Ref); err != nil {
		return nil, err
	}
	repo := s.ref.Context()
	s.host = hubless(repo.RegistryStr())
	s.name = s.host + "/" + repo.RepositoryStr()
	switch t := s.ref.(type) {
	case name.Tag:
		s.name += ":" + t.TagStr()
	case name.Digest:
		before, _, _ := strings.Cut(r.Ref, "@")
		if at := strings.LastIndexByte(before, ':'); at > strings.LastIndexByte(before, '/') {
			s.name += before[at:]
		}
	}
	set := f.cfg.Registries[s.host]
	for _, m := range set.Mirrors {
		u, err := mirrorURL(m)
		if err != nil {
			return nil, err
		}
		// What is said of a host holds for it as a mirror, too.
		s.places = append(s.places, place{host: u.Host, scheme: u.Scheme, prefix: strings.TrimSuffix(u.Path, "/"), lax: f.cfg.Registries[u.Host].Insecure, mirror: true})
	}
	host := repo.RegistryStr()
	if s.host == hub {
		host = name.DefaultRegistry
	}
	s.places = append(s.places, place{host: host, lax: set.Insecure})
	return s, nil
}

// parse reads a reference: the rules are docker's, and so Cloud Foundry's.
func parse(text string) (name.Reference, error) {
	bad := func(format string, args ...any) (name.Reference, error) {
		return nil, invalidf(fmt.Sprintf("%q is not an image reference: ", shown(text))+fmt.Sprintf(format, args...), "write HOST/REPOSITORY:TAG")
	}
	switch {
	case text == "":
		return nil, invalidf("the image has no name", "write HOST/REPOSITORY:TAG")
	case len(text) > 1000:
		return nil, invalidf("an image reference of more than 1000 bytes", "write HOST/REPOSITORY:TAG")
	case strings.ContainsAny(text, " \t\r\n\x00"):
		return bad("it has a space in it")
	case strings.Contains(text, "://"):
		return bad("leave out the scheme")
	}
	ref, err := name.ParseReference(text)
	if err == nil {
		return ref, nil
	}
	if path := text[strings.IndexByte(text, '/')+1:]; strings.ToLower(path) != path && !strings.Contains(text, "@") {
		return bad("repositories are written in lower case")
	}
	if _, after, ok := strings.Cut(text, "@"); ok {
		if strings.Contains(after, "/") {
			return bad("credentials do not belong into it")
		}
		return bad("behind @ stands a digest, sha256: and 64 hexadecimal digits")
	}
	return bad("it may have letters, digits and \".\", \"-\", \"_\", \"/\", a host with a port before and a tag behind")
}

// shown is a reference without what may be a password in it.
func shown(ref string) string {
	at := strings.LastIndexByte(ref, '@')
	if at < 0 || strings.HasPrefix(ref[at+1:], "sha256:") || strings.HasPrefix(ref[at+1:], "sha512:") {
		if len(ref) > 300 {
			return ref[:300] + "…"
		}
		return ref
	}
	return "…" + ref[at:]
}

// mirrorURL reads a mirror of Config.
func mirrorURL(m string) (*url.URL, error) {
	text := m
	if !strings.Contains(m, "://") {
		text = "//" + m
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q: write host:port, or a URL with http or https and without credentials", m)
	}
	return u, nil
}

func platformOf(text string) (v1.Platform, error) {
	p, err := v1.ParsePlatform(text)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return v1.Platform{}, invalidf(fmt.Sprintf("platform %q is not known", text), "write one such as linux/amd64")
	}
	if p.OS != "linux" {
		return v1.Platform{}, invalidf(fmt.Sprintf("platform %q: cells run linux", text), "write one such as linux/amd64")
	}
	return *p, nil
}

// loopback tells whether a host is this machine.
func loopback(host string) bool {
	h, _, err := net.SplitHostPort(host)
	if err != nil {
		h = strings.Trim(host, "[]")
	}
	ip := net.ParseIP(h)
	return h == "localhost" || strings.HasSuffix(h, ".localhost") || ip != nil && ip.IsLoopback()
}

// fault is why an image cannot be had, before it is known what it is called.
type fault struct {
	reason     staging.Reason
	text, cure string
	retry      bool
	err        error
}

func (e *fault) Error() string { return e.text }
func (e *fault) Unwrap() error { return e.err }

func invalidf(text, cure string) error {
	return &fault{reason: staging.ImageInvalid, text: text, cure: cure}
}

// refused makes the error of a request that was not even understood.
func refused(r staging.ImageRequest, err error) error {
	e := &staging.Error{Reason: staging.ImageInvalid, Staging: r.ID, Name: "image " + shown(r.Ref), Phase: staging.PhasePlan, Text: err.Error()}
	if f, ok := errors.AsType[*fault](err); ok {
		e.Cure = f.cure
	}
	return e
}
