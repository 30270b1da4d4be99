package resourcematch

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
)

// TestMatch holds the cases of resource_match_spec.rb and resource_pool_spec.rb.
func TestMatch(t *testing.T) {
	t.Parallel()
	at := func(n int) string { return strings.Repeat("x", n) }
	for _, tc := range []struct {
		name string
		ask  []Fingerprint
		want []string // paths
	}{
		{"one", []Fingerprint{fp("a", alpha, 0o644), fp("x", "something unknown", 0o644)}, []string{"a"}},
		{"many, in the order of the request", []Fingerprint{fp("z", beta, 0o644), fp("x", "something unknown", 0o644), fp("a", alpha, 0o600), fp("b", beta, 0o777)}, []string{"z", "a", "b"}},
		{"none", []Fingerprint{fp("x", "something unknown", 0o644)}, nil},
		{"nothing asked", nil, nil},
		{"size of the minimum", []Fingerprint{fp("a", at(10), 0o644)}, nil},
		{"size above the minimum", []Fingerprint{fp("a", at(11), 0o644)}, []string{"a"}},
		{"size below the maximum", []Fingerprint{fp("a", at(999), 0o644)}, []string{"a"}},
		{"size of the maximum", []Fingerprint{fp("a", at(1000), 0o644)}, nil},
		{"mode too low", []Fingerprint{fp("a", alpha, 0o577)}, nil},
		{"mode just enough", []Fingerprint{fp("a", alpha, 0o600)}, []string{"a"}},
		{"no mode", []Fingerprint{fp("a", alpha, 0)}, nil},
		{"sha1 too short does not break", []Fingerprint{{Path: "a", SHA1: "abc", Size: 17, Mode: 0o644}, fp("b", beta, 0o644)}, []string{"b"}},
		{"sha1 missing", []Fingerprint{{Path: "a", Size: 17, Mode: 0o644}}, nil},
		{"sha1 that is none", []Fingerprint{{Path: "a", SHA1: strings.Repeat("z", 40), Size: 17, Mode: 0o644}}, nil},
		{"sha1 in upper case", []Fingerprint{{Path: "a", SHA1: strings.ToUpper(sha1Hex([]byte(alpha))), Size: int64(len(alpha)), Mode: 0o644}}, []string{"a"}},
		{"size of another content", []Fingerprint{{Path: "a", SHA1: sha1Hex([]byte(alpha)), Size: 100, Mode: 0o644}}, nil},
		{"sha256 of another content", []Fingerprint{{Path: "a", SHA1: sha1Hex([]byte(alpha)), SHA256: strings.Repeat("0", 64), Size: int64(len(alpha)), Mode: 0o644}}, nil},
		{"sha256 of this content", []Fingerprint{{Path: "a", SHA1: sha1Hex([]byte(alpha)), SHA256: sha256Hex([]byte(alpha)), Size: int64(len(alpha)), Mode: 0o644}}, []string{"a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, l := newCache(t, small)
			knows(t, c, l, alpha, beta, at(10), at(11), at(999), at(1000))
			got, err := c.Match(t.Context(), tc.ask, newLease(t, c))
			require.NoError(t, err)
			var paths []string
			for _, k := range got {
				paths = append(paths, k.Path)
			}
			assert.Equal(t, tc.want, paths)
		})
	}
}

func TestDefaultLimits(t *testing.T) {
	t.Parallel()
	c, _ := newCache(t, Config{})
	assert.False(t, c.fits(64<<10, 0o644))
	assert.True(t, c.fits(64<<10+1, 0o600))
	assert.True(t, c.fits(512<<20-1, 0o600))
	assert.False(t, c.fits(512<<20, 0o644))
	assert.False(t, c.fits(1<<20, 0o577))
	c, _ = newCache(t, Config{MinSize: -1, MaxSize: -1})
	assert.True(t, c.fits(0, 0o644))
	assert.True(t, c.fits(1<<40, 0o644))
	_, err := New(Config{})
	assert.ErrorContains(t, err, "Config.Catalog is nil")
}

// A match pins: a sweep between match and upload takes nothing of it, and takes all when
// the lease has ended.
func TestMatchPins(t *testing.T) {
	t.Parallel()
	c, put := newCache(t, small)
	knows(t, c, put, alpha)
	l := newLease(t, c)
	known, err := c.Match(t.Context(), []Fingerprint{fp("a", alpha, 0o644)}, l)
	require.NoError(t, err)
	require.NoError(t, c.catalog.Release(t.Context(), put))
	_, err = c.catalog.Sweep(t.Context())
	require.NoError(t, err)
	p, err := c.Assemble(t.Context(), Upload{Lease: l, Known: known})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "0644 " + alpha}, unpack(t, c, p.Key))
	require.NoError(t, c.catalog.Release(t.Context(), l))
	_, err = c.catalog.Sweep(t.Context())
	require.NoError(t, err)
	assert.Empty(t, cached(t, c, alpha))
	_, err = c.Match(t.Context(), known, l)
	assert.ErrorIs(t, err, catalog.ErrLease)
	_, err = c.Assemble(t.Context(), Upload{Lease: newLease(t, c), Known: known})
	assert.Equal(t, Unknown, reason(t, err))
}

