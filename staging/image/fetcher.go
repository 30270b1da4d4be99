package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/net/http/httpproxy"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

// Config says how registries are asked. The zero value asks each by its own name, without credentials and without a
// proxy. Nothing is read from the environment.
type Config struct {
	// Platform is what is picked where a request names none: "linux/amd64", "linux/arm/v7"; "": linux on this
	// machine's processor.
	Platform string `json:"platform,omitempty"`
	// Registries are settings of single registries, by their host as it stands in references: "registry.example:5000",
	// "docker.io".
	Registries map[string]Registry `json:"registries,omitempty"`
	// HTTPProxy, HTTPSProxy and NoProxy have the meaning of the variables of these names.
	HTTPProxy  string `json:"httpProxy,omitempty"`
	HTTPSProxy string `json:"httpsProxy,omitempty"`
	NoProxy    string `json:"noProxy,omitempty"`
	// CAs are certificates of authorities, in PEM, that are trusted beside the machine's.
	CAs []byte `json:"cas,omitempty"`
	// Timeout of a whole fetch (0: one minute), and of one answer (0: 15 s).
	Timeout time.Duration `json:"timeout,omitempty"`
	Answer  time.Duration `json:"answer,omitempty"`
	// Tries is how often a request is made that may go well another time; 0: 4, as in Cloud Foundry. Between tries are
	// Backoff (0: 500 ms), doubled each time, or what the registry asks for (Retry-After) if that is at most MaxWait (0: 10 s);
	// if it asks for more, the fetch fails at once and says until when.
	Tries   int           `json:"tries,omitempty"`
	Backoff time.Duration `json:"backoff,omitempty"`
	MaxWait time.Duration `json:"maxWait,omitempty"`

	// Docker, if set, is the file in which docker keeps logins, its config.json: they are used for requests without
	// credentials, with the credential helpers that it names, which are programs on PATH.
	Docker string `json:"-"`
	// Login, if set, is asked before that for the credentials of a registry; an empty user name means: none known here.
	Login func(ctx context.Context, registry string) (username, password string, err error) `json:"-"`
	// Now is the clock; nil: time.Now.
	Now func() time.Time `json:"-"`
}

// Registry is how one registry is asked.
type Registry struct {
	// Insecure allows HTTP, and HTTPS with a certificate that nobody vouches for. Registries on a loopback address may
	// always use HTTP.
	Insecure bool `json:"insecure,omitempty"`
	// Mirrors are asked before it, in order: "host:port", or a URL if there is a path. One that does not have an image is
	// passed over. Credentials of a request are the registry's and are not sent to mirrors, which may have their own by their host.
	Mirrors []string `json:"mirrors,omitempty"`
}

// Fetcher is a staging.ImageFetcher that asks registries. Its methods may be called by any number of goroutines.
type Fetcher struct {
	cfg      Config
	platform v1.Platform
	now      func() time.Time
	plain    *http.Client // checks certificates
	lax      *http.Client // does not

	mu      sync.Mutex // guards what follows
	schemes map[string]string
	tokens  map[tokenKey]string
	known   map[string]staging.Image // by what was asked for
	order   []string                 // of known, oldest first
}

var _ staging.ImageFetcher = (*Fetcher)(nil)

// maxKnown is how many images a Fetcher remembers.
const maxKnown = 1000

