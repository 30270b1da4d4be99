package image_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func sum(b string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(b))) }

func TestFetchReadsWhatRunningNeeds(t *testing.T) {
	t.Parallel()
	y := open(t)
	digest := y.push("shop/cart:v1", made(t, "amd64", v1.Config{
		Entrypoint: []string{"/bin/serve"}, Cmd: []string{"--fast", "a b"}, User: "1000:1000", WorkingDir: "/srv/../srv/app",
		Env: []string{"PATH=/bin", "A=1", "broken"}, ExposedPorts: map[string]struct{}{"9090/tcp": {}, "53/udp": {}, "8080": {}},
	}))
	f := fetcher(t, image.Config{})
	var said lines
	i, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/shop/cart:v1", Out: said.out})
	require.NoError(t, err)
	assert.Equal(t, staging.Image{
		Ref: y.host + "/shop/cart:v1@" + digest, Digest: digest, Platform: "linux/amd64", Size: 19,
		Entrypoint: []string{"/bin/serve"}, Cmd: []string{"--fast", "a b"}, User: "1000:1000", WorkingDir: "/srv/app",
		Env: []string{"PATH=/bin", "A=1"}, Ports: []int{8080, 9090},
	}, i)
	assert.Equal(t, y.host+"/shop/cart@"+digest, i.Pinned())
	assert.Equal(t, "Fetched metadata of "+i.Ref, said.text())
	assert.Equal(t, []string{"GET manifests/v1", "GET blobs/DIGEST"}, y.requests(), "two requests")

	again, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/shop/cart:v1"})
	require.NoError(t, err)
	assert.Equal(t, i, again)
	assert.Equal(t, []string{"HEAD manifests/v1"}, y.requests(), "one that is known takes one")
	other := fetcher(t, image.Config{})
	again, err = other.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/shop/cart:v1", Known: []staging.Image{i}})
	require.NoError(t, err)
	assert.Equal(t, i, again)
	assert.Equal(t, []string{"HEAD manifests/v1"}, y.requests(), "also if it is the caller who knows it")

	moved := y.push("shop/cart:v1", made(t, "amd64", v1.Config{Cmd: []string{"new"}}))
	i, err = f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/shop/cart:v1"})
	require.NoError(t, err)
	assert.Equal(t, moved, i.Digest)
	y.requests()

	old, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/shop/cart@" + digest})
	require.NoError(t, err, "what a tag named before is there by its digest")
	assert.Equal(t, []string{"/bin/serve"}, old.Entrypoint)
}

func TestFetchPicksThePlatform(t *testing.T) {
	t.Parallel()
	y := open(t)
	var adds []mutate.IndexAddendum
	for _, arch := range []string{"arm64", "amd64"} {
		adds = append(adds, mutate.IndexAddendum{Add: made(t, arch, v1.Config{Cmd: []string{arch}}),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch, Variant: map[string]string{"arm64": "v8"}[arch]}}})
	}
	index := mutate.AppendManifests(empty.Index, adds...)
	require.NoError(t, remote.WriteIndex(y.ref("many:1"), index))
	whole, err := index.Digest()
	require.NoError(t, err)
	f := fetcher(t, image.Config{})
	i, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/many:1"})
	require.NoError(t, err)
	assert.Equal(t, []string{"amd64"}, i.Cmd)
	assert.Equal(t, whole.String(), i.Index)
	assert.NotEqual(t, i.Index, i.Digest)
	assert.Equal(t, []string{"GET manifests/1", "GET manifests/DIGEST", "GET blobs/DIGEST"}, y.requests())
	again, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/many:1"})
	require.NoError(t, err)
	assert.Equal(t, i, again)
	assert.Equal(t, []string{"HEAD manifests/1"}, y.requests())

	i, err = f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/many:1", Platform: "linux/arm64"})
	require.NoError(t, err, "what is known for another platform does not count")
	assert.Equal(t, []string{"arm64"}, i.Cmd)
	_, err = f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/many:1", Platform: "linux/s390x"})
	e := failed(t, err)
	assert.Equal(t, staging.ImageInvalid, e.Reason)
	assert.Contains(t, e.Text, "no image for linux/s390x: it is for linux/arm64/v8, linux/amd64")
	y.push("one:1", made(t, "arm64", v1.Config{}))
	_, err = f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/one:1"})
	assert.Contains(t, failed(t, err).Text, "no image for linux/amd64: it is for linux/arm64")
}

