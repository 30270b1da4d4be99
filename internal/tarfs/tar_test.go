package tarfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var when = time.Unix(1_700_000_000, 0)

// tarOf makes an archive; a header's size is that of its body unless it has one.
func tarOf(t testing.TB, hs ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range hs {
		hd := tar.Header{
			Name: h.name, Typeflag: h.kind, Linkname: h.link, Mode: h.mode,
			Size: int64(len(h.body)), ModTime: when, Format: tar.FormatPAX,
		}
		if hd.Typeflag == 0 {
			hd.Typeflag = tar.TypeReg
		}
		if hd.Mode == 0 {
			hd.Mode = 0o644
		}
		require.NoError(t, tw.WriteHeader(&hd))
		_, err := io.WriteString(tw, h.body)
		require.NoError(t, err)
	}
	require.NoError(t, tw.Close())
	return b.Bytes()
}

type item struct {
	name string
	body string
	kind byte
	link string
	mode int64
}

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func dir(t testing.TB) (*os.Root, string) {
	t.Helper()
	outer := t.TempDir()
	p := filepath.Join(outer, "in")
	require.NoError(t, os.Mkdir(p, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outer, "secret"), []byte("untouched"), 0o644))
	r, err := os.OpenRoot(p)
	require.NoError(t, err)
	t.Cleanup(func() {
		r.Close()
		b, err := os.ReadFile(filepath.Join(outer, "secret"))
		assert.NoError(t, err)
		assert.Equal(t, "untouched", string(b))
		es, err := os.ReadDir(outer)
		assert.NoError(t, err)
		assert.Len(t, es, 2)
	})
	return r, p
}

func TestExtractKeepsWhatATreeIs(t *testing.T) {
	t.Parallel()
	data := tarOf(t,
		item{name: "./", kind: tar.TypeDir, mode: 0o700},
		item{name: "./ro/", kind: tar.TypeDir, mode: 0o555},
		item{name: "./ro/a", body: "hello", mode: 0o4755},
		item{name: "b/c/d", body: strings.Repeat("x", 300_000), mode: 0o600},
		item{name: "b/link", kind: tar.TypeSymlink, link: "../ro/a"},
		item{name: "b/hard", kind: tar.TypeLink, link: "./ro/a"},
		item{name: "empty"},
	)
	for name, data := range map[string][]byte{"tar": data, "gzip": gz(t, data), "padded": append(gz(t, data), make([]byte, 700)...)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, p := dir(t)
			s, err := Extract(t.Context(), root, "deep/er", bytes.NewReader(data), Limits{})
			require.NoError(t, err)
			assert.Equal(t, Stats{Files: 3, Dirs: 1, Links: 2, Bytes: 300_005}, s)
			p = filepath.Join(p, "deep", "er")
			b, err := os.ReadFile(filepath.Join(p, "b", "hard"))
			require.NoError(t, err)
			assert.Equal(t, "hello", string(b))
			if runtime.GOOS == "windows" {
				return
			}
			fi, err := os.Stat(filepath.Join(p, "ro"))
			require.NoError(t, err)
			assert.Equal(t, fs.FileMode(0o555), fi.Mode().Perm())
			assert.Equal(t, when, fi.ModTime())
			fi, err = os.Stat(filepath.Join(p, "b", "link"))
			require.NoError(t, err)
			assert.Equal(t, fs.FileMode(0o755), fi.Mode())
			assert.Equal(t, when, fi.ModTime())
			require.NoError(t, os.Chmod(filepath.Join(p, "ro"), 0o755))
		})
	}
}