// New checks a Config. It starts nothing.
func New(c Config) (*Fetcher, error) {
	f := &Fetcher{cfg: c, now: c.Now, schemes: map[string]string{}, tokens: map[tokenKey]string{}, known: map[string]staging.Image{}}
	if f.now == nil {
		f.now = time.Now
	}
	f.cfg.Timeout = cmp.Or(c.Timeout, time.Minute)
	f.cfg.Answer = cmp.Or(c.Answer, 15*time.Second)
	f.cfg.Tries = cmp.Or(c.Tries, 4)
	f.cfg.Backoff = cmp.Or(c.Backoff, 500*time.Millisecond)
	f.cfg.MaxWait = cmp.Or(c.MaxWait, 10*time.Second)
	p, err := platformOf(cmp.Or(c.Platform, "linux/"+runtime.GOARCH))
	if err != nil {
		return nil, fmt.Errorf("image.New: Config.Platform: %w", err)
	}
	f.platform = p
	f.cfg.Registries = map[string]Registry{}
	for host, r := range c.Registries {
		if host == "" || strings.Contains(host, "/") {
			return nil, fmt.Errorf("image.New: Config.Registries names %q: give the host as it stands in references, without scheme and path", host)
		}
		for _, m := range r.Mirrors {
			if _, err := mirrorURL(m); err != nil {
				return nil, fmt.Errorf("image.New: mirror of %s: %w", host, err)
			}
		}
		f.cfg.Registries[hubless(host)] = r
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // those of Config alone
	}
	if len(c.CAs) > 0 && !roots.AppendCertsFromPEM(c.CAs) {
		return nil, errors.New("image.New: Config.CAs holds no certificate; give them in PEM")
	}
	proxy := (&httpproxy.Config{HTTPProxy: c.HTTPProxy, HTTPSProxy: c.HTTPSProxy, NoProxy: c.NoProxy}).ProxyFunc()
	client := func(t *tls.Config) *http.Client {
		return &http.Client{CheckRedirect: checkRedirect, Transport: &http.Transport{
			Proxy:           func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
			TLSClientConfig: t, ForceAttemptHTTP2: true,
			DisableCompression:     true, // what has a digest is taken as it is
			MaxResponseHeaderBytes: 256 << 10,
			TLSHandshakeTimeout:    f.cfg.Answer, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
		}}
	}
	f.plain = client(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	f.lax = client(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // Registry.Insecure asks for it
	return f, nil
}

// Close lets go of idle connections. The Fetcher can be used on.
func (f *Fetcher) Close() {
	f.plain.CloseIdleConnections()
	f.lax.CloseIdleConnections()
}

// errLimit is the cause by which our own limit is told from the caller's.
var errLimit = errors.New("limit of an image fetch")

// Fetch implements staging.ImageFetcher. Every error is a *staging.Error. It makes two requests for an image, one more if
// it is one of several platforms and for each token; an image that is known and still the same takes one.
func (f *Fetcher) Fetch(ctx context.Context, r staging.ImageRequest) (staging.Image, error) {
	say := func(format string, args ...any) {
		if r.Out != nil {
			r.Out(logs.Line{App: r.App, Source: "STG", Time: f.now(), Text: fmt.Sprintf(format, args...)})
		}
	}
	s, err := f.session(r, say)
	if err != nil {
		return staging.Image{}, refused(r, err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, f.cfg.Timeout, errLimit)
	defer cancel()
	i, err := s.fetch(limited)
	if err != nil {
		return staging.Image{}, f.explain(ctx, limited, s, err)
	}
	f.remember(s.key(), i)
	say("Fetched metadata of %s", i.Ref)
	return clone(i), nil
}

// remember keeps an image, and forgets the oldest where there are too many.
func (f *Fetcher) remember(key string, i staging.Image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.known[key]; !ok {
		f.order = append(f.order, key)
	}
	f.known[key] = clone(i)
	if len(f.order) > maxKnown {
		delete(f.known, f.order[0])
		f.order = slices.Delete(f.order, 0, 1)
	}
}

// candidates are images that the request may still name.
func (s *session) candidates() []staging.Image {
	s.f.mu.Lock()
	i, ok := s.f.known[s.key()]
	s.f.mu.Unlock()
	all := slices.Clone(s.req.Known)
	if ok {
		all = append(all, i)
	}
	return slices.DeleteFunc(all, func(i staging.Image) bool {
		return i.Digest == "" || i.Platform != s.platform.String()
	})
}

// fetch is Fetch after the reference was understood.
func (s *session) fetch(ctx context.Context) (staging.Image, error) {
	if known := s.candidates(); len(known) > 0 {
		digest, err := s.head(ctx)
		if err != nil && ctx.Err() != nil {
			return staging.Image{}, err
		}
		for _, i := range known {
			if err == nil && (digest == i.Digest || digest == i.Index) {
				i.Ref = s.name + "@" + i.Digest
				return i, nil
			}
		} // an answer to HEAD has no text that says what is wrong: then GET is asked
	}
	top, err := s.manifest(ctx, s.ref.Identifier(), s.pinned())
	if err != nil {
		return staging.Image{}, err
	}
	i := staging.Image{Platform: s.platform.String()}
	if top.index != nil {
		child, err := s.pick(top)
		if err != nil {
			return i, err
		}
		i.Index = top.digest
		if top, err = s.manifest(ctx, child.Digest.String(), child.Digest.String()); err != nil {
			return i, err
		}
		if top.index != nil {
			return i, invalidf("it is a list of platforms that names another list", "")
		}
	}
	if err := checkManifest(top.image); err != nil {
		return i, err
	}
	raw, err := s.get(ctx, request{kind: "blobs", id: top.image.Config.Digest.String(), digest: top.image.Config.Digest.String(), limit: maxConfig})
	if err != nil {
		return i, err
	}
	i.Digest = top.digest
	for _, l := range top.image.Layers {
		i.Size += l.Size
	}
	if err := s.readConfig(raw.body, &i); err != nil {
		return i, err
	}
	i.Ref = s.name + "@" + i.Digest
	return i, nil
}

// Login gives the user name and password that the Config knows for a registry, for those who fetch an image's layers; "":
// none. A login that is a token and no password cannot be given so.
func (f *Fetcher) Login(ctx context.Context, registry string) (username, password string, err error) {
	l := &login{s: &session{f: f}, p: place{host: registry}}
	a, err := l.credentials(ctx)
	if err != nil {
		return "", "", fmt.Errorf("the credentials for %s could not be had: %w", registry, err)
	}
	return a.Username, a.Password, nil
}
