package resourcematch

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

// tarball makes a tar; a body is given by its text, else the Size of the header stays a claim.
func tarball(t testing.TB, finish bool, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range headers {
		h := headers[i]
		body := h.Uname
		h.Uname = ""
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if body != "" {
			h.Size = int64(len(body))
		}
		if h.Mode == 0 && h.Typeflag != tar.TypeXGlobalHeader {
			h.Mode = 0o644
		}
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, body)
		require.NoError(t, err)
	}
	if finish {
		require.NoError(t, w.Close())
	}
	return b.Bytes()
}

func TestTarUploads(t *testing.T) {
	t.Parallel()
	file := func(name, body string) tar.Header { return tar.Header{Name: name, Uname: body} }
	for _, tc := range []struct {
		name   string
		tar    []tar.Header
		want   map[string]string
		reason Reason
		text   string
	}{
		{name: "a comment of git archive", tar: []tar.Header{{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "0123"}}, file("a", alpha)},
			want: map[string]string{"a": "0644 " + alpha}},
		{name: "one path twice: the first counts", tar: []tar.Header{file("a", alpha), file("./a", beta)}, want: map[string]string{"a": "0644 " + alpha}},
		{name: "names that differ in case", tar: []tar.Header{file("a", alpha), file("A", beta)}, want: map[string]string{"a": "0644 " + alpha, "A": "0644 " + beta}},
		{name: "names that differ in Unicode form", tar: []tar.Header{file("\u00e9", alpha), file("e\u0301", beta)}, want: map[string]string{"\u00e9": "0644 " + alpha, "e\u0301": "0644 " + beta}},
		{name: "a symlink out of the app is kept", tar: []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, file("a", alpha)},
			want: map[string]string{"a": "0644 " + alpha, "l": "-> /etc/passwd"}},
		{name: "set-uid", tar: []tar.Header{{Name: "a", Uname: alpha, Mode: 0o4755}}, want: map[string]string{"a": "0755 " + alpha}},
		{name: "up", tar: []tar.Header{file("../a", alpha)}, reason: BadPath, text: "'../a' is not safe"},
		{name: "absolute", tar: []tar.Header{file("/a", alpha)}, reason: BadPath, text: "'/a' is not safe"},
		{name: "behind a link", tar: []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, file("l/a", alpha)}, reason: BadPath, text: `"l" is no directory`},
		{name: "below a file", tar: []tar.Header{file("a", alpha), file("a/b", beta)}, reason: BadPath, text: `"a" is no directory`},
		{name: "hard link", tar: []tar.Header{file("a", alpha), {Name: "h", Typeflag: tar.TypeLink, Linkname: "a"}}, reason: BadFile, text: `"h" can't be in a package`},
		{name: "device", tar: []tar.Header{{Name: "d", Typeflag: tar.TypeBlock}}, reason: BadFile, text: "it is a device"},
		{name: "pipe", tar: []tar.Header{{Name: "p", Typeflag: tar.TypeFifo}}, reason: BadFile, text: "it is a named pipe"},
		{name: "long link", tar: []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x", 5000)}}, reason: BadFile, text: "the target of the link is impossible"},
		{name: "not UTF-8", tar: []tar.Header{file("a\xff", alpha)}, reason: BadFile, text: "not UTF-8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, l := newCache(t, small)
			p, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: bytes.NewReader(tarball(t, true, tc.tar...))})
			if tc.reason != "" {
				assert.Equal(t, tc.reason, reason(t, err))
				assert.ErrorContains(t, err, tc.text)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, unpack(t, c, p.Key))
		})
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// squeezed is r as gzip, made as it is read.
func squeezed(t *testing.T, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		z := gzip.NewWriter(pw)
		_, err := io.Copy(z, r)
		pw.CloseWithError(err)
	}()
	t.Cleanup(func() { pr.Close(); <-done })
	return pr
}

// Whatever an upload claims or does not claim, it ends.
func TestUploadsWithoutEnd(t *testing.T) {
	t.Parallel()
	again := func(name string) []byte { return tarball(t, false, tar.Header{Name: name, Size: 1 << 20}) }
	cfg := Config{MinSize: 10, MaxPackage: 1 << 20}
	for name, bits := range map[string]func() io.Reader{
		"one file": func() io.Reader {
			return io.MultiReader(bytes.NewReader(tarball(t, false, tar.Header{Name: "a", Size: 1 << 40})), zeroes{})
		},
		"zeros after the end": func() io.Reader {
			return io.MultiReader(bytes.NewReader(tarball(t, true, tar.Header{Name: "a", Uname: "x"})), zeroes{})
		},
		"one path again, gzip": func() io.Reader { return squeezed(t, &repeated{head: again("a"), body: 1 << 20}) },
		"zip":                  func() io.Reader { return io.MultiReader(strings.NewReader("PK\x03\x04"), zeroes{}) },
		"long headers, gzip": func() io.Reader {
			return squeezed(t, &repeated{head: tarball(t, false, tar.Header{Name: "a", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"X.y": strings.Repeat("x", 1<<19)}})})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, l := newCache(t, cfg)
			c.entries = 1000
			_, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: bits()})
			assert.Contains(t, []Reason{TooLarge, BadArchive}, reason(t, err))
			t.Log(err)
			left, err := os.ReadDir(c.cfg.TempDir)
			require.NoError(t, err)
			assert.Empty(t, left)
		})
	}
}

