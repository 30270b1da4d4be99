package image_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
)

func TestReferencesThatAreNone(t *testing.T) {
	t.Parallel()
	f := fetcher(t, image.Config{})
	for ref, want := range map[string]string{
		"":                                   "no name",
		"a b":                                "a space",
		"https://reg.example/app":            "leave out the scheme",
		"reg.example/App":                    "lower case",
		"reg.example/app:":                   "not an image reference",
		"reg.example/":                       "not an image reference",
		":tag":                               "not an image reference",
		"app@sha256:12":                      "64 hexadecimal digits",
		"app@md5:" + strings.Repeat("0", 32): "64 hexadecimal digits",
		"me:" + secret + "@reg.example/app":  "credentials do not belong",
		strings.Repeat("a", 2000):            "more than 1000 bytes",
		"app:" + strings.Repeat("t", 200):    "not an image reference",
		"reg.example/" + strings.Repeat("a", 300): "not an image reference",
		"reg.example/app:\x00":                    "a space",
		"reg example:5000/app":                    "a space",
		"reg.example:port/app":                    "not an image reference",
	} {
		_, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: ref, ID: "id"})
		e := failed(t, err)
		assert.Equal(t, staging.ImageInvalid, e.Reason, ref)
		assert.Contains(t, e.Text, want, ref)
		assert.NotEmpty(t, e.Cure, ref)
		assert.False(t, e.Retryable, ref)
		assert.Equal(t, "id", e.Staging)
		assert.NotContains(t, e.Error(), secret)
	}
	_, err := f.Fetch(t.Context(), staging.ImageRequest{Ref: "app", Platform: "windows/amd64"})
	assert.Contains(t, failed(t, err).Text, "cells run linux")
	_, err = f.Fetch(t.Context(), staging.ImageRequest{Ref: "app", Platform: "linux"})
	assert.Contains(t, failed(t, err).Text, "is not known")
	_, err = image.New(image.Config{Platform: "plan9/amd64"})
	require.Error(t, err)
}

// Cloud Foundry's rows: dockerapplifecycle, helpers/helpers_test.go.
func TestReferencesAreReadAsCloudFoundryDoes(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string]string{
		"redis":                  "docker.io/library/redis:latest",
		"b/c":                    "docker.io/b/c:latest",
		"foobar:5123/baz":        "foobar:5123/baz:latest",
		"baz/bot:test":           "docker.io/baz/bot:test",
		"docker.io/redis:7":      "docker.io/library/redis:7",
		"localhost/x":            "localhost/x:latest",
		"registry.example/a/b/c": "registry.example/a/b/c:latest",
	} {
		got, err := image.Name(ref)
		require.NoError(t, err, ref)
		assert.Equal(t, want, got)
	}
}

