package blob

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Before Put returns the bytes are durable, then their name, with every folder above it.
func TestPutSyncsTheFileThenItsNameAndFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := OpenDir(dir, DirConfig{})
	require.NoError(t, err)
	defer d.Close()
	final := filepath.Join(dir, blobFolder, filepath.FromSlash(pathOf("droplets/one/two")))
	type seen struct {
		name  string
		named bool // the blob has its name
	}
	var all []seen
	d.synced = func(f *os.File) {
		_, err := os.Stat(final)
		all = append(all, seen{filepath.ToSlash(strings.TrimPrefix(f.Name(), dir+string(filepath.Separator))), err == nil})
	}
	_, err = d.Put(t.Context(), "droplets/one/two", strings.NewReader("x"))
	require.NoError(t, err)

	require.NotEmpty(t, all)
	assert.True(t, strings.HasPrefix(all[0].name, tempFolder+"/"), "first the bytes: %v", all)
	assert.False(t, all[0].named)
	rel, err := filepath.Rel(dir, filepath.Dir(final))
	require.NoError(t, err)
	folder := filepath.ToSlash(rel)
	assert.Equal(t, seen{folder, true}, all[len(all)-1], "at last the folder that holds the name")
	for above := folder; above != blobFolder; {
		above = filepath.ToSlash(filepath.Dir(above))
		assert.Contains(t, all, seen{above, false}, "a new folder's name is durable before it holds a blob")
	}
	all = nil
	_, err = d.Put(t.Context(), "droplets/one/two", strings.NewReader("y"))
	require.NoError(t, err)
	assert.Len(t, all, 2, "what is known to be durable is not synced again: %v", all)
}