const secret = "Geh3im"

// basic makes a registry want a login.
func basic(y *yard) {
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "me" && password == secret {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="yard"`)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
		return true
	})
}

// tokens makes a registry want tokens, as its own server gives them.
func tokens(y *yard) {
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			user, password, ok := r.BasicAuth()
			switch {
			case !ok && !strings.Contains(r.URL.Query().Get("scope"), "private"):
				fmt.Fprint(w, `{"token":"anybody"}`)
			case user == "me" && password == secret && r.URL.Query().Get("scope") == "repository:private:pull":
				fmt.Fprint(w, `{"access_token":"mine"}`)
			default:
				w.WriteHeader(http.StatusUnauthorized)
			}
			return true
		}
		want := "Bearer anybody"
		if strings.Contains(r.URL.Path, "private") {
			want = "Bearer mine"
		}
		if r.Header.Get("Authorization") == want {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="yard, or so",scope="repository:%s:pull"`, y.host, strings.Split(r.URL.Path, "/")[2]))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

func TestLogins(t *testing.T) {
	t.Parallel()
	for kind, guard := range map[string]func(*yard){"basic": basic, "token": tokens} {
		y := open(t)
		y.push("private:1", made(t, "amd64", v1.Config{}))
		guard(y)
		var said lines
		ask := func(f *image.Fetcher, user, password string) error {
			_, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/private:1", Username: user, Password: password, Out: said.out})
			if err != nil {
				assert.NotContains(t, err.Error(), password+"!")
				assert.NotContains(t, fmt.Sprintf("%+v", err), secret)
			}
			return err
		}
		f := fetcher(t, image.Config{})
		require.NoError(t, ask(f, "me", secret), kind)
		switch kind {
		case "basic":
			assert.Equal(t, []string{"GET manifests/1", "GET manifests/1", "GET blobs/DIGEST"}, y.requests())
		case "token":
			assert.Equal(t, []string{"GET manifests/1", "GET /token", "GET manifests/1", "GET blobs/DIGEST"}, y.requests())
		}
		require.NoError(t, ask(f, "me", secret), kind)
		assert.Equal(t, []string{"HEAD manifests/1"}, y.requests(), "%s: logged in already", kind)

		e := failed(t, ask(f, "me", "wrong"))
		assert.Equal(t, staging.ImageInvalid, e.Reason, kind)
		assert.Contains(t, e.Text, "refused the credentials", kind)
		assert.False(t, e.Retryable)
		e = failed(t, ask(f, "", ""))
		assert.Equal(t, staging.ImageInvalid, e.Reason, kind)
		assert.Contains(t, e.Text, "without a login", "%s: what one has fetched is not everybody's", kind)
		assert.NotContains(t, said.text(), secret)

		host := ""
		byHost := fetcher(t, image.Config{Login: func(_ context.Context, h string) (string, string, error) {
			host = h
			return "me", secret, nil
		}})
		require.NoError(t, ask(byHost, "", ""), kind)
		assert.Equal(t, y.host, host)
	}
	y := open(t)
	y.push("public:1", made(t, "amd64", v1.Config{}))
	tokens(y)
	_, err := fetcher(t, image.Config{}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/public:1"})
	require.NoError(t, err, "a token for nobody")
	basic(y)
	_, err = fetcher(t, image.Config{Login: func(context.Context, string) (string, string, error) { return "", "", errors.New("vault is shut") }}).
		Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/public:1"})
	assert.ErrorContains(t, err, "vault is shut")
}

func TestATokenThatHasExpiredIsGotAnew(t *testing.T) {
	t.Parallel()
	y := open(t)
	y.push("app:1", made(t, "amd64", v1.Config{}))
	n := 0
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			n++
			fmt.Fprintf(w, `{"token":"t%d"}`, n)
			return true
		}
		if r.Header.Get("Authorization") == fmt.Sprintf("Bearer t%d", n) && r.Method == http.MethodGet {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, y.host))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	f := fetcher(t, image.Config{})
	for range 2 {
		_, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1"})
		require.NoError(t, err)
		n++ // what was given is of no use any more
	}
}

