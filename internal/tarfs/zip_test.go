package tarfs

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type zipItem struct {
	name, body string
	mode       fs.FileMode
	store      bool
}

func zipOf(t testing.TB, items ...zipItem) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, i := range items {
		h := &zip.FileHeader{Name: i.name, Method: zip.Deflate, Modified: when}
		if i.store {
			h.Method = zip.Store
		}
		if i.mode != 0 {
			h.SetMode(i.mode)
		}
		f, err := w.CreateHeader(h)
		if err == nil {
			_, err = io.WriteString(f, i.body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// onlyReader hides what else a reader can do.
type onlyReader struct{ io.Reader }

func TestZip(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("line of text\n", 30_000)
	data := zipOf(t,
		zipItem{name: "bin/", mode: fs.ModeDir | 0o755},
		zipItem{name: "bin/run", body: "#!/bin/sh\n", mode: 0o755},
		zipItem{name: "plain", body: long},
		zipItem{name: "stored", body: long, store: true, mode: 0o600},
		zipItem{name: "empty"},
		zipItem{name: "bin/link", body: "../plain", mode: fs.ModeSymlink | 0o777})
	check := func(t *testing.T, r io.Reader, prefix string) {
		root, p := dir(t)
		s, err := Extract(t.Context(), root, "", r, Limits{Spool: t.TempDir()})
		require.NoError(t, err)
		assert.Equal(t, Stats{Files: 4, Dirs: 1, Links: 1, Bytes: 10 + 2*int64(len(long))}, s)
		b, err := os.ReadFile(filepath.Join(p, "bin", "link"))
		require.NoError(t, err)
		assert.Equal(t, long, string(b))
		fi, err := os.Stat(filepath.Join(p, "bin", "run"))
		require.NoError(t, err)
		assert.Equal(t, when.Unix(), fi.ModTime().Unix())
		if runtime.GOOS != "windows" {
			assert.Equal(t, fs.FileMode(0o755), fi.Mode())
		}
	}
	t.Run("stream", func(t *testing.T) { check(t, onlyReader{bytes.NewReader(data)}, "") })
	t.Run("file", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "a.zip")
		require.NoError(t, os.WriteFile(name, append([]byte("before"), data...), 0o600))
		f, err := os.Open(name)
		require.NoError(t, err)
		defer f.Close()
		_, err = f.Seek(6, io.SeekStart)
		require.NoError(t, err)
		check(t, f, "")
	})
	t.Run("program before it", func(t *testing.T) {
		data := append([]byte("#!/bin/sh\nexec java -jar $0\n"), data...)
		z, err := OpenZip(bytes.NewReader(data), int64(len(data)), Limits{})
		require.NoError(t, err)
		require.Len(t, z.Entries, 6)
		assert.Equal(t, "bin", z.Entries[0].Path)
		assert.Equal(t, "../plain", z.Entries[5].Link)
		r, err := z.Entries[2].Open()
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		assert.Equal(t, long, string(b))
		_, err = z.Entries[0].Open()
		assert.Error(t, err)
	})
}

func TestZipOfManyEntries(t *testing.T) {
	t.Parallel()
	items := make([]zipItem, 65_600) // more than a zip without zip64 can count
	for i := range items {
		items[i] = zipItem{name: fmt.Sprintf("d%d/f%d", i%100, i), store: true}
	}
	data := zipOf(t, items...)
	z, err := OpenZip(bytes.NewReader(data), int64(len(data)), Limits{})
	require.NoError(t, err)
	assert.Len(t, z.Entries, 65_600)
	_, err = OpenZip(bytes.NewReader(data), int64(len(data)), Limits{Entries: 65_599})
	assert.ErrorContains(t, err, "more than 65599 entries")
}

func TestZipRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		items  []zipItem
		limits Limits
		say    string
	}{
		"up":              {items: []zipItem{{name: "../secret"}}, say: `".."`},
		"absolute":        {items: []zipItem{{name: "/secret"}}, say: "absolute"},
		"backslash":       {items: []zipItem{{name: `a\b`}}, say: "backslash"},
		"NUL":             {items: []zipItem{{name: "a\x00b"}}, say: "NUL"},
		"not UTF-8":       {items: []zipItem{{name: "a\xff"}}, say: "UTF-8"},
		"device":          {items: []zipItem{{name: "d", mode: fs.ModeDevice}}, say: "device"},
		"pipe":            {items: []zipItem{{name: "d", mode: fs.ModeNamedPipe}}, say: "pipe"},
		"socket":          {items: []zipItem{{name: "d", mode: fs.ModeSocket}}, say: "socket"},
		"link out":        {items: []zipItem{{name: "l", body: "../x", mode: fs.ModeSymlink}}, say: "out of the archive"},
		"link absolute":   {items: []zipItem{{name: "l", body: "/x", mode: fs.ModeSymlink}}, say: "absolute"},
		"link long":       {items: []zipItem{{name: "l", body: strings.Repeat("x", 5000), mode: fs.ModeSymlink}}, say: "impossible"},
		"through a link":  {items: []zipItem{{name: "l", body: "d", mode: fs.ModeSymlink}, {name: "l/x"}}, say: "not a folder"},
		"file and folder": {items: []zipItem{{name: "a/b"}, {name: "a"}}, say: "folder and a file"},
		"twice":           {items: []zipItem{{name: "a"}, {name: "a"}}, limits: Limits{Unique: true}, say: "twice"},
		"case":            {items: []zipItem{{name: "a"}, {name: "A"}}, limits: Limits{Fold: true}, say: "only in case"},
		"folders implied": {items: []zipItem{{name: "a/b/c/f"}}, limits: Limits{Entries: 3}, say: "more than 3 entries"},
		"too big":         {items: []zipItem{{name: "a", body: "123"}}, limits: Limits{Bytes: 2}, say: "more than 2 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, _ := dir(t)
			_, err := Extract(t.Context(), root, "", bytes.NewReader(zipOf(t, c.items...)), c.limits)
			var e *EntryError
			require.ErrorAs(t, err, &e)
			assert.Contains(t, err.Error(), c.say)
		})
	}
}

