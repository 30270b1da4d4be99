package layers

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type e struct {
	name string
	typ  byte // 0: a file, or a folder by its slash
	link string
	body string
	mode int64
}

func plain(t testing.TB, entries ...e) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Size: int64(len(e.body)), Mode: e.mode}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := w.Write([]byte(e.body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func of(t testing.TB, tar []byte) Layer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(tar)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return Layer{Digest: digest(b.Bytes()), DiffID: digest(tar), Open: reader(b.Bytes())}
}

func reader(b []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

func (l Layer) bytes(t testing.TB) []byte {
	t.Helper()
	r, err := l.Open(t.Context())
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

func layer(t testing.TB, entries ...e) Layer { t.Helper(); return of(t, plain(t, entries...)) }

// apply unpacks below a folder with a canary, and returns the tree as text.
func apply(t testing.TB, l Limits, all ...Layer) (map[string]string, Stats, error) {
	t.Helper()
	top := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(top, "canary"), []byte("alive"), 0o644))
	dir := filepath.Join(top, "root")
	require.NoError(t, os.Mkdir(dir, 0o755))
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	stats, err := Apply(t.Context(), root, all, l)
	b, cerr := os.ReadFile(filepath.Join(top, "canary"))
	require.NoError(t, cerr)
	require.Equal(t, "alive", string(b))
	beside, cerr := os.ReadDir(top)
	require.NoError(t, cerr)
	require.Len(t, beside, 2, "nothing is made outside")
	return treeOf(t, dir), stats, err
}

// treeOf is a folder as text.
func treeOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			tree[rel+"/"] = ""
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			tree[rel] = "->" + to
			return err
		default:
			b, err := os.ReadFile(p)
			tree[rel] = string(b)
			return err
		}
		return nil
	}))
	return tree
}

func TestLayersLieUponEachOther(t *testing.T) {
	tree, stats, err := apply(t, Limits{},
		layer(t, e{name: "usr/bin/"}, e{name: "usr/bin/a", body: "1"}, e{name: "bin", typ: tar.TypeSymlink, link: "usr/bin"},
			e{name: "etc/gone", body: "x"}, e{name: "etc/old/deep/x", body: "x"}, e{name: "opq/low", body: "x"}, e{name: "opq/sub/low", body: "x"},
			e{name: "was-dir/x", body: "x"}, e{name: "was-file", body: "x"}, e{name: "/abs", body: "absolute names are the image's"}),
		layer(t, e{name: "./bin/b", body: "through a link of the image"}, e{name: "etc/.wh.gone"}, e{name: "etc/.wh.old"}, e{name: "none/.wh.none"},
			e{name: "opq/high", body: "new"}, e{name: "opq/sub/high", body: "new"}, e{name: "opq/.wh..wh..opq"}, e{name: "was-dir", body: "file"},
			e{name: "was-file/"}, e{name: ".wh..wh.plnk/1"}, e{name: "hard", typ: tar.TypeLink, link: "usr/bin/a"},
			e{name: "dev/null", typ: tar.TypeChar}, e{name: "fifo", typ: tar.TypeFifo}, e{name: "closed/", mode: 0o100}, e{name: "closed/x", body: "in"}))
	require.NoError(t, err)
	delete(tree, ".wh..wh.plnk/")
	assert.Equal(t, map[string]string{
		"usr/": "", "usr/bin/": "", "usr/bin/a": "1", "usr/bin/b": "through a link of the image", "bin": "->usr/bin", "etc/": "",
		"opq/": "", "opq/high": "new", "opq/sub/": "", "opq/sub/high": "new", "was-dir": "file", "was-file/": "", "hard": "1",
		"abs": "absolute names are the image's", "closed/": "", "closed/x": "in", ".wh..wh.plnk/1": "",
	}, tree)
	assert.Equal(t, 2, stats.Skipped)
}

