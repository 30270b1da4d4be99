package buildpack_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

func TestFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, sub := range []string{"b/bin", "a/bin", "no-buildpack"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "README.md"), nil, 0o644))
	c, err := buildpack.Folder(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range c.List() {
		names = append(names, e.Name)
	}
	assert.Equal(t, []string{"a", "b"}, names)
	_, err = buildpack.Folder(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestHostEnv(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"PATH=/bin", "PIP_INDEX_URL=x", "npm_config_registry=y"},
		buildpack.HostEnv([]string{"HOME=/root", "PATH=/bin", "SECRET=1", "PIP_INDEX_URL=x", "PIPE=z", "npm_config_registry=y", "nonsense"}))
}
