package buildpack_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

// The URL of a zip may demand a digest, in a request as in the catalogue.
func TestZipURLWithDigest(t *testing.T) {
	t.Parallel()
	packed := zipped(t, "bin/detect")
	sum := fmt.Sprintf("%x", sha256.Sum256(packed))
	fetched := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched++
		_, _ = w.Write(packed)
	}))
	t.Cleanup(srv.Close)
	url := srv.URL + "/x.zip"
	r := open(t, buildpack.Config{Client: srv.Client()})
	for range 2 {
		w, err := r.Plan(t.Context(), stagingtest.Request("x", url+"#sha256="+strings.ToUpper(sum)), nil)
		require.NoError(t, err)
		assert.Equal(t, sum, w.Layers[0].SHA256)
	}
	assert.Equal(t, 1, fetched, "what is known by its digest is fetched once")
	for fragment, text := range map[string]string{
		"sha256=" + strings.Repeat("0", 64): "0000 was asked for",
		"sha256=12":                         "64 hex digits",
		"v1":                                "64 hex digits",
	} {
		_, err := r.Plan(t.Context(), stagingtest.Request("x", url+"#"+fragment), nil)
		e := reason(t, err)
		assert.Equal(t, staging.BuildpackInvalid, e.Reason, fragment)
		assert.False(t, e.Retryable)
		assert.ErrorContains(t, e, text)
	}
	_, err := open(t, buildpack.Config{}, buildpack.Entry{Name: "two", Location: url + "#sha256=" + sum, SHA256: strings.Repeat("1", 64)}).
		Plan(t.Context(), stagingtest.Request("x"), nil)
	assert.ErrorContains(t, err, "in the catalogue and")
}

// A commit is no branch: all is cloned then.
func TestGitCommit(t *testing.T) {
	t.Parallel()
	needs.Tool(t, "git")
	base := []string{"PATH=" + os.Getenv("PATH")}
	dir := folder(t, map[string]string{"bin/detect": "one"})
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		cmd.Env = append([]string{"HOME=" + t.TempDir()}, base...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	commit := git("rev-parse", "HEAD")
	fill(t, dir, map[string]string{"bin/compile": "two"})
	git("add", ".")
	git("commit", "-q", "-m", "two")
	git("update-server-info")
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	r := open(t, buildpack.Config{BaseEnv: base})
	w, err := r.Plan(t.Context(), stagingtest.Request("x", srv.URL+"/.git#"+commit), nil)
	require.NoError(t, err)
	assert.Equal(t, []string{"bin/", "bin/detect"}, listTar(t, r, w.Layers[0].Source))
	_, err = r.Plan(t.Context(), stagingtest.Request("x", srv.URL+"/.git#no-such-branch"), nil)
	assert.Equal(t, staging.BuildpackUnavailable, reason(t, err).Reason)
	assert.ErrorContains(t, err, "no-such-branch")
}

// git leaves the network to a child, which must not outlive the staging that wanted it.
func TestCancelEndsAClone(t *testing.T) {
	t.Parallel()
	needs.Tool(t, "git")
	asked, hungUp := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(hungUp)
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	r := open(t, buildpack.Config{BaseEnv: []string{"PATH=" + os.Getenv("PATH")}, Dir: dir})
	s, err := staging.New(staging.Config{Runner: r, Tasks: &stagingtest.Tasks{}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := s.Stage(ctx, stagingtest.Request("x", srv.URL+"/x.git"), nil)
		done <- err
	}()
	<-asked
	cancel()
	e := reason(t, <-done)
	assert.Equal(t, staging.Canceled, e.Reason)
	assert.Equal(t, staging.PhasePlan, e.Phase)
	<-hungUp
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// What is no archive is known before a cell is bothered: the page that asks to log in, mostly.
func TestWhatIsNoArchive(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<!DOCTYPE html><title>Log in</title>"))
	}))
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	dir := t.TempDir()
	r := open(t, buildpack.Config{Client: srv.Client(), Dir: dir}, buildpack.Entry{Name: "empty", Location: "dir:" + file})
	for name, text := range map[string]string{srv.URL + "/x.zip": "begins with \"<!DOCTYPE", "empty": "the file is empty; mend it, or name another"} {
		_, err := r.Plan(t.Context(), stagingtest.Request("x", name), nil)
		e := reason(t, err)
		assert.Equal(t, staging.BuildpackInvalid, e.Reason)
		assert.False(t, e.Retryable)
		assert.ErrorContains(t, err, text)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
	for _, name := range []string{"x.tgz", "x.tar"} {
		var b bytes.Buffer
		b.Write(tarOf(map[string]string{"bin/detect": "x"}))
		if name == "x.tgz" {
			packed := b.Bytes()
			b = bytes.Buffer{}
			z := gzip.NewWriter(&b)
			_, err := z.Write(packed)
			require.NoError(t, err)
			require.NoError(t, z.Close())
		}
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, b.Bytes(), 0o600))
		_, err := open(t, buildpack.Config{}, buildpack.Entry{Name: "ok", Location: "dir:" + file}).Plan(t.Context(), stagingtest.Request("x"), nil)
		assert.NoError(t, err, name)
	}
}