func TestAttacks(t *testing.T) {
	long := strings.Repeat("d/", 300) + "x"
	for name, tt := range map[string]struct {
		why    string
		layers [][]e
		limit  Limits
	}{
		"dots":                    {`".."`, [][]e{{{name: "../canary", body: "x"}}}, Limits{}},
		"dots within":             {`".."`, [][]e{{{name: "a/../../canary", body: "x"}}}, Limits{}},
		"behind a link out":       {"escapes", [][]e{{{name: "l", typ: tar.TypeSymlink, link: ".."}, {name: "l/canary", body: "x"}}}, Limits{}},
		"behind an absolute link": {"no folder of the image", [][]e{{{name: "l", typ: tar.TypeSymlink, link: "/"}, {name: "l/tmp/x", body: "x"}}}, Limits{}},
		"link of a lower layer":   {"escapes", [][]e{{{name: "l", typ: tar.TypeSymlink, link: "../"}}, {{name: "l/canary", body: "x"}}}, Limits{}},
		"whiteout behind a link":  {"leads out", [][]e{{{name: "l", typ: tar.TypeSymlink, link: ".."}}, {{name: "l/.wh.canary"}}}, Limits{}},
		"opaque behind a link":    {"leads out", [][]e{{{name: "l", typ: tar.TypeSymlink, link: ".."}}, {{name: "l/.wh..wh..opq"}}}, Limits{}},
		"whiteout of the parent":  {"whiteout", [][]e{{{name: "a/.wh..."}}}, Limits{}},
		"whiteout of nothing":     {"whiteout", [][]e{{{name: ".wh."}}}, Limits{}},
		"hard link out":           {`".."`, [][]e{{{name: "h", typ: tar.TypeLink, link: "../canary"}}}, Limits{}},
		"hard link through link":  {"no file of the image", [][]e{{{name: "l", typ: tar.TypeSymlink, link: ".."}, {name: "h", typ: tar.TypeLink, link: "l/canary"}}}, Limits{}},
		"hard link to nothing":    {"no file of the image", [][]e{{{name: "h", typ: tar.TypeLink, link: "later"}}}, Limits{}},
		"hard link to itself":     {"itself", [][]e{{{name: "h", body: "x"}, {name: "h", typ: tar.TypeLink, link: "h"}}}, Limits{}},
		"hard link into itself":   {"own place", [][]e{{{name: "h/x", body: "x"}, {name: "h", typ: tar.TypeLink, link: "h/x"}}}, Limits{}},
		"below a file":            {"no folder", [][]e{{{name: "f", body: "x"}, {name: "f/x", body: "x"}}}, Limits{}},
		"too deep":                {"too deep", [][]e{{{name: long, body: "x"}}}, Limits{}},
		"long part":               {"too long", [][]e{{{name: strings.Repeat("n", 256), body: "x"}}}, Limits{}},
		"root is a file":          {"place of the root", [][]e{{{name: ".", typ: tar.TypeSymlink, link: "/"}}}, Limits{}},
		"bytes":                   {"more than its limit", [][]e{{{name: "a", body: "12345"}}, {{name: "b", body: "12345"}}}, Limits{Bytes: 9}},
		"entries":                 {"more than 2", [][]e{{{name: "a"}, {name: "b"}}, {{name: "c"}}}, Limits{Entries: 2}},
		"names":                   {"memory", [][]e{{{name: strings.Repeat("a", 200)}, {name: strings.Repeat("b", 200)}}}, Limits{Names: 300}},
		"layers":                  {"2 layers", [][]e{{{name: "a"}}, {{name: "b"}}}, Limits{Layers: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var all []Layer
			for _, es := range tt.layers {
				all = append(all, layer(t, es...))
			}
			_, _, err := apply(t, tt.limit, all...)
			require.ErrorContains(t, err, tt.why)
			_, ok := errors.AsType[*LayerError](err)
			assert.True(t, ok, "%T", err)
		})
	}
}

