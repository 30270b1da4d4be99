package layers

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Images of one base have its files once, from the third on: that there is a base, the second tells.
func TestImagesOfOneBaseShareItsFiles(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir(), Limits{})
	require.NoError(t, err)
	base := layer(t, e{name: "bin/", mode: 0o555}, e{name: "bin/sh", body: "shell"}, e{name: "etc/conf", body: "old"}, e{name: "etc/gone", body: "x"},
		e{name: "same", typ: tar.TypeLink, link: "etc/conf"}, e{name: "l", typ: tar.TypeSymlink, link: "bin/sh"})
	roots := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		dir, release, err := s.Get(t.Context(), []Layer{base, layer(t, e{name: "app", body: name}, e{name: "etc/conf", body: "of " + name}, e{name: "etc/.wh.gone"}, e{name: "bin/more", body: name})})
		require.NoError(t, err)
		defer release()
		roots[name] = dir
		assert.Equal(t, map[string]string{"app": name, "bin/": "", "bin/sh": "shell", "bin/more": name, "etc/": "", "etc/conf": "of " + name, "same": "old", "l": "->bin/sh"}, treeOf(t, dir))
	}
	low, err := s.known([]Layer{base})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"bin/": "", "bin/sh": "shell", "etc/": "", "etc/conf": "old", "etc/gone": "x", "same": "old", "l": "->bin/sh"}, treeOf(t, low), "the base is as it was")
	same := func(a, b string) bool {
		x, err := os.Stat(filepath.Join(a, "bin/sh"))
		require.NoError(t, err)
		y, err := os.Stat(filepath.Join(b, "bin/sh"))
		require.NoError(t, err)
		return os.SameFile(x, y)
	}
	assert.True(t, same(roots["b"], low))
	assert.True(t, same(roots["c"], low))
	assert.False(t, same(roots["a"], low))
	for _, dir := range roots {
		info, err := os.Stat(filepath.Join(dir, "bin"))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o755), info.Mode().Perm())
	}

	// The base goes as any other; what was made of it stays whole.
	require.NoError(t, s.Collect(time.Now().Add(time.Hour)))
	assert.NoDirExists(t, low)
	b, err := os.ReadFile(filepath.Join(roots["c"], "bin/sh"))
	require.NoError(t, err)
	assert.Equal(t, "shell", string(b))
}

func (s *Store) known(all []Layer) (string, error) {
	dir := filepath.Join(s.dir, nameOf(ChainID(all)))
	_, err := os.Stat(dir)
	return dir, err
}

// Whatever the layers are, what is made of another's beginning is what they make from nothing.
func TestSharedRootsAreTheSame(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		names := []string{"a", "b", "a/x", "a/y", "b/x", "a/x/deep", "c", "c/d/e"}
		random := func() Layer {
			var all []e
			for range 1 + r.IntN(6) {
				n := names[r.IntN(len(names))]
				switch r.IntN(7) {
				case 0:
					all = append(all, e{name: n + "/", mode: []int64{0o755, 0o500, 0o777}[r.IntN(3)]})
				case 1:
					all = append(all, e{name: n, typ: tar.TypeSymlink, link: names[r.IntN(len(names))]})
				case 2:
					dir, base := filepath.Split(n)
					all = append(all, e{name: dir + ".wh." + base})
				case 3:
					all = append(all, e{name: n + "/.wh..wh..opq"})
				case 4:
					all = append(all, e{name: n, typ: tar.TypeLink, link: names[r.IntN(len(names))]})
				default:
					all = append(all, e{name: n, body: fmt.Sprint(r.IntN(1000)), mode: []int64{0o644, 0o400, 0o755}[r.IntN(3)]})
				}
			}
			return layer(t, all...)
		}
		base := []Layer{random(), random()}
		s, err := Open(t.TempDir(), Limits{})
		require.NoError(t, err)
		for range 4 {
			all := append(base[:1+r.IntN(2):2], random())
			want, _, werr := apply(t, Limits{}, all...)
			dir, release, err := s.Get(t.Context(), all)
			if werr != nil {
				require.Error(t, err, "seed %d: %v", seed, werr)
				assert.Equal(t, reason(werr), reason(err), "seed %d", seed)
				continue
			}
			require.NoError(t, err, "seed %d", seed)
			require.Equal(t, want, treeOf(t, dir), "seed %d", seed)
			release()
		}
	}
}

// reason is the last part of an error.
func reason(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+1:]
}
