package oci_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet/oci"
)

func TestImagesBecomeRootFilesystems(t *testing.T) {
	c := client(t)
	file, _ := someDroplet(t)
	stack := someStack(t, "1")
	dir := t.TempDir()
	roots, err := c.Roots(oci.RootsConfig{Dir: dir})
	require.NoError(t, err)
	var first string
	for _, to := range []string{"oci:" + t.TempDir(), "docker-archive:" + t.TempDir() + "/image.tar", loopback(t) + "/app:1"} {
		img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: file, Stack: stack, To: to})
		require.NoError(t, err)
		root, err := roots.Get(t.Context(), img.Ref)
		require.NoError(t, err, to)
		if first == "" {
			first = root.Dir
		}
		assert.Equal(t, first, root.Dir, "images of the same layers share one")
		b, err := os.ReadFile(filepath.Join(root.Dir, "home/vcap/app/index.html"))
		require.NoError(t, err)
		assert.Equal(t, "hello", string(b))
		assert.FileExists(t, filepath.Join(root.Dir, "etc/os-release"))
		assert.FileExists(t, filepath.Join(root.Dir, "opt/dewpoint/launcher"))
		root.Release()
	}
	require.NoError(t, roots.Collect(time.Now().Add(time.Hour)))
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(dir, "images"), filepath.Join(dir, "prefixes")}, left)
	_, err = roots.Get(t.Context(), "oci:"+t.TempDir())
	require.Error(t, err)
}

// What is here is given without asking: for a cell whose registry is away, and after its program has been restarted.
func TestRootsForCells(t *testing.T) {
	c, stack, host := client(t), someStack(t, "1"), loopback(t)
	file, _ := someDroplet(t)
	img, err := c.Export(t.Context(), oci.ExportRequest{Droplet: file, Stack: stack, To: host + "/app:1"})
	require.NoError(t, err)
	name, _, _ := strings.Cut(img.Ref, "@")
	name += "@" + img.Digest
	dir := t.TempDir()
	roots, err := c.Roots(oci.RootsConfig{Dir: dir})
	require.NoError(t, err)
	asked := 0
	login := func(context.Context) (string, string, error) { asked++; return "", "", nil }
	first, release, err := roots.Root(t.Context(), name, login)
	require.NoError(t, err)
	assert.Equal(t, 1, asked)
	assert.FileExists(t, filepath.Join(first, "home/vcap/app/index.html"))
	again, release2, err := roots.Root(t.Context(), "registry.invalid/elsewhere@"+img.Digest, login)
	require.NoError(t, err, "nobody is asked")
	assert.Equal(t, first, again)
	assert.Equal(t, 1, asked)
	release()

	roots2, err := c.Roots(oci.RootsConfig{Dir: dir})
	require.NoError(t, err)
	held, err := roots2.Hold(first)
	require.NoError(t, err)
	require.NoError(t, roots2.Collect(time.Now().Add(time.Hour)))
	assert.DirExists(t, first)
	held()
	release2()
	require.NoError(t, roots2.Collect(time.Now().Add(time.Hour)))
	assert.NoDirExists(t, first)
	refs, err := os.ReadDir(filepath.Join(dir, "images"))
	require.NoError(t, err)
	assert.Empty(t, refs)
	for _, gone := range []string{first, filepath.Join(dir, "images"), "/etc", ""} {
		_, err = roots2.Hold(gone)
		require.ErrorIs(t, err, fs.ErrNotExist, gone)
	}
	_, _, err = roots2.Root(t.Context(), name, func(context.Context) (string, string, error) { return "", "", errors.New("no key") })
	require.ErrorContains(t, err, "no key")
}
