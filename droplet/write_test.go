package droplet_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/droplet"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type entry struct {
	name string // a slash at the end: a folder
	body string
	link string
	mode fs.FileMode
}

// large is enough for many blocks, and partly random so that it stays large.
var large = func() string {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for b.Len() < 2500<<10 {
		if r.IntN(3) == 0 {
			for range 50 {
				b.WriteByte(byte(r.Uint32()))
			}
		}
		b.WriteString("func main() { panic(err) } // ")
		b.WriteString(strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(40)))
	}
	return b.String()
}()

// tree has a file that is too large to be read ahead, largeTree one of several blocks.
func tree() []entry { return treeWith(large[:300<<10]) }

func largeTree() []entry { return treeWith(large) }

func treeWith(body string) []entry {
	return []entry{
		{name: "app/", mode: 0o755},
		{name: "app/lib/", mode: 0o750},
		{name: "app/lib/large", body: body, mode: 0o644},
		{name: "app/lib.txt", body: "text", mode: 0o600},
		{name: "app/run", body: "#!/bin/sh\n", mode: 0o755},
		{name: "app/empty", mode: 0o444},
		{name: "app/link", link: "lib/large"},
		{name: "app/abs", link: "/usr/bin/env"},
		{name: "app/" + strings.Repeat("long", 40) + "/", mode: 0o755},
		{name: "app/" + strings.Repeat("long", 40) + "/ünï", body: "x", mode: 0o644},
		{name: "logs/", mode: 0o755},
		{name: "staging_info.yml", body: `{"detected_buildpack":"go","start_command":"bin/web"}`, mode: 0o644},
		{name: "tmp/", mode: 0o555},
	}
}

func build(t testing.TB, entries []entry) string {
	t.Helper()
	dir := t.TempDir()
	for _, e := range entries {
		p := filepath.Join(dir, filepath.FromSlash(e.name))
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		switch {
		case e.link != "":
			require.NoError(t, os.Symlink(e.link, p))
			continue
		case strings.HasSuffix(e.name, "/"):
			require.NoError(t, os.MkdirAll(p, 0o755))
		default:
			require.NoError(t, os.WriteFile(p, []byte(e.body), 0o600))
		}
	}
	for _, e := range entries {
		if e.link == "" {
			require.NoError(t, os.Chmod(filepath.Join(dir, filepath.FromSlash(e.name)), e.mode))
		}
	}
	t.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				return os.Chmod(p, 0o755)
			}
			return nil
		})
	})
	return dir
}

func unixOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permission bits")
	}
}

func TestWriteIsAFunctionOfTheTree(t *testing.T) {
	unixOnly(t)
	// Not parallel: it changes GOMAXPROCS.
	var first bytes.Buffer
	info, err := droplet.Write(t.Context(), &first, build(t, largeTree()), droplet.Options{})
	require.NoError(t, err)
	assert.Equal(t, 6, info.Files)
	assert.Equal(t, int64(first.Len()), info.Size)
	for i := range 3 {
		es := largeTree()
		rand.Shuffle(len(es), func(i, j int) { es[i], es[j] = es[j], es[i] })
		dir := build(t, es)
		require.NoError(t, os.Chtimes(filepath.Join(dir, "app", "run"), time.Time{}, time.Unix(int64(1e9+i), 0)))
		old := runtime.GOMAXPROCS(1 + i%3)
		var b bytes.Buffer
		got, err := droplet.Write(t.Context(), &b, dir, droplet.Options{Parallel: i})
		runtime.GOMAXPROCS(old)
		require.NoError(t, err)
		assert.Equal(t, info, got)
		assert.True(t, bytes.Equal(first.Bytes(), b.Bytes()))
	}
}

func TestWriteGolden(t *testing.T) {
	t.Parallel()
	unixOnly(t)
	// A changed digest means that every droplet is uploaded anew: change it knowingly.
	for _, c := range []struct {
		plain bool
		want  string
	}{
		{true, "ed0dbbafecaca9c0fa96d2f3e22724aeae45de8085d0155e2b3dea4c75aac954"},
		{false, "6733461faaf567693147e65033a18a30f1f97789fc5bba0bb4b9879f18b511a0"},
	} {
		info, err := droplet.Write(t.Context(), io.Discard, build(t, largeTree()), droplet.Options{Plain: c.plain})
		require.NoError(t, err)
		assert.Equal(t, c.want, info.SHA256)
	}
}

