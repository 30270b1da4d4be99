package resourcematch

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zip"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
)

// small limits make small files cacheable: 10 < size < 1000.
var small = Config{MinSize: 10, MaxSize: 1000}

func newCache(t testing.TB, cfg Config) (*Cache, catalog.Lease) {
	t.Helper()
	if cfg.TempDir == "" {
		cfg.TempDir = t.TempDir()
	}
	c := openCache(t, blob.NewMemory(), cfg)
	return c, newLease(t, c)
}

// fp returns the fingerprint of a content under a path.
func fp(path, text string, mode Mode) Fingerprint {
	return Fingerprint{Path: path, SHA1: sha1Hex([]byte(text)), Size: int64(len(text)), Mode: mode}
}

// knows puts contents into the cache, each in a blob of its own.
func knows(t testing.TB, c *Cache, l catalog.Lease, texts ...string) {
	t.Helper()
	for _, s := range texts {
		knowsPack(t, c, l, s)
	}
}

// knowsPack puts contents into the cache, all in one blob, and returns its key.
func knowsPack(t testing.TB, c *Cache, l catalog.Lease, texts ...string) string {
	t.Helper()
	var parts []catalog.Part
	var off int64
	for _, s := range texts {
		parts = append(parts, catalog.Part{Alias: sha1Hex([]byte(s)), Digest: sha256Hex([]byte(s)), Offset: off, Size: int64(len(s))})
		off += int64(len(s))
	}
	ref, err := c.catalog.PutParts(context.Background(), KindFiles, l, strings.NewReader(strings.Join(texts, "")), func() []catalog.Part { return parts })
	require.NoError(t, err)
	return ref.Key
}

// cached tells which of the contents would match.
func cached(t *testing.T, c *Cache, texts ...string) []string {
	t.Helper()
	var fps []Fingerprint
	for _, s := range texts {
		fps = append(fps, fp(s, s, 0o644))
	}
	known, err := c.Match(t.Context(), fps, newLease(t, c))
	require.NoError(t, err)
	var out []string
	for _, k := range known {
		out = append(out, k.Path)
	}
	return out
}

// unpack reads a package as a listing: "MODE text", "dir MODE" or "-> target".
func unpack(t *testing.T, c *Cache, key string) map[string]string {
	t.Helper()
	r, err := c.Open(t.Context(), key, Tar)
	require.NoError(t, err)
	defer r.Close()
	return readTar(t, r)
}

func readTar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		body, err := io.ReadAll(tr)
		require.NoError(t, err)
		switch h.Typeflag {
		case tar.TypeDir:
			out[h.Name] = "dir " + Mode(h.Mode).String()
		case tar.TypeSymlink:
			out[h.Name] = "-> " + h.Linkname
		default:
			out[h.Name] = Mode(h.Mode).String() + " " + string(body)
		}
	}
}

const (
	alpha = "alpha alpha alpha"
	beta  = "beta beta beta beta"
)

