package image_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// yard is a registry on a loopback address that notes what it is asked.
type yard struct {
	t    *testing.T
	host string
	srv  *httptest.Server

	mu    sync.Mutex
	asked []string // "GET manifests/latest"
	auths []string // what came as Authorization
	// before, if set, answers in place of the registry where it returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
}

// open starts a registry in memory.
func open(t *testing.T) *yard {
	y := unstarted(t)
	y.srv.Start()
	y.host = strings.TrimPrefix(y.srv.URL, "http://")
	return y
}

func unstarted(t *testing.T) *yard {
	y := &yard{t: t}
	behind := registry.New(registry.Logger(quiet()))
	y.srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") == "dewpoint" || strings.HasPrefix(r.URL.Path, "/token") {
			y.mu.Lock()
			path := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
			y.asked = append(y.asked, r.Method+" "+strings.Join(path[max(0, len(path)-2):], "/"))
			y.auths = append(y.auths, r.Header.Get("Authorization"))
			before := y.before
			y.mu.Unlock()
			if before != nil && before(w, r) {
				return
			}
		}
		behind.ServeHTTP(w, r)
	}))
	y.srv.Config.ErrorLog = quiet()
	t.Cleanup(y.srv.Close)
	return y
}

// requests are those since the last call, with digests cut.
func (y *yard) requests() []string {
	y.mu.Lock()
	defer y.mu.Unlock()
	all := y.asked
	y.asked = nil
	for i, a := range all {
		if at := strings.Index(a, "sha256:"); at > 0 {
			all[i] = a[:at] + "DIGEST"
		}
	}
	return all
}

func (y *yard) answer(before func(w http.ResponseWriter, r *http.Request) bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.before = before
}

func (y *yard) ref(text string) name.Reference {
	r, err := name.ParseReference(y.host+"/"+text, name.Insecure)
	require.NoError(y.t, err)
	return r
}

// push puts an image there and returns its digest.
func (y *yard) push(text string, i v1.Image) string {
	require.NoError(y.t, remote.Write(y.ref(text), i))
	d, err := i.Digest()
	require.NoError(y.t, err)
	return d.String()
}

// made is an image of one small layer.
func made(t *testing.T, arch string, c v1.Config) v1.Image {
	t.Helper()
	i, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte("not even an archive"), types.DockerLayer))
	require.NoError(t, err)
	i, err = mutate.ConfigFile(i, &v1.ConfigFile{OS: "linux", Architecture: arch, Config: c, RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{{Algorithm: "sha256", Hex: strings.Repeat("a", 64)}}}})
	require.NoError(t, err)
	return i
}

// fetcher makes one that loses no time between tries.
func fetcher(t *testing.T, c image.Config) *image.Fetcher {
	t.Helper()
	if c.Platform == "" {
		c.Platform = "linux/amd64"
	}
	if c.Backoff == 0 {
		c.Backoff = time.Microsecond
	}
	f, err := image.New(c)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

// serve makes a registry that has what it is told: manifests by tag, with their type, and blobs.
func serve(y *yard, manifest, kind string, blobs ...string) {
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", kind)
			fmt.Fprint(w, manifest)
			return true
		}
		for _, b := range blobs {
			if strings.HasSuffix(r.URL.Path, sum(b)) {
				fmt.Fprint(w, b)
				return true
			}
		}
		return false
	})
}

// lines gathers what a fetch says.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) out(x logs.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, x.Text)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// failed is the *staging.Error of an error.
func failed(t *testing.T, err error) *staging.Error {
	t.Helper()
	require.Error(t, err)
	e, ok := err.(*staging.Error) //nolint:errorlint // it must be that itself
	require.True(t, ok, "%T: %v", err, err)
	return e
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}
