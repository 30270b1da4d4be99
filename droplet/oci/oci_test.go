package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/dewpoint-go/dewpoint/droplet"
	"github.com/dewpoint-go/dewpoint/droplet/oci"
)

var programs string // holds dewpoint-lifecycle, and app, a program that shows its surroundings

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "oci-test-")
		if err != nil {
			log.Fatal(err)
		}
		defer os.RemoveAll(dir)
		programs = dir
		for name, pkg := range map[string]string{"dewpoint-lifecycle": "github.com/dewpoint-go/dewpoint/lifecycle/cmd/dewpoint-lifecycle", "app": "./testdata/app"} {
			cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s", "-o", filepath.Join(dir, name), pkg)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				log.Fatalf("%v: %s", err, out)
			}
		}
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			log.Print(err)
			code = 1
		}
		return code
	}())
}

func client(t testing.TB) *oci.Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	c, err := oci.New(oci.Config{Launcher: filepath.Join(programs, "dewpoint-lifecycle"), Dir: t.TempDir(), Transport: tr})
	require.NoError(t, err)
	return c
}

// files writes a tree; a name that ends in a slash is a folder, a text that begins with -> a link.
func files(t testing.TB, tree map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range tree {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		target, link := strings.CutPrefix(text, "->")
		switch {
		case strings.HasSuffix(name, "/"):
			require.NoError(t, os.MkdirAll(p, 0o755))
		case link:
			require.NoError(t, os.Symlink(target, p))
		default:
			require.NoError(t, os.WriteFile(p, []byte(text), 0o644))
		}
	}
	return dir
}

func pack(t testing.TB, dir string) (file string, bytes []byte) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "droplet.tgz")
	f, err := os.Create(file)
	require.NoError(t, err)
	_, err = droplet.Write(t.Context(), f, dir, droplet.Options{})
	require.NoError(t, err)
	require.NoError(t, f.Close())
	bytes, err = os.ReadFile(file)
	require.NoError(t, err)
	return file, bytes
}

func someDroplet(t testing.TB) (string, []byte) {
	long := strings.Repeat("a-long-name/", 20) + strings.Repeat("n", 120)
	return pack(t, files(t, map[string]string{
		"app/index.html": "hello", "app/link": "->index.html", "app/abs": "->/home/vcap/deps/0", "app/" + long: "deep", "app/ü\\x": "odd",
		"deps/0/big": strings.Repeat("0123456789abcdef", 200_000), "tmp/": "", "logs/": "",
		"staging_info.yml": `{"detected_buildpack":"x","start_command":"./app"}`,
	}))
}

func someStack(t testing.TB, version string) string {
	return "dir:" + files(t, map[string]string{"etc/os-release": "VERSION=" + version, "bin/": "", "home/": "", "tmp/": ""})
}

func loopback(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func first(t testing.TB, dir string) v1.Image {
	t.Helper()
	idx, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	m, err := idx.IndexManifest()
	require.NoError(t, err)
	img, err := idx.Image(m.Manifests[0].Digest)
	require.NoError(t, err)
	return img
}

func layers(t testing.TB, img v1.Image) (all []string) {
	t.Helper()
	ls, err := img.Layers()
	require.NoError(t, err)
	for _, l := range ls {
		d, err := l.Digest()
		require.NoError(t, err)
		all = append(all, d.String())
	}
	return all
}

func TestADropletComesBackAsItWentWhateverThePlace(t *testing.T) {
	c := client(t)
	file, want := someDroplet(t)
	digest := sha256.Sum256(want)
	stack, digests := someStack(t, "1"), map[string]bool{}
	for _, to := range []string{"oci:" + t.TempDir() + "/layout", "docker-archive:" + t.TempDir() + "/image.tar", loopback(t) + "/apps/one:v1"} {
		app := oci.App{Start: "./other", Env: []string{"A=1", "LANG=C"}, Port: 9000}
		img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: file, Stack: stack, To: to, App: app})
		require.NoError(t, err, to)
		assert.Equal(t, hex.EncodeToString(digest[:]), img.Droplet)
		digests[img.Digest] = true
		var back bytes.Buffer
		d, err := c.Import(t.Context(), img.Ref, &back)
		require.NoError(t, err, to)
		assert.True(t, bytes.Equal(want, back.Bytes()), to)
		assert.True(t, d.Identical)
		assert.Equal(t, img.Droplet, d.SHA256)
		assert.Equal(t, int64(len(want)), d.Size)
		assert.Equal(t, app, d.App)
		small, err := oci.New(oci.Config{MaxDroplet: 100})
		require.NoError(t, err)
		_, err = small.Import(t.Context(), img.Ref, io.Discard)
		assert.ErrorContains(t, err, "it inflates to more than 100 bytes")
	}
	assert.Len(t, digests, 1, "each export has the same digest")
}

func TestADropletThatAnotherProgramMadeComesBackWithItsContent(t *testing.T) {
	c := client(t)
	_, ours := someDroplet(t)
	z, err := gzip.NewReader(bytes.NewReader(ours))
	require.NoError(t, err)
	plain, err := io.ReadAll(z)
	require.NoError(t, err)
	var theirs bytes.Buffer
	w := gzip.NewWriter(&theirs)
	_, err = w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	file := filepath.Join(t.TempDir(), "theirs.tgz")
	require.NoError(t, os.WriteFile(file, theirs.Bytes(), 0o644))
	img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: file, Stack: someStack(t, "1"), To: "oci:" + t.TempDir()})
	require.NoError(t, err)
	var back bytes.Buffer
	d, err := c.Import(t.Context(), img.Ref, &back)
	require.NoError(t, err)
	assert.False(t, d.Identical)
	assert.True(t, bytes.Equal(ours, back.Bytes()), "it has become what Write makes of that tree")
}