// TestPackages holds the cases of Cloud Foundry's local_bits_packer_spec.rb.
func TestPackages(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	for _, tc := range []struct {
		name    string
		cfg     Config
		have    []string // contents that are known before
		zip     []zipFile
		bad     bool // the zip is damaged
		known   []Fingerprint
		noCache bool
		want    map[string]string
		reason  Reason
		text    string
		cached  []string // of alpha, beta, long, "short" afterwards
	}{
		{name: "zip only", cfg: small, zip: []zipFile{{"a", alpha, 0o644}, {"d/", "", fs.ModeDir | 0o755}, {"d/s", "short", 0o755}},
			want: map[string]string{"a": "0644 " + alpha, "d/": "dir 0755", "d/s": "0755 short"}, cached: []string{alpha}},
		{name: "resources only", cfg: small, have: []string{alpha, beta}, known: []Fingerprint{fp("x/a", alpha, 0o755), fp("b", beta, 0o600)},
			want: map[string]string{"x/a": "0755 " + alpha, "b": "0600 " + beta}, cached: []string{alpha, beta}},
		{name: "both", cfg: small, have: []string{alpha}, zip: []zipFile{{"b", beta, 0o644}}, known: []Fingerprint{fp("a", alpha, 0o644)},
			want: map[string]string{"a": "0644 " + alpha, "b": "0644 " + beta}, cached: []string{alpha, beta}},
		{name: "neither", cfg: small, reason: NoInput, text: "Upload must include either resources or bits"},
		{name: "zip missing and resources", cfg: small, have: []string{alpha}, known: []Fingerprint{fp("a", alpha, 0o644)},
			want: map[string]string{"a": "0644 " + alpha}, cached: []string{alpha}},
		{name: "total of resources too large", cfg: Config{MinSize: 10, MaxPackage: 30}, have: []string{alpha, beta}, known: []Fingerprint{fp("a", alpha, 0o644), fp("b", beta, 0o644)},
			reason: TooLarge, text: "Package may not be larger than 30 bytes", cached: nil},
		{name: "bits too large: nothing cached", cfg: Config{MinSize: 10, MaxSize: 3000, MaxPackage: 1000}, zip: []zipFile{{"a", alpha, 0o644}, {"l", long, 0o644}},
			reason: TooLarge, text: `Package may not be larger than 1000 bytes; "l" takes it beyond that`},
		{name: "bad zip", cfg: small, bad: true, zip: []zipFile{{"a", alpha, 0o644}}, reason: BadArchive, text: "Invalid zip archive ("},
		{name: "new bits cached", cfg: small, zip: []zipFile{{"a", alpha, 0o644}, {"b", beta, 0o600}},
			want: map[string]string{"a": "0644 " + alpha, "b": "0600 " + beta}, cached: []string{alpha, beta}},
		{name: "flag off: nothing cached", cfg: small, noCache: true, zip: []zipFile{{"a", alpha, 0o644}},
			want: map[string]string{"a": "0644 " + alpha}},
		{name: "unreadable, undeletable, untraversable directories", cfg: small,
			zip:  []zipFile{{"r/", "", fs.ModeDir | 0o333}, {"r/a", alpha, 0o644}, {"w/", "", fs.ModeDir | 0o555}, {"w/s", "short", 0o644}, {"x/", "", fs.ModeDir | 0o666}, {"x/s", "short", 0}},
			want: map[string]string{"r/": "dir 0733", "r/a": "0644 " + alpha, "w/": "dir 0755", "w/s": "0644 short", "x/": "dir 0766", "x/s": "0644 short"}, cached: []string{alpha}},
		{name: "symlinks not cached, real files are", cfg: small, zip: []zipFile{{"a", alpha, 0o644}, {"l", "some/long/target", fs.ModeSymlink | 0o777}},
			want: map[string]string{"a": "0644 " + alpha, "l": "-> some/long/target"}, cached: []string{alpha}},
		{name: "above max size not cached", cfg: small, zip: []zipFile{{"l", long, 0o644}}, want: map[string]string{"l": "0644 " + long}},
		{name: "below min size not cached", cfg: small, zip: []zipFile{{"s", "short", 0o644}, {"e", "", 0o644}}, want: map[string]string{"s": "0644 short", "e": "0644 "}},
		{name: "low mode not cached", cfg: small, zip: []zipFile{{"a", alpha, 0o400}}, want: map[string]string{"a": "0400 " + alpha}},
		{name: "matched file mode 0744 by default", cfg: small, have: []string{alpha}, known: []Fingerprint{fp("a", alpha, 0)},
			want: map[string]string{"a": "0744 " + alpha}, cached: []string{alpha}},
		{name: "matched file mode as asked", cfg: small, have: []string{alpha}, known: []Fingerprint{fp("a", alpha, 0o777)},
			want: map[string]string{"a": "0777 " + alpha}, cached: []string{alpha}},
		{name: "mode that forbids the owner", cfg: small, have: []string{alpha}, known: []Fingerprint{fp("a", alpha, 0o577)}, reason: BadMode,
			text: "The resource file mode is invalid: File mode '0577' with path 'a' is invalid. Minimum file mode is '0600'", cached: []string{alpha}},
		{name: "path that leaves the app", cfg: small, have: []string{alpha}, known: []Fingerprint{fp("../a", alpha, 0)}, reason: BadPath,
			text: "The resource file path is invalid: File path '../a' is not safe.", cached: []string{alpha}},
		{name: "path that is absolute", cfg: small, have: []string{alpha}, known: []Fingerprint{fp("/a", alpha, 0)}, reason: BadPath, text: "'/a' is not safe", cached: []string{alpha}},
		{name: "path that stays inside", cfg: small, have: []string{alpha}, known: []Fingerprint{fp("d/../a", alpha, 0o644)}, want: map[string]string{"a": "0644 " + alpha}, cached: []string{alpha}},
		{name: "zip path that leaves the app", cfg: small, zip: []zipFile{{"../../a", alpha, 0o644}}, reason: BadPath, text: "'../../a' is not safe"},
		{name: "file in the place of a directory", cfg: small, zip: []zipFile{{"a", "f", 0o644}, {"a/b", "g", 0o644}}, reason: BadArchive, text: `it lies in "a", which is not a folder`},
		{name: "file behind a link", cfg: small, zip: []zipFile{{"a", "/etc", fs.ModeSymlink | 0o777}, {"a/b", "g", 0o644}}, reason: BadArchive, text: `it lies in "a", which is not a folder`},
		{name: "resource that is not there", cfg: small, known: []Fingerprint{fp("a", alpha, 0)}, reason: Unknown, text: "is not in the cache"},
		{name: "resource with too short a sha1", cfg: small, known: []Fingerprint{{Path: "a", SHA1: "abc", Size: 3}}, reason: Unknown, text: "SHA-1 abc"},
		{name: "resource with a wrong size", cfg: small, have: []string{alpha}, known: []Fingerprint{{Path: "a", SHA1: sha1Hex([]byte(alpha)), Size: 3}}, reason: Unknown, text: "is not in the cache", cached: []string{alpha}},
		{name: "resource replaces the file of its path", cfg: small, have: []string{alpha}, zip: []zipFile{{"a", "old", 0o644}}, known: []Fingerprint{fp("a", alpha, 0o644)},
			want: map[string]string{"a": "0644 " + alpha}, cached: []string{alpha}},
		{name: "one content under several names", cfg: small, zip: []zipFile{{"a", alpha, 0o644}, {"b", alpha, 0o755}},
			want: map[string]string{"a": "0644 " + alpha, "b": "0755 " + alpha}, cached: []string{alpha}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg := tc.cfg
			cfg.TempDir = t.TempDir()
			c, l := newCache(t, cfg)
			knows(t, c, l, tc.have...)
			u := Upload{Lease: l, Known: tc.known, NoCache: tc.noCache}
			if tc.zip != nil {
				body := makeZip(t, tc.zip...)
				if tc.bad {
					body = body[:len(body)-10]
				}
				u.Bits = iotest.HalfReader(bytes.NewReader(body))
			}
			p, err := c.Assemble(t.Context(), u)
			if tc.reason != "" {
				assert.Equal(t, tc.reason, reason(t, err))
				assert.ErrorContains(t, err, tc.text)
			} else {
				require.NoError(t, err)
				assert.Equal(t, tc.want, unpack(t, c, p.Key))
			}
			if tc.reason != TooLarge || tc.have == nil {
				assert.ElementsMatch(t, tc.cached, cached(t, c, alpha, beta, long, "short"))
			}
			left, err := os.ReadDir(cfg.TempDir)
			require.NoError(t, err)
			assert.Empty(t, left, "temporary files stay behind")
		})
	}
}