func TestExtractRefuses(t *testing.T) {
	t.Parallel()
	dirs := item{name: "d/", kind: tar.TypeDir, mode: 0o755}
	for name, c := range map[string]struct {
		items  []item
		limits Limits
		say    string
	}{
		"up":                 {items: []item{{name: "../secret"}}, say: `entry "../secret": its name holds ".."`},
		"up in the middle":   {items: []item{{name: "a/../../secret"}}, say: `".."`},
		"absolute":           {items: []item{{name: "/secret"}}, say: "absolute"},
		"backslash":          {items: []item{{name: `..\secret`}}, say: "backslash"},
		"not UTF-8":          {items: []item{{name: "a\xff"}}, say: "not UTF-8"},
		"long part":          {items: []item{{name: strings.Repeat("a", 256)}}, say: "longer than 255"},
		"long":               {items: []item{{name: strings.Repeat("abcdefghi/", 500) + "f"}}, say: "longer than 4096"},
		"deep":               {items: []item{{name: strings.Repeat("a/", 300) + "f"}}, say: "folders deep"},
		"link out":           {items: []item{dirs, {name: "d/l", kind: tar.TypeSymlink, link: "../../secret"}}, say: "out of the archive"},
		"link absolute":      {items: []item{{name: "l", kind: tar.TypeSymlink, link: "/etc"}}, say: "absolute path"},
		"link empty":         {items: []item{{name: "l", kind: tar.TypeSymlink}}, say: "to nothing"},
		"link by a link":     {items: []item{{name: "a/b/l", kind: tar.TypeSymlink, link: "../.."}, {name: "m", kind: tar.TypeSymlink, link: "a/b/l/../secret"}}, say: "out of the archive"},
		"links unwanted":     {items: []item{{name: "l", kind: tar.TypeSymlink, link: "a"}}, limits: Limits{Links: NoLinks}, say: "not allowed"},
		"write through":      {items: []item{dirs, {name: "l", kind: tar.TypeSymlink, link: "d"}, {name: "l/f"}}, say: "symbolic link"},
		"write through out":  {items: []item{{name: "l", kind: tar.TypeSymlink, link: "/"}, {name: "l/f"}}, limits: Limits{Links: AnyLinks}, say: "symbolic link"},
		"folder on a link":   {items: []item{dirs, {name: "l", kind: tar.TypeSymlink, link: "d"}, {name: "l/", kind: tar.TypeDir}}, say: "symbolic link"},
		"hard link out":      {items: []item{{name: "h", kind: tar.TypeLink, link: "../secret"}}, say: "no name inside"},
		"hard link absolute": {items: []item{{name: "h", kind: tar.TypeLink, link: "/etc/passwd"}}, say: "no name inside"},
		"hard link absent":   {items: []item{{name: "h", kind: tar.TypeLink, link: "gone"}}, say: "does not come before"},
		"hard link by link":  {items: []item{{name: "l", kind: tar.TypeSymlink, link: ".."}, {name: "h", kind: tar.TypeLink, link: "l/secret"}}, limits: Limits{Links: AnyLinks}, say: "symbolic link"},
		"hard link to link":  {items: []item{{name: "l", kind: tar.TypeSymlink, link: "../secret"}, {name: "h", kind: tar.TypeLink, link: "l"}}, limits: Limits{Links: AnyLinks}, say: "not a file"},
		"hard link itself":   {items: []item{{name: "h"}, {name: "h", kind: tar.TypeLink, link: "./h"}}, say: "itself"},
		"device":             {items: []item{{name: "x", kind: tar.TypeChar}}, say: "device"},
		"block":              {items: []item{{name: "x", kind: tar.TypeBlock}}, say: "device"},
		"pipe":               {items: []item{{name: "x", kind: tar.TypeFifo}}, say: "pipe"},
		"twice":              {items: []item{{name: "a"}, {name: "./a"}}, limits: Limits{Unique: true}, say: "twice"},
		"file on folder":     {items: []item{dirs, {name: "d"}}, say: "there is a folder"},
		"folder on file":     {items: []item{{name: "d"}, dirs}, say: "not a folder"},
		"below file":         {items: []item{{name: "d"}, {name: "d/e"}}, say: "not a folder"},
		"case":               {items: []item{{name: "Read"}, {name: "read"}}, limits: Limits{Fold: true}, say: "only in case"},
		"case of folder":     {items: []item{{name: "A/x"}, {name: "a/y"}}, limits: Limits{Fold: true}, say: "only in case"},
		"unicode form":       {items: []item{{name: "\u00e9"}, {name: "e\u0301"}}, limits: Limits{Fold: true}, say: "Unicode"},
		"too many":           {items: []item{{name: "a"}, {name: "b"}}, limits: Limits{Entries: 1}, say: "more than 1 entries"},
		"folders implied":    {items: []item{{name: "a/b/c/f"}}, limits: Limits{Entries: 3}, say: `entry "a/b/c/f": it holds more than 3 entries`},
		"too big":            {items: []item{{name: "a", body: "12"}, {name: "b", body: "34"}}, limits: Limits{Bytes: 3}, say: "more than 3 bytes"},
		"root a file":        {items: []item{{name: "."}}, say: "whole tree"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, _ := dir(t)
			c.limits.Archive = "app.tgz"
			_, err := Extract(t.Context(), root, "", bytes.NewReader(gz(t, tarOf(t, c.items...))), c.limits)
			var e *EntryError
			require.ErrorAs(t, err, &e)
			assert.Contains(t, err.Error(), c.say)
			assert.Contains(t, err.Error(), "archive app.tgz: ")
		})
	}
}

