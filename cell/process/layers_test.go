//go:build linux || darwin

package process_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/process"
)

// shelf makes layers, and counts how often each was fetched.
type shelf struct {
	t      *testing.T
	mu     sync.Mutex
	opened map[string]int
	digest map[string]string
}

// layer returns a layer of 100 kB whose content is its name.
func (s *shelf) layer(name string) cell.Layer {
	s.t.Helper()
	text := bytes.Repeat([]byte(name+"\n"), 100_000/(len(name)+1))
	data, digest := tarOf(s.t, "f", text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened == nil {
		s.opened, s.digest = map[string]int{}, map[string]string{}
	}
	s.digest[name] = digest
	return cell.Layer{Digest: digest, Dir: "/l", Open: func(context.Context) (io.ReadCloser, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opened[name]++
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// use makes a container of a layer, and destroys it.
func (s *shelf) use(r *process.Runtime, names ...string) {
	s.t.Helper()
	for _, n := range names {
		c, err := r.Create(s.t.Context(), cell.Creation{ID: n, Layers: []cell.Layer{s.layer(n)}})
		require.NoError(s.t, err)
		require.NoError(s.t, c.Destroy(s.t.Context()))
	}
}

// has asserts which layers are there.
func (s *shelf) has(dir string, names ...string) {
	s.t.Helper()
	all, err := os.ReadDir(filepath.Join(dir, "layers"))
	require.NoError(s.t, err)
	var have, want []string
	for _, e := range all {
		have = append(have, e.Name())
	}
	for _, n := range names {
		want = append(want, s.digest[n])
	}
	assert.ElementsMatch(s.t, want, have)
}

func layersRuntime(t *testing.T, dir string, c process.Config) *process.Runtime {
	t.Helper()
	c.Dir, c.Program = dir, prog
	r, err := process.New(t.Context(), c)
	require.NoError(t, err)
	return r
}

func TestLayersAreBoundedInNumber(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), &shelf{t: t}
	r := layersRuntime(t, dir, process.Config{KeepLayers: 2})
	s.use(r, "a", "b", "a", "c")
	s.has(dir, "a", "c") // b was not used for longest
	s.use(r, "a", "b")
	s.has(dir, "a", "b")
	assert.Equal(t, map[string]int{"a": 1, "b": 2, "c": 1}, s.opened)
	require.NoError(t, r.Close())
	empty(t, dir)
	// What was used last is known to the next program, too.
	r = layersRuntime(t, dir, process.Config{KeepLayers: 1})
	s.has(dir, "b")
	require.NoError(t, r.Close())
	r = layersRuntime(t, dir, process.Config{KeepLayers: -1})
	s.has(dir)
	s.use(r, "a")
	s.has(dir)
	require.NoError(t, r.Close())
	empty(t, dir)
}

func TestLayersAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), &shelf{t: t}
	r := layersRuntime(t, dir, process.Config{KeepLayers: 100, KeepBytes: 350_000})
	s.use(r, "a", "b", "c")
	s.has(dir, "a", "b", "c")
	s.use(r, "a", "d") // over the bound
	s.has(dir, "a", "c", "d")
	// What a container was made from stays, over the bound or not, and goes with it.
	var held []cell.Container
	for _, n := range []string{"a", "c", "d", "e", "f"} {
		c, err := r.Create(t.Context(), cell.Creation{ID: "holds-" + n, Layers: []cell.Layer{s.layer(n)}})
		require.NoError(t, err)
		held = append(held, c)
	}
	s.has(dir, "a", "c", "d", "e", "f")
	s.use(r, "b")
	s.has(dir, "a", "c", "d", "e", "f")
	for _, c := range held {
		require.NoError(t, c.Destroy(t.Context()))
	}
	s.has(dir, "d", "e", "f")
	require.NoError(t, r.Close())
	empty(t, dir)
}

// A program that was killed has left half a layer, one that was just being removed, and notes that
// tell of neither.
func TestLayersAfterACrash(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), &shelf{t: t}
	r := layersRuntime(t, dir, process.Config{KeepLayers: 100})
	s.use(r, "a", "b", "c", "d")
	require.NoError(t, r.Close())
	notes, err := os.ReadFile(filepath.Join(dir, "layers.json"))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "making", "l-123", "sub"), 0o700))
	require.NoError(t, os.Rename(filepath.Join(dir, "layers", s.digest["b"]), filepath.Join(dir, "trash", s.digest["b"]+".1")))
	for name, damage := range map[string][]byte{"whole": notes, "damaged": notes[:len(notes)/2], "of nothing": []byte("{}")} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "layers.json"), damage, 0o600), name)
		r = layersRuntime(t, dir, process.Config{KeepLayers: 100, KeepBytes: 350_000})
		s.has(dir, "a", "c", "d")
		require.NoError(t, r.Close())
		empty(t, dir)
	}
	r = layersRuntime(t, dir, process.Config{KeepLayers: 100, KeepBytes: 250_000}) // it knows how large they are
	all, err := os.ReadDir(filepath.Join(dir, "layers"))
	require.NoError(t, err)
	assert.Len(t, all, 2)
	s.use(r, "b")
	assert.Equal(t, 2, s.opened["b"])
	require.NoError(t, r.Close())
}

// Containers of many layers are made and destroyed while nothing is kept: none loses a layer that it
// is being made from.
func TestLayersInUseAreNotRemoved(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), &shelf{t: t}
	r := layersRuntime(t, dir, process.Config{KeepLayers: -1, KeepBytes: 1})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 5 {
				name := string(rune('a' + (i+k)%3))
				c, err := r.Create(t.Context(), cell.Creation{ID: fmt.Sprintf("c-%d-%d", i, k), Layers: []cell.Layer{s.layer(name)}})
				if !assert.NoError(t, err) {
					return
				}
				f, err := c.StreamOut(t.Context(), "/l/f")
				if assert.NoError(t, err) {
					b, err := io.ReadAll(f)
					assert.NoError(t, err)
					assert.Equal(t, name+"\n", string(b[:2]))
					f.Close()
				}
				assert.NoError(t, c.Destroy(t.Context()))
			}
		})
	}
	wg.Wait()
	s.has(dir)
	require.NoError(t, r.Close())
	empty(t, dir)
}

// Bytes that are at fault are told from bytes that could not be had: nobody is to try again.
func TestABadArchiveIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	bad, digest := tarOf(t, "../outside", []byte("x"))
	dir := t.TempDir()
	a := celltest.Agent(t, cell.AgentConfig{ID: "c", Runtime: openClean(t, dir), Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(bad)), nil
	}})
	in := cell.Input{Source: "blob:x", Dir: "/tmp/in", Name: "app package"}
	w := work("input", "out=never")
	w.Inputs = []cell.Input{in}
	require.NoError(t, a.Start(t.Context(), w))
	s := until(t, a, w.ID, is(cell.PhaseDone))
	assert.Equal(t, cell.ReasonArchive, s.Reason)
	assert.Contains(t, s.Failure, "Downloading app package failed: ")
	assert.Contains(t, s.Failure, `archive: entry "../outside": `)

	in.SHA256, in.Name = digest, "ruby"
	w = work("layer", "out=never")
	w.Layers = []cell.Input{in}
	require.NoError(t, a.Start(t.Context(), w))
	s = until(t, a, w.ID, is(cell.PhaseDone))
	assert.Equal(t, cell.ReasonArchive, s.Reason)
	assert.Contains(t, s.Failure, `ruby cannot be unpacked: archive: entry "../outside": `)
}