// The corrupted cached file of the same list: here it shows when the package is read.
func TestCorruptedCachedFileIsDeleted(t *testing.T) {
	t.Parallel()
	store := blob.NewMemory()
	c := openCache(t, store, small)
	l := newLease(t, c)
	knows(t, c, l, alpha, beta)
	p, err := c.Assemble(t.Context(), Upload{Lease: l, Known: []Fingerprint{fp("a", alpha, 0), fp("b", beta, 0)}})
	require.NoError(t, err)
	m, err := c.Manifest(t.Context(), p.Key)
	require.NoError(t, err)
	for _, damage := range []string{"ALPHA alpha alpha", "alph", ""} {
		key := m.Blobs[m.Entries[0].Blob]
		_, err = store.Put(t.Context(), key, strings.NewReader(damage))
		if damage == "" {
			err = store.Delete(t.Context(), key)
		}
		require.NoError(t, err)
		r, err := c.Open(t.Context(), p.Key, Tar)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, r)
		require.NoError(t, r.Close())
		assert.Equal(t, Corrupt, reason(t, err))
		assert.ErrorContains(t, err, "One or more cached resources did not match the given checksum. They have been deleted; please retry package upload.")
	}
	assert.Equal(t, []string{beta}, cached(t, c, alpha, beta))

	// The retry stores it anew.
	p, err = c.Assemble(t.Context(), Upload{Lease: l, Known: []Fingerprint{fp("b", beta, 0)}, Bits: bytes.NewReader(makeZip(t, zipFile{"a", alpha, 0o644}))})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "0644 " + alpha, "b": "0744 " + beta}, unpack(t, c, p.Key))
	assert.Len(t, cached(t, c, alpha, beta), 2)
}