func TestDigestsAreChecked(t *testing.T) {
	good := layer(t, e{name: "a", body: "x"})
	other := layer(t, e{name: "a", body: "y"})
	for name, l := range map[string]Layer{
		"bytes":   {Digest: other.Digest, DiffID: good.DiffID, Open: good.Open},
		"content": {Digest: good.Digest, DiffID: other.DiffID, Open: good.Open},
		"swapped": {Digest: good.Digest, DiffID: good.DiffID, Open: other.Open},
		"no tar":  {Digest: digest([]byte("no tar")), DiffID: digest([]byte("no tar")), Open: reader([]byte("no tar"))},
	} {
		s, err := Open(t.TempDir(), Limits{})
		require.NoError(t, err)
		_, _, err = s.Get(t.Context(), []Layer{l})
		_, ok := errors.AsType[*LayerError](err)
		assert.True(t, ok, "%s: %v", name, err)
		left, err := os.ReadDir(s.dir)
		require.NoError(t, err)
		assert.Empty(t, left, name)
	}
	broken := errors.New("the network is gone")
	l := Layer{Digest: good.Digest, DiffID: good.DiffID, Open: func(context.Context) (io.ReadCloser, error) { return nil, broken }}
	_, _, err := apply(t, Limits{}, l)
	require.ErrorIs(t, err, broken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := Open(t.TempDir(), Limits{})
	require.NoError(t, err)
	_, _, err = s.Get(ctx, []Layer{good})
	require.ErrorIs(t, err, context.Canceled)
}

func TestAStoreUnpacksOnceAndCollectsWhatNobodyHolds(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "tmp-left", "x"), 0o755))
	s, err := Open(dir, Limits{})
	require.NoError(t, err)
	assert.NoDirExists(t, filepath.Join(dir, "tmp-left"))
	base := layer(t, e{name: "a", body: "x"})
	var opened atomic.Int32
	counted := base
	counted.Open = func(ctx context.Context) (io.ReadCloser, error) { opened.Add(1); return base.Open(ctx) }
	var wg sync.WaitGroup
	releases := make(chan func(), 8)
	for range cap(releases) {
		wg.Go(func() {
			got, release, err := s.Get(t.Context(), []Layer{counted})
			if assert.NoError(t, err) {
				assert.FileExists(t, filepath.Join(got, "a"))
				releases <- release
			}
		})
	}
	wg.Wait()
	close(releases)
	assert.Equal(t, int32(1), opened.Load())
	future := time.Now().Add(time.Hour)
	id := strings.TrimPrefix(ChainID([]Layer{base}), "sha256:")
	require.NoError(t, s.Collect(future))
	assert.DirExists(t, filepath.Join(dir, id), "it is held")
	for r := range releases {
		r()
		r()
	}
	require.NoError(t, s.Collect(time.Now().Add(-time.Hour)))
	assert.DirExists(t, filepath.Join(dir, id), "it was held a moment ago")
	require.NoError(t, s.Collect(future))
	left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	require.NoError(t, err)
	assert.Empty(t, left)
	_, release, err := s.Get(t.Context(), []Layer{counted})
	require.NoError(t, err)
	release()
	assert.Equal(t, int32(2), opened.Load())
}

// zstdOf compresses with zstd, with a frame before and after that is to be skipped, as some builders put tables of contents there.
func zstdOf(t testing.TB, tar []byte, options ...zstd.EOption) Layer {
	t.Helper()
	z, err := zstd.NewWriter(nil, options...)
	require.NoError(t, err)
	defer z.Close()
	skip := []byte("\x50\x2a\x4d\x18\x04\x00\x00\x00toc!")
	b := append(z.EncodeAll(tar, nil), skip...)
	return Layer{Digest: digest(b), DiffID: digest(tar), Open: reader(b)}
}

func TestHowLayersAreCompressed(t *testing.T) {
	t.Parallel()
	tree := plain(t, e{name: "a/"}, e{name: "a/f", body: strings.Repeat("text ", 100_000)})
	for name, l := range map[string]Layer{"plain": {Digest: digest(tree), DiffID: digest(tree), Open: reader(tree)}, "gzip": of(t, tree), "zstd": zstdOf(t, tree)} {
		got, stats, err := apply(t, Limits{}, l)
		require.NoError(t, err, name)
		assert.Contains(t, got, "a/f", name)
		assert.Equal(t, int64(500_000), stats.Bytes, name)
	}
	bad := zstdOf(t, tree)
	b := []byte("\x28\xb5\x2f\xfd\x00\xff\x00\x00\x00") // a window of more than a terabyte
	for name, l := range map[string]Layer{
		"cut": {Digest: bad.Digest, DiffID: bad.DiffID, Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, err := bad.Open(ctx)
			return io.NopCloser(io.LimitReader(r, 20)), err
		}},
		"window":  {Digest: digest(b), DiffID: digest(tree), Open: reader(b)},
		"content": {Digest: bad.Digest, DiffID: digest(b), Open: bad.Open},
	} {
		_, _, err := apply(t, Limits{}, l)
		_, ok := errors.AsType[*LayerError](err)
		assert.True(t, ok, "%s: %v", name, err)
	}
}

