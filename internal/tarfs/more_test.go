package tarfs

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestExtractOverAnEarlierTree(t *testing.T) {
	t.Parallel()
	root, p := dir(t)
	first := tarOf(t,
		item{name: "ro/", kind: tar.TypeDir, mode: 0o555}, item{name: "ro/in/", kind: tar.TypeDir, mode: 0o500},
		item{name: "ro/in/a", body: "old"}, item{name: "l", kind: tar.TypeSymlink, link: "ro"})
	_, err := Extract(t.Context(), root, "x", bytes.NewReader(first), Limits{})
	require.NoError(t, err)
	_, err = Extract(t.Context(), root, "x", bytes.NewReader(tarOf(t,
		item{name: "ro/in/a", body: "new"}, item{name: "ro/b", body: "b"})), Limits{})
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(p, "x", "ro", "in", "a"))
	require.NoError(t, err)
	assert.Equal(t, "new", string(b))
	for name, mode := range map[string]fs.FileMode{"ro": 0o555, "ro/in": 0o500} {
		fi, err := os.Stat(filepath.Join(p, "x", filepath.FromSlash(name)))
		require.NoError(t, err)
		if runtime.GOOS != "windows" {
			assert.Equal(t, mode, fi.Mode().Perm(), name)
		}
		defer os.Chmod(filepath.Join(p, "x", filepath.FromSlash(name)), 0o755)
	}
	_, err = Extract(t.Context(), root, "x", bytes.NewReader(tarOf(t, item{name: "l/in/a", body: "through"})), Limits{})
	assert.ErrorContains(t, err, "symbolic link")
}

func TestExtractPassesOverComments(t *testing.T) {
	t.Parallel()
	root, p := dir(t)
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	require.NoError(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "abc"}}))
	require.NoError(t, tw.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1}))
	_, err := io.WriteString(tw, "x")
	require.NoError(t, err)
	require.NoError(t, tw.Close())
	_, err = Extract(t.Context(), root, "", &b, Limits{})
	require.NoError(t, err)
	es, err := os.ReadDir(p)
	require.NoError(t, err)
	assert.Len(t, es, 1)
}

// cancelling ends its context after some bytes, within one file.
type cancelling struct {
	r      io.Reader
	left   int
	cancel func()
}

func (c *cancelling) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), 4096)])
	if c.left -= n; c.left < 0 {
		c.cancel()
	}
	return n, err
}

func TestExtractEndsWithItsContext(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("x", 10<<20)
	for name, data := range map[string][]byte{
		"tar": tarOf(t, item{name: "a", body: body}),
		"zip": zipOf(t, zipItem{name: "a", body: body, store: true}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, p := dir(t)
			ctx, cancel := context.WithCancel(t.Context())
			spool := t.TempDir()
			_, err := Extract(ctx, root, "", &cancelling{bytes.NewReader(data), 1 << 20, cancel}, Limits{Spool: spool})
			require.ErrorIs(t, err, context.Canceled)
			if fi, err := os.Stat(filepath.Join(p, "a")); err == nil {
				assert.Less(t, fi.Size(), int64(2<<20))
			}
			es, err := os.ReadDir(spool)
			require.NoError(t, err)
			assert.Empty(t, es, "the temporary file was left")
		})
	}
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestExtractRefusesBombs(t *testing.T) {
	t.Parallel()
	head := tarOf(t, item{name: "a", body: "x"})
	t.Run("zeros without end", func(t *testing.T) {
		t.Parallel()
		root, _ := dir(t)
		_, err := Extract(t.Context(), root, "", io.MultiReader(bytes.NewReader(head), zeros{}), Limits{Bytes: 1, Entries: 1})
		assert.ErrorContains(t, err, "unpacks to more than its limit")
	})
	t.Run("size", func(t *testing.T) {
		t.Parallel()
		root, p := dir(t)
		var b bytes.Buffer
		require.NoError(t, tar.NewWriter(&b).WriteHeader(&tar.Header{Name: "a", Size: 1 << 50, Typeflag: tar.TypeReg}))
		_, err := Extract(t.Context(), root, "", io.MultiReader(&b, zeros{}), Limits{})
		assert.ErrorContains(t, err, "more than 4294967296 bytes")
		assert.NoFileExists(t, filepath.Join(p, "a"))
	})
	t.Run("zip without end", func(t *testing.T) {
		t.Parallel()
		root, _ := dir(t)
		_, err := Extract(t.Context(), root, "", io.MultiReader(strings.NewReader("PK\x03\x04"), zeros{}), Limits{Bytes: 1, Entries: 1, Spool: t.TempDir()})
		assert.ErrorContains(t, err, "larger than what it may unpack to")
	})
}