func TestWriteOrderAndHeaders(t *testing.T) {
	t.Parallel()
	unixOnly(t)
	var b bytes.Buffer
	_, err := droplet.Write(t.Context(), &b, build(t, tree()), droplet.Options{})
	require.NoError(t, err)
	zr, err := gzip.NewReader(&b) // another implementation than the one that wrote
	require.NoError(t, err)
	var names []string
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		names = append(names, h.Name)
		assert.Equal(t, "vcap", h.Uname)
		assert.Equal(t, 2000, h.Gid)
		assert.Equal(t, 1980, h.ModTime.UTC().Year())
		if len(h.Name) < 100 {
			assert.Equal(t, tar.FormatUSTAR, h.Format, h.Name)
		}
	}
	long := "./app/" + strings.Repeat("long", 40) + "/"
	assert.Equal(t, []string{
		"./", "./staging_info.yml", "./app/", "./app/abs", "./app/empty", "./app/lib.txt", "./app/link", "./app/run",
		"./app/lib/", "./app/lib/large", long, long + "ünï", "./logs/", "./tmp/",
	}, names)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	unixOnly(t)
	for name, o := range map[string]droplet.Options{"gzip": {KeepTimes: true}, "tar": {Plain: true, KeepTimes: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := build(t, tree())
			var b bytes.Buffer
			info, err := droplet.Write(t.Context(), &b, dir, o)
			require.NoError(t, err)
			back := t.TempDir()
			root, err := os.OpenRoot(back)
			require.NoError(t, err)
			defer root.Close()
			s, err := tarfs.Extract(t.Context(), root, "x", &b, tarfs.Limits{Links: tarfs.AnyLinks, Unique: true})
			require.NoError(t, err)
			defer os.Chmod(filepath.Join(back, "x", "tmp"), 0o755)
			assert.Equal(t, info.Bytes, s.Bytes)
			again, err := droplet.Write(t.Context(), io.Discard, filepath.Join(back, "x"), o)
			require.NoError(t, err)
			assert.Equal(t, info, again)
		})
	}
}

func TestWriteNamesWhatItRefuses(t *testing.T) {
	t.Parallel()
	unixOnly(t)
	dir := build(t, []entry{{name: "app/", mode: 0o755}})
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "app", "s"))
	require.NoError(t, err)
	defer l.Close()
	_, err = droplet.Write(t.Context(), io.Discard, dir, droplet.Options{})
	assert.ErrorContains(t, err, "./app/s: it is a socket")
	var skipped []string
	_, err = droplet.Write(t.Context(), io.Discard, dir, droplet.Options{Skipped: func(p string) { skipped = append(skipped, p) }})
	assert.NoError(t, err)
	assert.Equal(t, []string{"./app/s"}, skipped)
	if os.Getuid() != 0 {
		dir := build(t, []entry{{name: "app/secret", body: "x", mode: 0o000}})
		_, err = droplet.Write(t.Context(), io.Discard, dir, droplet.Options{})
		assert.ErrorContains(t, err, "./app/secret")
		assert.ErrorIs(t, err, fs.ErrPermission)
	}
	_, err = droplet.Write(t.Context(), io.Discard, filepath.Join(dir, "gone"), droplet.Options{})
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

// lossy is a writer that fails after some bytes.
type lossy struct {
	left int
	err  error
	then func()
}

func (l *lossy) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		if l.then != nil {
			l.then()
		}
		return 0, l.err
	}
	return len(p), nil
}

func TestWriteEndsWhenItsWriterFails(t *testing.T) {
	t.Parallel()
	unixOnly(t)
	dir := build(t, tree())
	full := errors.New("disk full")
	for _, plain := range []bool{true, false} {
		for _, after := range []int{0, 5000, 50_000} {
			_, err := droplet.Write(t.Context(), &lossy{left: after, err: full}, dir, droplet.Options{Plain: plain})
			require.ErrorIs(t, err, full)
		}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := droplet.Write(ctx, &lossy{left: 5000, err: io.ErrClosedPipe, then: cancel}, dir, droplet.Options{Plain: plain})
		require.Error(t, err)
		_, err = droplet.Write(ctx, io.Discard, dir, droplet.Options{Plain: plain})
		require.ErrorIs(t, err, context.Canceled)
	}
}

func TestRoundTripOfOddNames(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("names that only Linux has")
	}
	long := strings.Repeat("0123456789", 25)
	names := []string{`back\slash`, "latin\xe9", "new\nline", "trailing ", "-dash", long, "e\u0301", "\u00e9", "=", "a", "A"}
	var entries []entry
	for _, n := range names {
		entries = append(entries, entry{name: n, body: n, mode: 0o644}, entry{name: "d/" + n + "-l", link: "../" + n})
	}
	dir := build(t, entries)
	var b bytes.Buffer
	info, err := droplet.Write(t.Context(), &b, dir, droplet.Options{})
	require.NoError(t, err)
	back := t.TempDir()
	root, err := os.OpenRoot(back)
	require.NoError(t, err)
	defer root.Close()
	_, err = tarfs.Extract(t.Context(), root, "", &b, tarfs.Limits{RawNames: true})
	require.NoError(t, err)
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(back, "d", n+"-l"))
		require.NoError(t, err)
		assert.Equal(t, n, string(data))
	}
	again, err := droplet.Write(t.Context(), io.Discard, back, droplet.Options{})
	require.NoError(t, err)
	assert.Equal(t, info, again)
}

func TestWriteEmptyTree(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	info, err := droplet.Write(t.Context(), &b, t.TempDir(), droplet.Options{})
	require.NoError(t, err)
	assert.Zero(t, info.Files)
	root, err := os.OpenRoot(t.TempDir())
	require.NoError(t, err)
	defer root.Close()
	s, err := tarfs.Extract(t.Context(), root, "", &b, tarfs.Limits{})
	require.NoError(t, err)
	assert.Zero(t, s)
}

// Why fill failed is what Compress says, whoever hears of it first.
func TestCompressSaysWhyFillFailed(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for i := range 300 {
		err := droplet.Compress(t.Context(), io.Discard, droplet.Options{}, func(w io.Writer) error {
			_, _ = w.Write(make([]byte, i%3))
			return broken
		})
		require.ErrorIs(t, err, broken)
	}
}