// Owners are those that were asked for: root's programs unpack for somebody else, or as the image says.
func TestOwners(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	tree := func() []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7, Gid: 8}, {Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 9, Gid: 10},
			{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Uid: 11, Gid: 12}, {Name: "implied/too/g", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 13},
			{Name: "sticky/", Typeflag: tar.TypeDir, Mode: 0o1777}, {Name: "set/", Typeflag: tar.TypeDir, Mode: 0o3777},
			{Name: "d/many", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 65535, Gid: 65536}} {
			require.NoError(t, w.WriteHeader(&h))
		}
		require.NoError(t, w.Close())
		return b.Bytes()
	}()
	for name, c := range map[string]struct {
		limits Limits
		want   map[string][2]uint32
	}{
		"mine":   {Limits{}, map[string][2]uint32{"d": {0, 0}, "d/f": {0, 0}, "d/l": {0, 0}, "implied": {0, 0}}},
		"one's":  {Limits{Owner: 65534}, map[string][2]uint32{".": {65534, 65534}, "d": {65534, 65534}, "d/f": {65534, 65534}, "d/l": {65534, 65534}, "implied": {65534, 65534}, "implied/too": {65534, 65534}}},
		"theirs": {Limits{KeepOwners: true}, map[string][2]uint32{".": {0, 0}, "d": {7, 8}, "d/f": {9, 10}, "d/l": {11, 12}, "implied": {0, 0}, "implied/too/g": {13, 0}, "d/many": {65535, 65536}}},
		"theirs, of users of their own": {Limits{KeepOwners: true, FirstUser: 1 << 30}, map[string][2]uint32{".": {1 << 30, 1 << 30}, "d": {1<<30 + 7, 1<<30 + 8}, "d/l": {1<<30 + 11, 1<<30 + 12},
			"implied": {1 << 30, 1 << 30}, "implied/too": {1 << 30, 1 << 30}, "implied/too/g": {1<<30 + 13, 1 << 30}, "d/many": {1<<30 + 65535, 1<<30 + 65534}}},
	} {
		s, err := Open(t.TempDir(), c.limits)
		require.NoError(t, err)
		dir, release, err := s.Get(t.Context(), []Layer{of(t, tree)})
		require.NoError(t, err)
		for file, want := range c.want {
			var st unix.Stat_t
			require.NoError(t, unix.Lstat(filepath.Join(dir, file), &st))
			assert.Equal(t, want, [2]uint32{st.Uid, st.Gid}, "%s: %s", name, file)
			assert.Zero(t, st.Mode&0o6000, "set-id bits are not kept")
		}
		for file, want := range map[string]fs.FileMode{"sticky": fs.ModeSticky, "set": fs.ModeSticky | fs.ModeSetgid} {
			info, err := os.Stat(filepath.Join(dir, file))
			require.NoError(t, err)
			if !c.limits.KeepOwners {
				want &^= fs.ModeSetgid
			}
			assert.Equal(t, want|0o777|fs.ModeDir, info.Mode(), "%s: %s", name, file)
		}
		release()
	}
}

func FuzzApply(f *testing.F) {
	f.Add(zstdOf(f, plain(f, e{name: "a", body: "x"})).bytes(f))
	f.Add(plain(f, e{name: "a/b", body: "x"}, e{name: "l", typ: tar.TypeSymlink, link: ".."}, e{name: "l/.wh.canary"}))
	f.Add(plain(f, e{name: "h", typ: tar.TypeLink, link: "a"}, e{name: "a/.wh..wh..opq"}))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = apply(t, Limits{Bytes: 1 << 20, Entries: 100}, Layer{Digest: digest(b), DiffID: digest(b), Open: reader(b)})
	})
}