func TestFingerprintJSON(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal([]Fingerprint{fp("a", "a", 0o644), {Path: "b"}})
	require.NoError(t, err)
	assert.JSONEq(t, `[{"path":"a","sha1":"86f7e437faa5a7fce15d1ddcb9eaeaea377667b8","size":1,"mode":"0644"},{"path":"b","sha1":"","size":0}]`, string(b))
	var back []Fingerprint
	require.NoError(t, json.Unmarshal(b, &back))
	assert.Equal(t, Mode(0o644), back[0].Mode)
	assert.Error(t, json.Unmarshal([]byte(`[{"mode":"u+x"}]`), &back))
}

// What changes between scan and upload is told, and nothing false becomes known.
func TestFileChangesAfterScan(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, before, after string }{
		{"content", alpha, strings.ToUpper(alpha)},
		{"longer", alpha, alpha + "!"},
		{"shorter", alpha, alpha[:5]},
		{"small content", "short", "SHORT"},
		{"small, longer", "short", alpha},
		{"empty no more", "", "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, l := newCache(t, small)
			app := fstest.MapFS{"a": {Data: []byte(tc.before), Mode: 0o644}, "b": {Data: []byte(beta), Mode: 0o644}}
			f, err := Scan(t.Context(), app, ScanOptions{})
			require.NoError(t, err)
			app["a"].Data = []byte(tc.after)
			_, err = c.Assemble(t.Context(), Upload{Lease: l, Files: f})
			assert.Equal(t, Changed, reason(t, err))
			assert.ErrorContains(t, err, `"a" is not what its fingerprint says`)
			for _, format := range []Format{Tar, Zip} {
				r, err := f.Bits(t.Context(), nil, format)
				require.NoError(t, err)
				_, err = c.Assemble(t.Context(), Upload{Lease: l, Bits: r})
				require.NoError(t, r.Close())
				assert.Equal(t, Changed, reason(t, err))
			}
			assert.NotContains(t, cached(t, c, tc.before, tc.after), "a")
		})
	}
}

// A truncated or damaged upload is refused whatever it is, and leaves no package.
func TestDamagedUploads(t *testing.T) {
	t.Parallel()
	c, l := newCache(t, small)
	f, err := Scan(t.Context(), fstest.MapFS{"a": {Data: []byte(alpha), Mode: 0o644}, "s": {Data: []byte("short"), Mode: 0o644}}, ScanOptions{})
	require.NoError(t, err)
	for _, format := range []Format{Tar, TarGz, Zip} {
		r, err := f.Bits(t.Context(), nil, format)
		require.NoError(t, err)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		for cut := 1; cut < len(body)-1024; cut += 1 + len(body)/40 {
			_, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: bytes.NewReader(body[:cut])})
			var e *Error
			assert.ErrorAs(t, err, &e, "%s cut at %d", format, cut)
		}
	}
	_, err = c.Assemble(t.Context(), Upload{Lease: l, Bits: strings.NewReader("this is not an archive, whatever you do with it")})
	assert.Equal(t, BadArchive, reason(t, err))
	_, err = c.Assemble(t.Context(), Upload{Lease: l, Bits: strings.NewReader("")})
	assert.Equal(t, NoInput, reason(t, err))
	_, err = c.Assemble(t.Context(), Upload{Lease: l, Bits: bytes.NewReader(makeZip(t))})
	assert.Equal(t, BadArchive, reason(t, err))
}

// Whoever gives a stream up leaves no goroutine behind; TestMain sees to it.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	c := openCache(t, blob.NewMemory(), small)
	l := newLease(t, c)
	f, err := Scan(t.Context(), fstest.MapFS{"a": {Data: bytes.Repeat([]byte("x"), 1<<20), Mode: 0o644}}, ScanOptions{})
	require.NoError(t, err)
	p, err := c.Assemble(t.Context(), Upload{Lease: l, Files: f})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	for _, open := range []func() (io.ReadCloser, error){
		func() (io.ReadCloser, error) { return c.Open(ctx, p.Key, Tar) },
		func() (io.ReadCloser, error) { return f.Bits(ctx, nil, TarGz) },
	} {
		r, err := open()
		require.NoError(t, err)
		_, err = r.Read(make([]byte, 10))
		require.NoError(t, err)
		require.NoError(t, r.Close())
		_, err = r.Read(make([]byte, 10))
		assert.ErrorIs(t, err, io.ErrClosedPipe)
	}
	r, err := c.Open(ctx, p.Key, Tar)
	require.NoError(t, err)
	cancel()
	_, err = io.Copy(io.Discard, r)
	assert.ErrorIs(t, err, context.Canceled)
	require.NoError(t, r.Close())
	_, err = c.Assemble(ctx, Upload{Lease: l, Files: f})
	assert.ErrorIs(t, err, context.Canceled)
}