func TestDockersLogins(t *testing.T) { // not parallel: helpers are looked up on PATH
	y := open(t)
	y.push("private:1", made(t, "amd64", v1.Config{}))
	basic(y)
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	helper := func(name, script string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o755))
	}
	helper("good", `read host; [ "$1" = get ] && [ "$host" = "`+y.host+`" ] && echo '{"ServerURL":"x","Username":"me","Secret":"`+secret+`"}'`)
	helper("none", `echo "credentials not found in native keychain"; exit 1`)
	helper("broken", `echo '{"Secret": "`+secret+`",'`)
	auth := base64.StdEncoding.EncodeToString([]byte("me:" + secret))
	for text, want := range map[string]string{
		`{"auths":{"` + y.host + `":{"auth":"` + auth + `"}}}`:                                   "",
		`{"auths":{"https://` + y.host + `/v1/":{"username":"me","password":"` + secret + `"}}}`: "",
		`{"credHelpers":{"` + y.host + `":"good"}}`:                                              "",
		`{"credsStore":"good"}`: "",
		`{"credsStore":"none","auths":{"` + y.host + `":{"auth":"` + auth + `"}}}`: "",
		`{"credsStore":"none"}`: "without a login",
		`{}`:                    "without a login",
		`{"credHelpers":{"` + y.host + `":"broken"}}`:                                                       "printed no JSON",
		`{"credHelpers":{"` + y.host + `":"absent"}}`:                                                       "docker-credential-absent",
		`{"credHelpers":{"` + y.host + `":"../x"}}`:                                                         "has no slash",
		`{"auths":{"` + y.host + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(secret)) + `"}}}`: "not base64 of USER:PASSWORD",
		`{"auths":`: "unexpected end",
		`{"auths":{"other.example":{"auth":"` + auth + `"}}}`: "without a login",
	} {
		file := filepath.Join(t.TempDir(), "config.json")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := fetcher(t, image.Config{Docker: file}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/private:1"})
		if want == "" {
			require.NoError(t, err, text)
			continue
		}
		require.ErrorContains(t, err, want, text)
		assert.NotContains(t, err.Error(), secret)
	}
	_, err := fetcher(t, image.Config{Docker: filepath.Join(dir, "absent")}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/private:1", Username: "me", Password: secret})
	require.NoError(t, err)
}

func TestMirrors(t *testing.T) {
	t.Parallel()
	origin, empty, full, liar := open(t), open(t), open(t), open(t)
	i := made(t, "amd64", v1.Config{Cmd: []string{"x"}})
	digest := origin.push("app:1", i)
	full.push("app:1", i)
	liar.push("app:1", i)
	liar.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			fmt.Fprint(w, "{}")
			return true
		}
		return false
	})
	basic(origin)
	var said lines
	got, err := fetcher(t, image.Config{Registries: map[string]image.Registry{origin.host: {Mirrors: []string{empty.host, liar.host, "http://" + full.host + "/"}}}}).
		Fetch(t.Context(), staging.ImageRequest{Ref: origin.host + "/app:1", Username: "me", Password: secret, Out: said.out})
	require.NoError(t, err)
	assert.Equal(t, origin.host+"/app:1@"+digest, got.Ref, "it keeps its name")
	assert.Empty(t, origin.requests())
	assert.Equal(t, []string{"GET manifests/1"}, empty.requests())
	assert.Contains(t, said.text(), "Mirror "+empty.host+" is passed over")
	assert.Contains(t, said.text(), "Mirror "+liar.host+" is passed over")
	for _, m := range []*yard{empty, full, liar} {
		for _, a := range m.auths {
			assert.Empty(t, a, "credentials are the registry's")
		}
	}
	for _, bad := range []string{"", "ftp://x", "http://me:pw@x", "a b"} {
		_, err := image.New(image.Config{Registries: map[string]image.Registry{"x.example": {Mirrors: []string{bad}}}})
		require.Error(t, err, bad)
	}
	_, err = image.New(image.Config{Registries: map[string]image.Registry{"https://x": {}}})
	require.Error(t, err)
}