func TestLayersAreSharedAndARebaseIsAnExportOnTheNewStack(t *testing.T) {
	c := client(t)
	one, _ := someDroplet(t)
	two, _ := pack(t, files(t, map[string]string{"app/x": "other"}))
	old, patched := someStack(t, "1"), someStack(t, "2")
	export := func(file, stack string) (oci.Image, []string) {
		dir := t.TempDir()
		img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: file, Stack: stack, To: "oci:" + dir})
		require.NoError(t, err)
		return img, layers(t, first(t, dir))
	}
	a, al := export(one, old)
	_, bl := export(two, old)
	require.Len(t, al, 3)
	assert.Equal(t, al[:2], bl[:2])
	assert.NotEqual(t, al[2], bl[2])

	want, _ := export(one, patched)
	assert.NotEqual(t, a.Digest, want.Digest)
	reg := loopback(t) + "/app:rebased"
	for range 2 {
		r, err := c.Rebase(t.Context(), oci.RebaseRequest{From: a.Ref, Stack: patched, To: reg})
		require.NoError(t, err)
		assert.Equal(t, want.Digest, r.Digest)
		assert.Equal(t, want.Stack, r.Stack)
		a = r // a rebased image can be rebased again
	}
}

func TestWhatCannotBeExportedIsRefused(t *testing.T) {
	c := client(t)
	good, _ := someDroplet(t)
	stack := someStack(t, "1")
	write := func(name string, typ byte) string {
		file := filepath.Join(t.TempDir(), "bad.tgz")
		f, err := os.Create(file)
		require.NoError(t, err)
		z := gzip.NewWriter(f)
		w := tar.NewWriter(z)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: typ, Mode: 0o644}))
		require.NoError(t, w.Close())
		require.NoError(t, z.Close())
		require.NoError(t, f.Close())
		return file
	}
	cut := filepath.Join(t.TempDir(), "cut.tgz")
	b, err := os.ReadFile(good)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cut, b[:len(b)-20], 0o644))
	img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: good, Stack: stack, To: "oci:" + t.TempDir()})
	require.NoError(t, err)
	for name, tt := range map[string]struct{ droplet, stack, why string }{
		"outside":       {write("../etc/passwd", tar.TypeReg), stack, "outside the droplet"},
		"absolute":      {write("/etc/passwd", tar.TypeReg), stack, "outside the droplet"},
		"whiteout":      {write("app/.wh.x", tar.TypeReg), stack, "deletes another"},
		"device":        {write("app/null", tar.TypeChar), stack, "no droplet has"},
		"cut":           {cut, stack, "unexpected EOF"},
		"an app below":  {good, img.Ref, "no stack"},
		"no such stack": {good, "oci:" + t.TempDir(), "no such file"},
	} {
		to := t.TempDir()
		_, err := c.Export(t.Context(), oci.ExportRequest{Droplet: tt.droplet, Stack: tt.stack, To: "oci:" + to})
		require.ErrorContains(t, err, tt.why, name)
		_, err = os.Stat(filepath.Join(to, "index.json"))
		require.ErrorIs(t, err, os.ErrNotExist, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Export(ctx, oci.ExportRequest{Droplet: good, Stack: stack, To: "oci:" + t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
}

func TestAnImportTrustsNoImage(t *testing.T) {
	c := client(t)
	good, _ := someDroplet(t)
	dir := t.TempDir()
	img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: good, Stack: someStack(t, "1"), To: "oci:" + dir})
	require.NoError(t, err)
	ls := layers(t, first(t, dir))
	other, _ := pack(t, files(t, map[string]string{"app/x": "other"}))
	lie := t.TempDir()
	_, err = c.Export(t.Context(), oci.ExportRequest{Droplet: other, Stack: someStack(t, "1"), To: "oci:" + lie})
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(lie, "blobs", "sha256", strings.TrimPrefix(layers(t, first(t, lie))[2], "sha256:")))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(ls[2], "sha256:")), b, 0o644))
	_, err = c.Import(t.Context(), img.Ref, io.Discard)
	require.ErrorContains(t, err, "have the digest")

	foreign := t.TempDir()
	p, err := layout.Write(foreign, empty.Index)
	require.NoError(t, err)
	require.NoError(t, p.AppendImage(empty.Image))
	_, err = c.Import(t.Context(), "oci:"+foreign, io.Discard)
	require.ErrorIs(t, err, oci.ErrForeign)
	_, err = c.Rebase(t.Context(), oci.RebaseRequest{From: "oci:" + foreign, Stack: someStack(t, "1"), To: "oci:" + t.TempDir()})
	require.ErrorIs(t, err, oci.ErrForeign)

	// An image that somebody built upon ours says what ours said, and is another.
	built, err := mutate.AppendLayers(first(t, lie), static.NewLayer([]byte("x"), types.OCILayer))
	require.NoError(t, err)
	upon := t.TempDir()
	p, err = layout.Write(upon, empty.Index)
	require.NoError(t, err)
	require.NoError(t, p.AppendImage(built))
	_, err = c.Import(t.Context(), "oci:"+upon, io.Discard)
	require.ErrorIs(t, err, oci.ErrForeign)
	require.ErrorContains(t, err, "last layers")
}
