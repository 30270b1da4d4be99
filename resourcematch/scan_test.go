package resourcematch

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zip"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sha1Hex(b []byte) string {
	s := sha1.Sum(b)
	return hex.EncodeToString(s[:])
}

func sha256Hex(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func paths(f *Files) []string {
	var out []string
	for _, e := range f.Entries {
		p := e.Path
		if e.Dir {
			p += "/"
		}
		out = append(out, p)
	}
	return out
}

// reason returns the Reason of an *Error.
func reason(t *testing.T, err error) Reason {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	return e.Reason
}

func TestScanDirectory(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("links and modes are those of Unix here")
	}
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o600))
		require.NoError(t, os.Chmod(p, mode))
	}
	write("run.sh", "#!/bin/sh\n", 0o755)
	write("lib/a.txt", "a", 0o640)
	write("lib/a.log", "l", 0o644)
	write(".git/config", "g", 0o644)
	write("node_modules/x/y.js", "y", 0o644)
	write("node_modules/keep.js", "k", 0o644)
	write(".cfignore", "*.log\nnode_modules\n!node_modules/keep.js\n", 0o644)
	write("lib/.cfignore", "a.txt\n", 0o644)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	require.NoError(t, os.Symlink("lib/a.txt", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(dir, "broken")))

	var last Progress
	f, err := ScanPath(t.Context(), dir, ScanOptions{Progress: func(p Progress) { last = p }})
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, []string{"broken", "empty/", "lib/", "lib/a.txt", "link", "node_modules/keep.js", "run.sh"}, paths(f))
	assert.Equal(t, Entry{Fingerprint: Fingerprint{Path: "run.sh", SHA1: sha1Hex([]byte("#!/bin/sh\n")), SHA256: sha256Hex([]byte("#!/bin/sh\n")), Size: 10, Mode: 0o755}}, f.Entries[6])
	assert.Equal(t, Mode(0o640), f.Entries[3].Mode)
	assert.Equal(t, "lib/a.txt", f.Entries[4].Link)
	assert.Equal(t, "/nowhere", f.Entries[0].Link)
	assert.Equal(t, int64(12), f.Size())
	assert.Len(t, f.Fingerprints(), 3)
	assert.Equal(t, Progress{Files: 3, TotalFiles: 3, Bytes: 12, TotalBytes: 12}, last)
	r, err := f.Open("lib/a.txt")
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	assert.Equal(t, "a", string(b))
	_, err = f.Open("lib")
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestScanRefuses(t *testing.T) {
	t.Parallel()
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s), Mode: 0o644} }
	for _, c := range []struct {
		name string
		fsys fstest.MapFS
		opt  ScanOptions
		want Reason
		text string
	}{
		{"an empty directory", fstest.MapFS{}, ScanOptions{}, Empty, "there are no files to push"},
		{"a directory that ignores empty", fstest.MapFS{".cfignore": file("*"), "a": file("a")}, ScanOptions{}, Empty, ".cfignore"},
		{"only directories", fstest.MapFS{"a/b": {Mode: fs.ModeDir | 0o755}}, ScanOptions{}, Empty, "no files"},
		{"a file over the limit", fstest.MapFS{"a": file("1234"), "b": file("123456")}, ScanOptions{MaxPackage: 5}, TooLarge, `Package may not be larger than 5 bytes; "b" takes it beyond that (it alone has 6)`},
		{"a sum over the limit", fstest.MapFS{"a": file("1234"), "b": file("12")}, ScanOptions{MaxPackage: 5}, TooLarge, `Package may not be larger than 5 bytes; "b" takes it beyond that; leave files out`},
		{"a name that is not UTF-8", fstest.MapFS{"x": file("a"), "a\xff": file("a")}, ScanOptions{}, BadFile, `"a\xff" can't be in a package (its name is not UTF-8`},
		{"a device", fstest.MapFS{"null": {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666}}, ScanOptions{}, BadFile, "it is a device"},
		{"a socket", fstest.MapFS{"s": {Mode: fs.ModeSocket}}, ScanOptions{}, BadFile, "it is a socket"},
		{"a pipe", fstest.MapFS{"p": {Mode: fs.ModeNamedPipe}}, ScanOptions{}, BadFile, "it is a named pipe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// Scan must not depend on what MapFS thinks of a name.
			_, err := Scan(t.Context(), listing{c.fsys}, c.opt)
			assert.Equal(t, c.want, reason(t, err))
			assert.ErrorContains(t, err, c.text)
		})
	}
}

// listing shows names that fs.ValidPath would not let through.
type listing struct{ fstest.MapFS }

func (l listing) ReadDir(dir string) ([]fs.DirEntry, error) {
	if dir != "." {
		return l.MapFS.ReadDir(dir)
	}
	list, err := l.MapFS.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for name, f := range l.MapFS {
		if !strings.Contains(name, "/") && !fs.ValidPath(name) {
			list = append(list, badEntry{name, f.Mode})
		}
	}
	return list, nil
}

type badEntry struct {
	name string
	mode fs.FileMode
}

func (b badEntry) Name() string               { return b.name }
func (b badEntry) IsDir() bool                { return false }
func (b badEntry) Type() fs.FileMode          { return b.mode.Type() }
func (b badEntry) Info() (fs.FileInfo, error) { return nil, fs.ErrInvalid }