func TestBadManifestsAndConfigurations(t *testing.T) {
	t.Parallel()
	layer := v1.Descriptor{MediaType: types.OCILayer, Size: 3, Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("b", 64)}}
	manifest := func(config string, change func(*v1.Manifest)) string {
		d, err := v1.NewHash(sum(config))
		require.NoError(t, err)
		m := &v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{layer},
			Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: d}}
		if change != nil {
			change(m)
		}
		return asJSON(t, m)
	}
	config := func(c v1.Config) string {
		return asJSON(t, v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: c})
	}
	good := config(v1.Config{})
	ports := func(all ...string) string {
		m := map[string]struct{}{}
		for _, p := range all {
			m[p] = struct{}{}
		}
		return config(v1.Config{ExposedPorts: m})
	}
	const oci, index = string(types.OCIManifestSchema1), string(types.OCIImageIndex)
	many := func(n int) func(m *v1.Manifest) {
		return func(m *v1.Manifest) {
			for range n {
				m.Layers = append(m.Layers, layer)
			}
		}
	}
	for name, row := range map[string]struct{ manifest, kind, config, want string }{
		"garbage":                 {"{]", oci, "", "manifest is damaged"},
		"empty":                   {"", oci, "", "manifest is damaged"},
		"a page":                  {"<html>hello</html>", "text/html", "", "manifest is damaged"},
		"numbers for text":        {`{"schemaVersion":2,"mediaType":3}`, oci, "", "manifest is damaged"},
		"schema 1":                {`{"schemaVersion":1,"fsLayers":[]}`, string(types.DockerManifestSchema1Signed), "", "schema 1"},
		"schema 1 in disguise":    {`{"schemaVersion":1,"fsLayers":[{}]}`, oci, "", "schema 1"},
		"both":                    {`{"schemaVersion":2,"manifests":[{}],"layers":[{}]}`, oci, "", "and that it is a list"},
		"two types":               {manifest(good, nil), index, good, "the registry says"},
		"another kind":            {`{"schemaVersion":2,"mediaType":"application/vnd.made-up"}`, "application/json", "", "application/vnd.made-up"},
		"huge manifest":           {`{"a":"` + strings.Repeat("x", 5<<20) + `"}`, oci, "", "more than 4194304 bytes"},
		"no layers":               {manifest(good, func(m *v1.Manifest) { m.Layers = nil }), oci, good, "no layers"},
		"thousands of layers":     {manifest(good, many(3000)), oci, good, "3001 layers"},
		"127 layers":              {manifest(good, many(126)), oci, good, ""},
		"a chart":                 {manifest(good, func(m *v1.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), oci, good, "helm.config"},
		"an artifact":             {manifest("{}", func(m *v1.Manifest) { m.Config.MediaType, m.ArtifactType = types.OCIEmptyJSON, "application/x-sbom" }), oci, "{}", "application/x-sbom"},
		"an artifact with config": {manifest(good, func(m *v1.Manifest) { m.ArtifactType = "application/x-sbom" }), oci, good, "application/x-sbom"},
		"a layer of wasm":         {manifest(good, func(m *v1.Manifest) { m.Layers[0].MediaType = "application/wasm" }), oci, good, "application/wasm"},
		"foreign layer":           {manifest(good, func(m *v1.Manifest) { m.Layers[0].MediaType = types.DockerForeignLayer }), oci, good, "foreign"},
		"encrypted layer":         {manifest(good, func(m *v1.Manifest) { m.Layers[0].MediaType += "+encrypted" }), oci, good, "encrypted"},
		"zstd layer":              {manifest(good, func(m *v1.Manifest) { m.Layers[0].MediaType = types.OCILayerZStd }), oci, good, ""},
		"negative layer":          {manifest(good, func(m *v1.Manifest) { m.Layers[0].Size = -1 }), oci, good, "negative"},
		"no media type":           {manifest(good, func(m *v1.Manifest) { m.MediaType = "" }), "application/octet-stream", good, ""},
		"index of nothing":        {`{"schemaVersion":2,"manifests":[]}`, index, "", "names none"},
		"index of attestations":   {`{"schemaVersion":2,"manifests":[{"platform":{"os":"unknown","architecture":"unknown"}}]}`, index, "", "names none"},
		"a large index":           {`{"schemaVersion":2,"manifests":[` + strings.TrimSuffix(strings.Repeat("{},", 1500), ",") + `]}`, index, "", "1500 platforms"},
		"config is garbage":       {manifest("[", nil), oci, "[", "configuration is damaged"},
		"config is a lie":         {manifest(good, nil), oci, "", "not its configuration"},
		"config too large":        {manifest(strings.Repeat("x", 9<<20), nil), oci, strings.Repeat("x", 9<<20), "more than 8388608 bytes"},
		"bad digest":              {strings.Replace(manifest(good, nil), "sha256:", "sha7:", 1), oci, good, "manifest is damaged"},
		"port of letters":         {manifest(ports("http/tcp"), nil), oci, ports("http/tcp"), `port "http/tcp"`},
		"port too high":           {manifest(ports("65536"), nil), oci, ports("65536"), "65536"},
		"negative port":           {manifest(ports("-1/tcp"), nil), oci, ports("-1/tcp"), "-1/tcp"},
		"port 0":                  {manifest(ports("0"), nil), oci, ports("0"), `"0"`},
		"a zero byte":             {manifest(config(v1.Config{Cmd: []string{"a\x00b"}}), nil), oci, config(v1.Config{Cmd: []string{"a\x00b"}}), "zero byte"},
		"a large environment": {manifest(config(v1.Config{Env: []string{"A=" + strings.Repeat("x", 70000)}}), nil), oci,
			config(v1.Config{Env: []string{"A=" + strings.Repeat("x", 70000)}}), "65536 are the most"},
	} {
		y := open(t)
		serve(y, row.manifest, row.kind, row.config)
		_, err := fetcher(t, image.Config{}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1"})
		y.srv.Close()
		if row.want == "" {
			require.NoError(t, err, name)
			continue
		}
		e := failed(t, err)
		assert.Equal(t, staging.ImageInvalid, e.Reason, name)
		assert.Contains(t, e.Text, row.want, name)
		assert.False(t, e.Retryable, name)
		assert.Less(t, len(e.Error()), 2000, name)
	}
}

func TestARegistryThatLies(t *testing.T) {
	t.Parallel()
	y := open(t)
	i := made(t, "amd64", v1.Config{})
	digest := y.push("app:1", i)
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			fmt.Fprint(w, `{"os":"linux","architecture":"amd64","config":{"Cmd":["evil"]}}`)
			return true
		}
		return false
	})
	ask := func(ref string, known ...staging.Image) (staging.Image, error) {
		return fetcher(t, image.Config{}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + ref, Known: known})
	}
	_, err := ask("/app:1")
	e := failed(t, err)
	assert.Equal(t, staging.ImageInvalid, e.Reason)
	assert.Contains(t, e.Text, "has the digest "+sum(`{"os":"linux","architecture":"amd64","config":{"Cmd":["evil"]}}`))
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Docker-Content-Digest", digest)
			fmt.Fprint(w, `{"schemaVersion":2}`)
			return true
		}
		return false
	})
	_, err = ask("/app@" + digest)
	assert.Contains(t, failed(t, err).Text, "has the digest "+sum(`{"schemaVersion":2}`))
	// A digest that is not known is not believed, and HEAD without one is as good as none.
	for _, head := range []string{"sha256:" + strings.Repeat("0", 64), "", "nonsense"} {
		y.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.Header().Set("Docker-Content-Digest", head)
				return true
			}
			return false
		})
		got, err := ask("/app:1", staging.Image{Digest: digest, Platform: "linux/amd64", Cmd: []string{"old"}})
		require.NoError(t, err)
		assert.Empty(t, got.Cmd)
		assert.Equal(t, digest, got.Digest)
	}
	// The answer breaks off.
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("{"))
		return true
	})
	_, err = ask("/app:1")
	e = failed(t, err)
	assert.Equal(t, staging.RegistryUnavailable, e.Reason)
	assert.True(t, e.Retryable)
	for status, want := range map[int]string{
		http.StatusNotFound: "no such image", http.StatusForbidden: "does not let this user", http.StatusUnauthorized: "without a login",
		http.StatusInternalServerError: "answered 500", http.StatusTeapot: "answered 418",
	} {
		y.answer(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			fmt.Fprint(w, strings.Repeat("<p>", 100000))
			return true
		})
		_, err = ask("/app:1")
		e = failed(t, err)
		assert.Contains(t, e.Text, want)
		assert.Less(t, len(e.Error()), 1000)
	}
	y.answer(nil)
	_, err = ask("/other:1")
	assert.Contains(t, failed(t, err).Text, "no repository other")
	_, err = ask("/app:2")
	assert.Contains(t, failed(t, err).Text, "no such image: 2 of app is not there")
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	y, elsewhere := open(t), open(t)
	i := made(t, "amd64", v1.Config{Cmd: []string{"x"}})
	y.push("app:1", i)
	elsewhere.push("app:1", i)
	to := ""
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			at := to
			if at == "" {
				at = "http://" + elsewhere.host + r.URL.Path
			}
			http.Redirect(w, r, at, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	ask := func() (staging.Image, error) {
		return fetcher(t, image.Config{}).Fetch(t.Context(), staging.ImageRequest{Ref: y.host + "/app:1", Username: "me", Password: secret})
	}
	got, err := ask()
	require.NoError(t, err, "as registries do that keep blobs elsewhere")
	assert.Equal(t, []string{"x"}, got.Cmd)
	require.NotEmpty(t, elsewhere.auths)
	for _, a := range elsewhere.auths {
		assert.Empty(t, a, "credentials stay where they belong")
	}
	to = "http://" + y.host + "/v2/app/blobs/sha256:again"
	_, err = ask()
	e := failed(t, err)
	assert.Contains(t, e.Text, "redirects without end")
	to = "ftp://x/y"
	_, err = ask()
	assert.Contains(t, failed(t, err).Error(), "ftp")
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:`+strings.Repeat("a", 64)+`"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar"}]}`), "")
	f.Add([]byte(`{"manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`), string(types.OCIImageIndex))
	f.Add([]byte(`{"config":{"ExposedPorts":{"1/tcp":{}},"Env":["A"]}}`), "x")
	f.Fuzz(func(t *testing.T, b []byte, kind string) {
		if err := image.Digest(b, kind); err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"redis", "a:5000/b:c", "x@sha256:00", "me:pw@host/x", "//", "a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := image.Name(s)
		if err != nil {
			return
		}
		again, err := image.Name(n)
		if err != nil || again != n {
			t.Errorf("%q is %q, and that is %q, %v", s, n, again, err)
		}
	})
}

func FuzzChallenge(f *testing.F) {
	f.Add(`realm="https://x/token",service="a, \"b\"",scope=c`)
	f.Fuzz(func(t *testing.T, s string) {
		for k := range image.Parameters(s) {
			if strings.Contains(k, "=") {
				t.Errorf("key %q", k)
			}
		}
	})
}