func TestStoreFailure(t *testing.T) {
	t.Parallel()
	c := openCache(t, brokenStore{blob.NewMemory()}, small)
	for _, zipped := range [][]zipFile{{{"a", alpha, 0o644}}, {{"s", "short", 0o644}}} {
		_, err := c.Assemble(t.Context(), Upload{Lease: newLease(t, c), Bits: bytes.NewReader(makeZip(t, zipped...))})
		assert.ErrorIs(t, err, errBroken)
	}
}

var errBroken = errors.New("the disk is on fire")

type brokenStore struct{ blob.Store }

func (brokenStore) Put(context.Context, string, io.Reader) (blob.Info, error) {
	return blob.Info{}, errBroken
}

// Every way that an app can take gives the same package.
func TestAllWaysGiveTheSamePackage(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", (300<<10)/16)
	app := fstest.MapFS{
		"a":       {Data: []byte(alpha), Mode: 0o644},
		"d/b":     {Data: []byte(beta), Mode: 0o755},
		"d/big":   {Data: []byte(big), Mode: 0o644},
		"d/big2":  {Data: []byte(big), Mode: 0o600},
		"d/empty": {Mode: fs.ModeDir | 0o755},
		"d":       {Mode: fs.ModeDir | 0o755},
		"low":     {Data: []byte(alpha), Mode: 0o400},
		"s":       {Data: []byte("short"), Mode: 0o644},
		"s0":      {Mode: 0o644},
	}
	var want *Package
	var listings []map[string]string
	check := func(name string, u func(t *testing.T, c *Cache, f *Files, known []Fingerprint) Upload, have ...string) {
		t.Run(name, func(t *testing.T) {
			c, l := newCache(t, Config{MinSize: 10, MaxSize: 1 << 30})
			knows(t, c, l, have...)
			f, err := Scan(t.Context(), app, ScanOptions{})
			require.NoError(t, err)
			known, err := c.Match(t.Context(), f.Fingerprints(), l)
			require.NoError(t, err)
			up := u(t, c, f, known)
			up.Lease, up.Known = l, known
			p, err := c.Assemble(t.Context(), up)
			require.NoError(t, err)
			assert.Equal(t, f.Size(), p.Size)
			assert.Equal(t, len(known), p.KnownFiles)
			if want == nil {
				want = p
			}
			assert.Equal(t, want.SHA256, p.SHA256)
			assert.Equal(t, 7, p.Files)
			for _, key := range p.Keys {
				r, err := c.catalog.Open(t.Context(), key)
				require.NoError(t, err)
				r.Close()
			}
			assert.Contains(t, p.Keys, p.Key)
			r, err := c.Open(t.Context(), p.Key, Tar)
			require.NoError(t, err)
			body, err := io.ReadAll(r)
			require.NoError(t, err)
			require.NoError(t, r.Close())
			got := readTar(t, bytes.NewReader(body))
			listings = append(listings, got)
			assert.Equal(t, []string{"a", "d/", "d/b", "d/big", "d/big2", "d/empty/", "low", "s", "s0"}, slices.Sorted(maps.Keys(got)))
			assert.Equal(t, "0400 "+alpha, got["low"])
			assert.True(t, got["d/big2"] == "0600 "+big)
		})
	}
	files := func(t *testing.T, c *Cache, f *Files, known []Fingerprint) Upload { return Upload{Files: f} }
	bits := func(format Format) func(t *testing.T, c *Cache, f *Files, known []Fingerprint) Upload {
		return func(t *testing.T, c *Cache, f *Files, known []Fingerprint) Upload {
			r, err := f.Bits(t.Context(), known, format)
			require.NoError(t, err)
			t.Cleanup(func() { r.Close() })
			return Upload{Bits: r}
		}
	}
	check("files", files)
	check("files, some known", files, alpha, big)
	check("files without digests", func(t *testing.T, c *Cache, _ *Files, known []Fingerprint) Upload {
		f, err := Scan(t.Context(), app, ScanOptions{NoHash: true})
		require.NoError(t, err)
		return Upload{Files: f}
	})
	for _, format := range []Format{Tar, TarGz, Zip} {
		check(string(format), bits(format))
		check(string(format)+", some known", bits(format), beta, big)
	}
	check("a tar of somebody else", func(t *testing.T, c *Cache, f *Files, known []Fingerprint) Upload {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}))
		for _, e := range f.Entries {
			h := &tar.Header{Name: "./" + e.Path, Mode: int64(e.Mode), Size: e.Size, Typeflag: tar.TypeReg}
			if e.Dir {
				h.Typeflag = tar.TypeDir
			}
			require.NoError(t, w.WriteHeader(h))
			if e.Regular() {
				_, err := w.Write(app[e.Path].Data)
				require.NoError(t, err)
			}
		}
		require.NoError(t, w.Close())
		return Upload{Bits: &b}
	})
	check("a zip in a file", func(t *testing.T, c *Cache, f *Files, known []Fingerprint) Upload {
		r, err := f.Bits(t.Context(), known, Zip)
		require.NoError(t, err)
		defer r.Close()
		file, err := os.Create(filepath.Join(t.TempDir(), "app.zip"))
		require.NoError(t, err)
		_, err = file.WriteString("before")
		require.NoError(t, err)
		_, err = io.Copy(file, r)
		require.NoError(t, err)
		_, err = file.Seek(6, io.SeekStart)
		require.NoError(t, err)
		t.Cleanup(func() { file.Close() })
		return Upload{Bits: file}
	}, alpha)
	for _, l := range listings {
		assert.True(t, maps.Equal(listings[0], l), "the package holds something else")
	}
}