// repeated yields a header and a body of zeros, again and again.
type repeated struct {
	head []byte
	body int
	off  int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.off == len(r.head)+r.body {
		r.off = 0
	}
	var n int
	if r.off < len(r.head) {
		n = copy(p, r.head[r.off:])
	} else {
		n = min(len(p), len(r.head)+r.body-r.off)
		clear(p[:n])
	}
	r.off += n
	return n, nil
}

func TestUploadOfTooManyEntries(t *testing.T) {
	t.Parallel()
	c, l := newCache(t, small)
	c.entries = 500
	n := 0
	bits := readerFunc(func(p []byte) (int, error) {
		if n++; n > c.entries+1 {
			return 0, io.EOF
		}
		return copy(p, tarball(t, false, tar.Header{Name: fmt.Sprint("d", n, "/"), Typeflag: tar.TypeDir, Mode: 0o755})), nil
	})
	_, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: &whole{r: bits}})
	assert.Equal(t, BadArchive, reason(t, err))
	assert.ErrorContains(t, err, "more than 500 entries")
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// whole asks for a whole header at a time.
type whole struct {
	r   io.Reader
	buf []byte
}

func (w *whole) Read(p []byte) (int, error) {
	if len(w.buf) == 0 {
		buf := make([]byte, 4096)
		n, err := w.r.Read(buf)
		if err != nil {
			return 0, err
		}
		w.buf = buf[:n]
	}
	n := copy(p, w.buf)
	w.buf = w.buf[n:]
	return n, nil
}

func TestDamagedManifest(t *testing.T) {
	t.Parallel()
	store := blob.NewMemory()
	c := openCache(t, store, small)
	bits := makeZip(t, zipFile{"a", alpha, 0o644}, zipFile{"s", "short", 0o644})
	for _, damage := range []func(string) string{
		func(s string) string { return strings.Replace(s, `"a"`, `"b"`, 1) },
		func(s string) string { return strings.Replace(s, `"a"`, `"../a"`, 1) },
		func(s string) string { return s[:len(s)/2] },
		func(string) string { return "" },
	} {
		l := newLease(t, c)
		p, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: bytes.NewReader(bits)})
		require.NoError(t, err)
		r, err := store.Get(t.Context(), p.Key)
		require.NoError(t, err)
		text, err := io.ReadAll(r)
		require.NoError(t, err)
		m := Manifest{}
		require.NoError(t, json.Unmarshal(text, &m))
		plain, err := json.Marshal(m)
		require.NoError(t, err)
		require.Equal(t, string(plain), string(text), "entry by entry or at once, it is one text")
		_, err = store.Put(t.Context(), p.Key, strings.NewReader(damage(string(text))))
		require.NoError(t, err)
		_, err = c.Open(t.Context(), p.Key, Tar)
		assert.Equal(t, Corrupt, reason(t, err))
		_, err = c.Manifest(t.Context(), p.Key)
		require.ErrorIs(t, err, fs.ErrNotExist, "what is damaged is deleted, so that it can be stored anew")
	}
}

// FuzzUpload: whatever comes, there is an error with a reason or a package, and the package
// unpacks into a directory and nowhere else.
func FuzzUpload(f *testing.F) {
	link := tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}
	plain := tarball(f, true, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "d/a", Uname: alpha}, link)
	f.Add(plain)
	f.Add(tarball(f, true, link, tar.Header{Name: "l/secret", Uname: "x"}))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(plain)
	_ = w.Close()
	f.Add(z.Bytes())
	f.Add([]byte("\x1f\x8b\b0000000"))
	f.Add(makeZip(f, zipFile{"d/", "", fs.ModeDir | 0o755}, zipFile{"d/a", alpha, 0o644}, zipFile{"l", "..", fs.ModeSymlink | 0o777}))
	f.Add(makeZip(f, zipFile{"l", "..", fs.ModeSymlink | 0o777}, zipFile{"l/secret", "x", 0o644}))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		c, l := newCache(t, Config{MinSize: 10, MaxPackage: 1 << 20, TempDir: outer})
		p, err := c.Assemble(t.Context(), Upload{Lease: l, Bits: bytes.NewReader(data)})
		if err != nil {
			_ = reason(t, err)
			return
		}
		if p.Size > 1<<20 {
			t.Fatalf("%d bytes", p.Size)
		}
		in := filepath.Join(outer, "in")
		require.NoError(t, os.Mkdir(in, 0o755))
		root, err := os.OpenRoot(in)
		require.NoError(t, err)
		defer root.Close()
		r, err := c.Open(t.Context(), p.Key, Tar)
		require.NoError(t, err)
		defer r.Close()
		_, err = tarfs.Extract(t.Context(), root, "", r, tarfs.Limits{Links: tarfs.AnyLinks, RawNames: true, Unique: true})
		require.NoError(t, err)
		left, err := os.ReadDir(outer)
		require.NoError(t, err)
		require.Len(t, left, 1)
	})
}