func TestScanWithinTheLimit(t *testing.T) {
	t.Parallel()
	f, err := Scan(t.Context(), fstest.MapFS{"a": {Data: []byte("12345"), Mode: 0o644}}, ScanOptions{MaxPackage: 5, NoHash: true})
	require.NoError(t, err)
	assert.Empty(t, f.Entries[0].SHA1)
	f, err = Scan(t.Context(), fstest.MapFS{"a": {Data: []byte("12345")}, "b": {}}, ScanOptions{MaxPackage: -1, Ignore: []string{"b"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"a"}, paths(f))
}

func TestScanEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Scan(ctx, fstest.MapFS{"a": {}}, ScanOptions{})
	assert.ErrorIs(t, err, context.Canceled)
}

// zipFile describes an entry for makeZip.
type zipFile struct {
	name, text string
	mode       fs.FileMode
}

func makeZip(t testing.TB, files ...zipFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		if f.mode != 0 {
			h.SetMode(f.mode)
		}
		fw, err := w.CreateHeader(h)
		require.NoError(t, err)
		_, err = fw.Write([]byte(f.text))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestScanArchive(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "app.war")
	require.NoError(t, os.WriteFile(name, makeZip(t,
		zipFile{"WEB-INF/", "", fs.ModeDir | 0o555}, zipFile{"WEB-INF/web.xml", "<web/>", 0o644}, zipFile{"skip/a", "a", 0o644},
		zipFile{".cfignore", "skip\n", 0o644}, zipFile{"plain", "p", 0}, zipFile{"l", "plain", fs.ModeSymlink | 0o777}, zipFile{"plain", "second", 0}), 0o600))
	f, err := ScanPath(t.Context(), name, ScanOptions{})
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, []string{"WEB-INF/", "WEB-INF/web.xml", "l", "plain"}, paths(f))
	assert.Equal(t, Mode(0o755), f.Entries[0].Mode)
	assert.Equal(t, Mode(0o744), f.Entries[1].Mode)
	assert.Equal(t, sha1Hex([]byte("<web/>")), f.Entries[1].SHA1)
	assert.Equal(t, "plain", f.Entries[2].Link)
	assert.Equal(t, DefaultMode, f.Entries[3].Mode)
	assert.Equal(t, int64(1), f.Entries[3].Size)
}

func TestScanPathRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "app.txt")
	require.NoError(t, os.WriteFile(name, []byte("hello"), 0o600))
	_, err := ScanPath(t.Context(), name, ScanOptions{})
	assert.Equal(t, NotAnArchive, reason(t, err))
	assert.ErrorContains(t, err, `"app.txt" is a file, but no zip, jar or war archive; push a directory or an archive`)
	_, err = ScanPath(t.Context(), filepath.Join(dir, "absent"), ScanOptions{})
	assert.ErrorIs(t, err, fs.ErrNotExist)
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.Mkdir(empty, 0o755))
	_, err = ScanPath(t.Context(), empty, ScanOptions{})
	assert.Equal(t, Empty, reason(t, err))
	assert.ErrorContains(t, err, empty)
	for _, bad := range []string{"../a", "/a", "a/../../b", "a\x00b"} {
		require.NoError(t, os.WriteFile(name, makeZip(t, zipFile{bad, "x", 0o644}), 0o600))
		_, err = ScanPath(t.Context(), name, ScanOptions{})
		require.Error(t, err, bad)
	}
	z := makeZip(t, zipFile{"a", strings.Repeat("abc", 1000), 0o644})
	z[40] ^= 0xff // in the deflated bytes
	require.NoError(t, os.WriteFile(name, z, 0o600))
	_, err = ScanPath(t.Context(), name, ScanOptions{})
	assert.Equal(t, BadArchive, reason(t, err))
}

func TestModeText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Mode{"": 0, "644": 0o644, "0755": 0o755, "100644": 0o644, "40755": 0o755} {
		m, err := ParseMode(in)
		require.NoError(t, err)
		assert.Equal(t, want, m, in)
	}
	for _, bad := range []string{"8", "rw-", "-1", "0x1ff", " 644"} {
		_, err := ParseMode(bad)
		assert.Error(t, err, bad)
	}
	assert.Equal(t, "0644", Mode(0o644).String())
}

// What no cell would unpack, or nobody may read, is told by the scan, with what to do.
func TestScanTellsWhatCannotBePushed(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("d/", 255)
	_, err := Scan(t.Context(), fstest.MapFS{deep + "f": {}}, ScanOptions{})
	require.NoError(t, err, "256 parts are what a cell unpacks")
	_, err = Scan(t.Context(), fstest.MapFS{deep + "d/f": {}}, ScanOptions{})
	require.ErrorContains(t, err, "it lies more than 256 folders deep")
	long := strings.Repeat(strings.Repeat("x", 250)+"/", 17)
	_, err = Scan(t.Context(), fstest.MapFS{long + "f": {}}, ScanOptions{})
	require.ErrorContains(t, err, "its path is longer than 4096 bytes")

	for _, name := range []string{"d", "f"} {
		fsys := forbidden{fstest.MapFS{"d/x": {}, "f": {}}, name}
		_, err = Scan(t.Context(), fsys, ScanOptions{})
		require.ErrorIs(t, err, fs.ErrPermission)
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		assert.Equal(t, BadFile, e.Reason)
		assert.EqualError(t, err, `"`+name+`" can't be in a package (it may not be read; allow that, or name it in .cfignore)`)
	}
}

// forbidden is a file system in which one name may not be opened.
type forbidden struct {
	fs.FS
	name string
}

func (f forbidden) Open(name string) (fs.File, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f.FS.Open(name)
}