func TestOpenFormats(t *testing.T) {
	t.Parallel()
	c, l := newCache(t, small)
	p, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: bytes.NewReader(makeZip(t,
		zipFile{"z/", "", fs.ModeDir | 0o755}, zipFile{"a", alpha, 0o755}, zipFile{"b", "b", 0o644}, zipFile{"l", "a", fs.ModeSymlink | 0o777}))})
	require.NoError(t, err)
	read := func(f Format) []byte {
		r, err := c.Open(t.Context(), p.Key, f)
		require.NoError(t, err)
		defer r.Close()
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		return b
	}
	g, err := gzip.NewReader(bytes.NewReader(read(TarGz)))
	require.NoError(t, err)
	assert.Equal(t, readTar(t, bytes.NewReader(read(Tar))), readTar(t, g))
	body := read(Zip)
	assert.Equal(t, body, read(Zip), "not the same bytes each time")
	z, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	require.NoError(t, err)
	var names []string
	for _, f := range z.File {
		names = append(names, f.Mode().String()+" "+f.Name)
	}
	assert.Equal(t, []string{"drwxr-xr-x z/", "-rwxr-xr-x a", "-rw-r--r-- b", "Lrwxrwxrwx l"}, names)
	// What Open wrote can be uploaded again.
	again, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: bytes.NewReader(body)})
	require.NoError(t, err)
	assert.Equal(t, p.SHA256, again.SHA256)
	_, err = c.Open(t.Context(), p.Key, "rar")
	assert.ErrorContains(t, err, `"rar" is not known`)
	_, err = c.Open(t.Context(), "absent", Tar)
	assert.ErrorIs(t, err, fs.ErrNotExist)
}
