package resourcematch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
)

func smallFiles(n int) fstest.MapFS {
	app := fstest.MapFS{}
	for i := range n {
		app[fmt.Sprintf("d%d/f%02d", i%3, i)] = &fstest.MapFile{Data: fmt.Appendf(nil, "file %02d, which is small", i), Mode: 0o644}
	}
	return app
}

func storedBytes(t *testing.T, s blob.Store, kind string) (n int64) {
	t.Helper()
	for info, err := range s.List(t.Context(), "dewpoint/"+kind) {
		require.NoError(t, err)
		n += info.Size
	}
	return n
}

// With a lower limit than Cloud Foundry's, files of any size are known; with its own, small
// ones are sent each time.
func TestSmallFilesAreKnownIfTheLimitLetsThem(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		min   int64
		known int
		added int64
	}{{-1, 29, 23}, {0, 0, 30 * 23}} {
		store := blob.NewMemory()
		c := openCache(t, store, Config{MinSize: tc.min})
		app := smallFiles(30)
		push := func() *Package {
			l := newLease(t, c)
			f, err := Scan(t.Context(), app, ScanOptions{})
			require.NoError(t, err)
			known, err := c.Match(t.Context(), f.Fingerprints(), l)
			require.NoError(t, err)
			p, err := c.Assemble(t.Context(), Upload{Lease: l, Known: known, Files: f})
			require.NoError(t, err)
			return p
		}
		push()
		before := storedBytes(t, store, KindFiles)
		app["d0/f00"].Data = []byte("file 00, which is other")
		p := push()
		assert.Equal(t, tc.known, p.KnownFiles)
		assert.Equal(t, tc.added, storedBytes(t, store, KindFiles)-before)
		got := unpack(t, c, p.Key)
		require.Len(t, got, 33)
		for name, f := range app {
			assert.Equal(t, "0644 "+string(f.Data), got[name])
		}
	}
}

// A package that needs little of a blob does not hold all of it.
func TestSparseBlobsAreCopied(t *testing.T) {
	t.Parallel()
	store := blob.NewMemory()
	c := openCache(t, store, small)
	l := newLease(t, c)
	var texts []string
	var known []Fingerprint
	for i := range 10 {
		texts = append(texts, fmt.Sprintf("text number %d", i))
		known = append(known, fp(fmt.Sprint(i), texts[i], 0o644))
	}
	old := knowsPack(t, c, l, texts...)
	for _, tc := range []struct {
		need   []Fingerprint
		copied bool
	}{{known[:3], false}, {known[8:], true}, {append(known[9:10:10], known[9]), true}} {
		p, err := c.Assemble(t.Context(), Upload{Lease: l, Known: tc.need})
		require.NoError(t, err)
		assert.Equal(t, tc.copied, !contains(p.Keys, old), "%d of 10 files", len(tc.need))
		for _, f := range tc.need {
			assert.Contains(t, unpack(t, c, p.Key)[f.Path], "text number "+f.Path)
		}
	}
	// What is copied is checked.
	fresh := newLease(t, c)
	cur := knowsPack(t, c, fresh, "one text that is good", strings.Repeat("x", 900))
	_, err := store.Put(t.Context(), cur, strings.NewReader(strings.Repeat("?", 921)))
	require.NoError(t, err)
	bad := []Fingerprint{fp("a", "one text that is good", 0o644)}
	_, err = c.Assemble(t.Context(), Upload{Lease: fresh, Known: bad})
	assert.Equal(t, Corrupt, reason(t, err))
	_, err = c.Assemble(t.Context(), Upload{Lease: fresh, Known: bad})
	assert.Equal(t, Unknown, reason(t, err))
}

func contains(all []string, s string) bool { return strings.Contains(strings.Join(all, "\n"), s) }

// However files are spread over blobs, the package is the same, and the same upload again
// stores nothing again.
func TestFilesInSeveralBlobs(t *testing.T) {
	t.Parallel()
	app := smallFiles(30)
	app["large"] = &fstest.MapFile{Data: bytes.Repeat([]byte("large "), 100), Mode: 0o600}
	app["empty"] = &fstest.MapFile{Mode: 0o644}
	app["same as large"] = &fstest.MapFile{Data: app["large"].Data, Mode: 0o755}
	sums := map[string]bool{}
	for _, way := range []Format{"files", Tar, TarGz, Zip} {
		for _, size := range []int64{1, 100, 1 << 20} {
			store := blob.NewMemory()
			c := openCache(t, store, Config{MinSize: -1})
			c.packSize = size
			f, err := Scan(t.Context(), app, ScanOptions{})
			require.NoError(t, err)
			var first *Package
			for range 2 {
				u := Upload{Lease: newLease(t, c), Files: f}
				if way != "files" {
					r, err := f.Bits(t.Context(), nil, way)
					require.NoError(t, err)
					t.Cleanup(func() { r.Close() })
					u.Files, u.Bits = nil, r
				}
				p, err := c.Assemble(t.Context(), u)
				require.NoError(t, err)
				if first == nil {
					first = p
				}
				assert.ElementsMatch(t, first.Keys[:len(first.Keys)-1], p.Keys[:len(p.Keys)-1])
				sums[p.SHA256] = true
				got := unpack(t, c, p.Key)
				assert.Equal(t, "0600 "+string(app["large"].Data), got["large"])
				assert.Equal(t, "0755 "+string(app["large"].Data), got["same as large"])
				assert.Equal(t, "0644 ", got["empty"])
			}
			if size == 1<<20 {
				assert.Len(t, first.Keys, 2)
			} else {
				assert.Greater(t, len(first.Keys), 8)
			}
			if way == "files" {
				assert.Equal(t, int64(30*23+600), storedBytes(t, store, KindFiles), "one content is stored once")
			}
		}
	}
	assert.Len(t, sums, 1)
}

// A store that fails at any blob fails the upload, and no file of it becomes known that is
// not there.
func TestABlobOfSeveralFails(t *testing.T) {
	t.Parallel()
	for _, way := range []Format{"files", Tar, Zip} {
		for fail := range 4 {
			n := 0
			store := &failNth{Store: blob.NewMemory(), fail: fail, n: &n}
			c := openCache(t, store, Config{MinSize: -1, Writers: 1})
			c.packSize = 200
			f, err := Scan(t.Context(), smallFiles(30), ScanOptions{})
			require.NoError(t, err)
			u := Upload{Lease: newLease(t, c), Files: f}
			if way != "files" {
				r, err := f.Bits(t.Context(), nil, way)
				require.NoError(t, err)
				u.Files, u.Bits = nil, r
				t.Cleanup(func() { r.Close() })
			}
			_, err = c.Assemble(t.Context(), u)
			require.ErrorIs(t, err, errBroken)
			l := newLease(t, c)
			known, err := c.Match(t.Context(), f.Fingerprints(), l)
			require.NoError(t, err)
			assert.Less(t, len(known), 30)
			if len(known) > 0 {
				p, err := c.Assemble(t.Context(), Upload{Lease: l, Known: known})
				require.NoError(t, err)
				assert.Len(t, unpack(t, c, p.Key), len(known))
			}
		}
	}
}

type failNth struct {
	blob.Store
	fail int
	n    *int
}

func (f *failNth) Put(ctx context.Context, key string, r io.Reader) (blob.Info, error) {
	if *f.n++; *f.n-1 == f.fail {
		return blob.Info{}, errBroken
	}
	return f.Store.Put(ctx, key, r)
}