func TestZipRefusesDamage(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("some text that is worth deflating ", 100)
	data := zipOf(t, zipItem{name: "first", body: body}, zipItem{name: "other", body: body, store: true})
	central := bytes.Index(data, []byte("PK\x01\x02"))
	end := bytes.Index(data, []byte("PK\x05\x06"))
	second := central + bytes.Index(data[central+4:], []byte("PK\x01\x02")) + 4
	set := func(pairs ...int) []byte {
		b := bytes.Clone(data)
		for i := 0; i < len(pairs); i += 2 {
			b[pairs[i]] = byte(pairs[i+1])
		}
		return b
	}
	for name, c := range map[string]struct {
		data []byte
		say  string
	}{
		"short":                 {data[:len(data)-1], "cut short"},
		"no directory":          {data[:central], "cut short"},
		"garbage":               {append(bytes.Clone(data), "x"...), "trailing garbage"},
		"encrypted":             {set(central+8, 9), "encrypted"},
		"encrypted, local only": {set(6, 9), "encrypted"},
		"method":                {set(central+10, 12), "method 12"},
		"other local method":    {set(8, 0), "another compression"},
		"other local name":      {set(30, 'F'), "another name"},
		"other name":            {set(central+46, 'F'), "another name"},
		"crc":                   {set(central+16, int(data[central+16])^1), "sizes after its data"},
		"size":                  {set(central+24, 1), "sizes after its data"},
		"offset":                {set(second+42, 0, second+43, 0), "another name"},
		"far offset":            {set(central+44, 0x7f), "outside"},
		"count":                 {set(end+10, 3), "claims 3"},
		"directory":             {set(end+19, 1), "outside"},
		"content":               {set(60, int(data[60])^0xff), "damaged"},
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
	t.Run("sizes cut short", func(t *testing.T) {
		t.Parallel()
		const all = 16 // bytes of signature, checksum and sizes behind the last entry's data
		for have := range all {
			b := append(bytes.Clone(data[:central-all+have]), data[central:]...)
			binary.LittleEndian.PutUint32(b[end-all+have+16:], uint32(central-all+have))
			_, err := OpenZip(bytes.NewReader(b), int64(len(b)), Limits{})
			assert.ErrorContains(t, err, "sizes after its data", "%d bytes of them", have)
		}
	})
	t.Run("shared bytes", func(t *testing.T) {
		t.Parallel()
		// Both entries of the directory become the first one.
		b := bytes.Clone(data)
		copy(b[second:second+(second-central)], b[central:second])
		_, err := OpenZip(bytes.NewReader(b), int64(len(b)), Limits{})
		assert.ErrorContains(t, err, "shares its bytes")
	})
}
