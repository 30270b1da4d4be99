package oci_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet/oci"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
)

// realRegistry starts the program docker-registry (CNCF distribution) on loopback, and returns its host.
func realRegistry(t *testing.T) string {
	t.Helper()
	exe := needs.Tool(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	host := l.Addr().String()
	require.NoError(t, l.Close())
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\n",
		filepath.Join(dir, "data"), host), 0o600))
	var said bytes.Buffer
	cmd := exec.Command(exe, "serve", file)
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	require.Eventually(t, func() bool {
		resp, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, time.Minute, 10*time.Millisecond, &said)
	return host
}

// What the registry in memory allows, a real one may not: images go there and back, are asked for, and unpacked.
func TestARealRegistry(t *testing.T) {
	host := realRegistry(t)
	c := client(t)
	file, _ := someDroplet(t)
	img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: file, Stack: someStack(t, "1"), To: host + "/apps/web:1"})
	require.NoError(t, err)
	again, err := c.Export(t.Context(), oci.ExportRequest{Droplet: file, Stack: someStack(t, "1"), To: host + "/apps/other:1"})
	require.NoError(t, err)
	assert.Equal(t, img.Digest, again.Digest)
	rebased, err := c.Rebase(t.Context(), oci.RebaseRequest{From: img.Ref, Stack: someStack(t, "2"), To: host + "/apps/web:2"})
	require.NoError(t, err)
	assert.NotEqual(t, img.Digest, rebased.Digest)

	f, err := os.Create(filepath.Join(t.TempDir(), "back.tgz"))
	require.NoError(t, err)
	d, err := c.Import(t.Context(), rebased.Ref, f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	assert.True(t, d.Identical)

	fetcher, err := image.New(image.Config{})
	require.NoError(t, err)
	got, err := fetcher.Fetch(t.Context(), staging.ImageRequest{ID: "i", App: "a", Ref: host + "/apps/web:1"})
	require.NoError(t, err)
	assert.Equal(t, host+"/apps/web:1@"+img.Digest, got.Ref)
	assert.Equal(t, "2000:2000", got.User)
	_, err = fetcher.Fetch(t.Context(), staging.ImageRequest{ID: "i", App: "a", Ref: host + "/apps/none:1"})
	require.ErrorContains(t, err, "has no such image")

	roots, err := c.Roots(oci.RootsConfig{Dir: t.TempDir()})
	require.NoError(t, err)
	dir, release, err := roots.Root(t.Context(), strings.Replace(got.Ref, ":1@", "@", 1), nil)
	require.NoError(t, err)
	assert.FileExists(t, filepath.Join(dir, "home/vcap/app/index.html"))
	release()
}