func TestExtractCountsEachFolderOnce(t *testing.T) {
	t.Parallel()
	root, _ := dir(t)
	d := func(name string) item { return item{name: name, kind: tar.TypeDir, mode: 0o755} }
	_, err := Extract(t.Context(), root, "", bytes.NewReader(tarOf(t, d("a/b/"), d("c/"), d("c/d/"), item{name: "c/d/f"})), Limits{Entries: 5})
	require.NoError(t, err)
}

func TestExtractRefusesDamage(t *testing.T) {
	t.Parallel()
	data := tarOf(t, item{name: "a", body: strings.Repeat("hello", 1000)}, item{name: "b", body: "x"})
	zipped := gz(t, data)
	flip := func(i int) []byte {
		b := bytes.Clone(zipped)
		b[(len(b)+i)%len(b)] ^= 0x55
		return b
	}
	for name, c := range map[string]struct {
		data []byte
		say  string
	}{
		"empty":           {nil, "empty"},
		"text":            {[]byte(strings.Repeat("this is a web page, not an archive\n", 100)), "neither tar, tar.gz nor zip"},
		"short text":      {[]byte("<html>"), "cut short"},
		"half a file":     {data[:1000], "cut short"},
		"half a header":   {data[:700], "cut short"},
		"between entries": {data[:512+5120], "end mark is missing"},
		"garbage":         {append(bytes.Clone(data), "more"...), "trailing garbage"},
		"gzip short":      {zipped[:len(zipped)-9], "cut short"},
		"gzip no trailer": {zipped[:len(zipped)-8], "cut short"},
		"gzip crc":        {flip(-5), "checksum"},
		"gzip length":     {flip(-1), "checksum"},
		"gzip garbage":    {append(bytes.Clone(zipped), "more"...), "trailing garbage"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, _ := dir(t)
			_, err := Extract(t.Context(), root, "", bytes.NewReader(c.data), Limits{})
			var e *EntryError
			require.ErrorAs(t, err, &e)
			assert.Contains(t, err.Error(), c.say)
		})
	}
}

func TestExtractLaterWins(t *testing.T) {
	t.Parallel()
	root, p := dir(t)
	data := tarOf(t,
		item{name: "t", body: "old"},
		item{name: "a", kind: tar.TypeSymlink, link: "t"},
		item{name: "a", body: "new"},
		item{name: "h", kind: tar.TypeLink, link: "t"},
		item{name: "h", body: "own"})
	_, err := Extract(t.Context(), root, ".", bytes.NewReader(data), Limits{})
	require.NoError(t, err)
	for name, want := range map[string]string{"t": "old", "a": "new", "h": "own"} {
		b, err := os.ReadFile(filepath.Join(p, name))
		require.NoError(t, err)
		assert.Equal(t, want, string(b))
	}
}

func TestExtractAnyLinksAndNames(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("names that only Linux has")
	}
	root, p := dir(t)
	data := tarOf(t,
		item{name: "abs", kind: tar.TypeSymlink, link: "/usr/bin/python3"},
		item{name: "up", kind: tar.TypeSymlink, link: "../../../x"},
		item{name: `back\slash`}, item{name: "latin\xe9"})
	_, err := Extract(t.Context(), root, ".", bytes.NewReader(data), Limits{Links: AnyLinks, RawNames: true})
	require.NoError(t, err)
	l, err := os.Readlink(filepath.Join(p, "abs"))
	require.NoError(t, err)
	assert.Equal(t, "/usr/bin/python3", l)
	assert.FileExists(t, filepath.Join(p, "latin\xe9"))
}

func TestExtractTellsFailuresOfTheSourceApart(t *testing.T) {
	t.Parallel()
	root, _ := dir(t)
	data := gz(t, tarOf(t, item{name: "a", body: strings.Repeat("x", 100_000)}))
	lost := errors.New("connection lost")
	_, err := Extract(t.Context(), root, "", io.MultiReader(bytes.NewReader(data[:60]), failing{lost}), Limits{})
	require.ErrorIs(t, err, lost)
	var e *EntryError
	assert.NotErrorAs(t, err, &e)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Extract(ctx, root, "", bytes.NewReader(data), Limits{})
	assert.ErrorIs(t, err, context.Canceled)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
