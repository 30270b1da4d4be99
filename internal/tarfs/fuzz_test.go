package tarfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzzExtract unpacks data in every way and looks at what surrounds the tree.
func fuzzExtract(t *testing.T, data []byte) {
	for _, links := range []Links{InsideLinks, AnyLinks} {
		outer := t.TempDir()
		in := filepath.Join(outer, "in")
		require.NoError(t, os.Mkdir(in, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(outer, "secret"), []byte("untouched"), 0o644))
		root, err := os.OpenRoot(in)
		require.NoError(t, err)
		defer root.Close()
		stats, err := Extract(t.Context(), root, "", bytes.NewReader(data),
			Limits{Bytes: 1 << 20, Entries: 100, Links: links, RawNames: links == AnyLinks, Spool: outer})
		if stats.Bytes > 1<<20 || stats.Files > 100 {
			t.Fatalf("limits were passed: %+v", stats)
		}
		var e *EntryError
		if err != nil && errors.As(err, &e) && e.Reason == "" {
			t.Fatalf("no reason: %#v", e)
		}
		b, rerr := os.ReadFile(filepath.Join(outer, "secret"))
		require.NoError(t, rerr)
		require.Equal(t, "untouched", string(b))
		es, rerr := os.ReadDir(outer)
		require.NoError(t, rerr)
		require.Len(t, es, 2, "something was left beside the tree")
		_ = filepath.WalkDir(in, func(p string, d fs.DirEntry, err error) error {
			if d == nil {
				return nil
			}
			if d.IsDir() {
				_ = os.Chmod(p, 0o755)
				return nil
			}
			if d.Type()&fs.ModeSymlink == 0 && !d.Type().IsRegular() {
				t.Fatalf("%s is %v", p, d.Type())
			}
			if err == nil && links == InsideLinks && d.Type()&fs.ModeSymlink != 0 && stats.Links > 0 {
				if to, err := os.Readlink(p); err == nil && filepath.IsAbs(to) {
					t.Fatalf("%s is a link to %s", p, to)
				}
			}
			return nil
		})
	}
}

func FuzzTar(f *testing.F) {
	plain := tarOf(f,
		item{name: "d/", kind: tar.TypeDir, mode: 0o500},
		item{name: "d/f", body: "hello", mode: 0o755},
		item{name: "l", kind: tar.TypeSymlink, link: "d/../d"},
		item{name: "h", kind: tar.TypeLink, link: "d/f"})
	f.Add(plain)
	f.Add(gz(f, plain))
	f.Add(tarOf(f, item{name: "l", kind: tar.TypeSymlink, link: ".."}, item{name: "l/secret", body: "x"}))
	f.Add(tarOf(f, item{name: "h", kind: tar.TypeLink, link: "../secret"}, item{name: "h", body: "x"}))
	f.Fuzz(fuzzExtract)
}

func FuzzZip(f *testing.F) {
	f.Add(zipOf(f, zipItem{name: "d/", mode: fs.ModeDir | 0o700}, zipItem{name: "d/f", body: "hello hello hello"}))
	f.Add(zipOf(f, zipItem{name: "l", body: "..", mode: fs.ModeSymlink}, zipItem{name: "l/secret", body: "x"}))
	f.Add(zipOf(f, zipItem{name: "s", body: "stored", store: true}))
	f.Fuzz(fuzzExtract)
}
