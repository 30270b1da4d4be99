package oci_test

import (
	"os"
	"path/filepath"
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
	roots, err := c.Roots(dir)
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
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
	_, err = roots.Get(t.Context(), "oci:"+t.TempDir())
	require.Error(t, err)
}