func TestCertificatesAndProxies(t *testing.T) {
	t.Parallel()
	y := unstarted(t)
	y.srv.StartTLS()
	y.host = strings.TrimPrefix(y.srv.URL, "https://")
	i := made(t, "amd64", v1.Config{})
	require.NoError(t, remote.Write(y.ref("app:1"), i, remote.WithTransport(y.srv.Client().Transport)))
	ask := func(c image.Config) error {
		_, err := fetcher(t, c).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1"})
		return err
	}
	e := failed(t, ask(image.Config{}))
	assert.Equal(t, staging.RegistryUnavailable, e.Reason)
	assert.Contains(t, e.Text, "is not trusted")
	assert.Contains(t, e.Cure, "image.Config.CAs")
	require.NoError(t, ask(image.Config{CAs: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: y.srv.Certificate().Raw})}))
	require.NoError(t, ask(image.Config{Registries: map[string]image.Registry{y.host: {Insecure: true}}}))
	_, err := image.New(image.Config{CAs: []byte("no certificate")})
	require.Error(t, err)

	// A registry that only the proxy can reach.
	behind := open(t)
	behind.push("app:1", i)
	through := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through++
		if r.Host != "registry.test" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		r.URL.Host, r.RequestURI = behind.host, ""
		resp, err := behind.srv.Client().Do(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	defer proxy.Close()
	_, err = fetcher(t, image.Config{HTTPProxy: proxy.URL, Registries: map[string]image.Registry{"app.test": {Mirrors: []string{"http://registry.test"}}}}).
		Fetch(t.Context(), staging.ImageRequest{Ref: "app.test/app:1"})
	require.NoError(t, err)
	assert.Equal(t, 2, through)
}

func TestRetries(t *testing.T) {
	t.Parallel()
	y := open(t)
	y.push("app:1", made(t, "amd64", v1.Config{}))
	n := 0
	limit := func(times, status int, after string) {
		n = 0
		y.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if n++; n > times {
				return false
			}
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down,\nplease"}]}`)
			return true
		})
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ask := func() error {
		_, err := fetcher(t, image.Config{Now: func() time.Time { return now }}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1"})
		return err
	}
	limit(3, http.StatusTooManyRequests, "0")
	require.NoError(t, ask())
	limit(3, http.StatusServiceUnavailable, "")
	require.NoError(t, ask())
	limit(4, http.StatusServiceUnavailable, "")
	e := failed(t, ask())
	assert.Equal(t, staging.RegistryUnavailable, e.Reason)
	assert.True(t, e.Retryable)
	assert.Equal(t, 4, n, "so many tries")
	for _, after := range []string{"3600", now.Add(time.Hour).Format(http.TimeFormat)} {
		limit(99, http.StatusTooManyRequests, after)
		e = failed(t, ask())
		assert.Equal(t, staging.RegistryUnavailable, e.Reason)
		assert.Contains(t, e.Text, "until 2026-01-02T04:04:05Z: slow down, please")
		assert.True(t, e.Retryable)
		assert.Equal(t, 1, n, "who asks for an hour is not asked again")
	}
	limit(99, http.StatusTooManyRequests, "")
	e = failed(t, ask())
	assert.Contains(t, e.Text, "so often")
	limit(99, http.StatusTeapot, "")
	failed(t, ask())
	assert.Equal(t, 1, n, "what will not change is not asked again")
}

func TestCancelledAndHanging(t *testing.T) {
	t.Parallel()
	y := open(t)
	asked, over := make(chan struct{}, 99), make(chan struct{})
	y.answer(func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-over:
		}
		return true
	})
	defer close(over)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := fetcher(t, image.Config{}).Fetch(ctx, staging.ImageRequest{Ref: y.host + "/app:1"})
	e := failed(t, err)
	assert.Equal(t, staging.Canceled, e.Reason)
	require.ErrorIs(t, err, context.Canceled)

	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = fetcher(t, image.Config{}).Fetch(ctx, staging.ImageRequest{Ref: y.host + "/app:1"})
	assert.Equal(t, staging.Timeout, failed(t, err).Reason)

	_, err = fetcher(t, image.Config{Answer: 20 * time.Millisecond, Tries: 2}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1"})
	e = failed(t, err)
	assert.Equal(t, staging.RegistryUnavailable, e.Reason)
	assert.Contains(t, e.Text, "did not answer within 20ms")
	_, err = fetcher(t, image.Config{Timeout: 20 * time.Millisecond}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1"})
	e = failed(t, err)
	assert.Equal(t, staging.RegistryUnavailable, e.Reason)
	assert.Contains(t, e.Text, "within 20ms")
	assert.True(t, e.Retryable)

	y.srv.Close()
	_, err = fetcher(t, image.Config{}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1"})
	e = failed(t, err)
	assert.Equal(t, staging.RegistryUnavailable, e.Reason)
	assert.Contains(t, e.Text, "was not reached")
	assert.Contains(t, e.Error(), "refused")
}
