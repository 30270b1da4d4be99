package resourcematch

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/state"
)

// openCache makes a Cache over a Store, everything else in memory.
func openCache(t testing.TB, s blob.Store, cfg Config) *Cache {
	t.Helper()
	db, err := state.Open(context.Background(), state.Config{Journal: state.NewMemory()}, catalog.Tables()...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	cfg.Catalog, err = catalog.New(catalog.Config{DB: db, Store: s})
	require.NoError(t, err)
	c, err := New(cfg)
	require.NoError(t, err)
	return c
}

func newLease(t testing.TB, c *Cache) catalog.Lease {
	t.Helper()
	l, err := c.catalog.Lease(context.Background(), time.Hour)
	require.NoError(t, err)
	return l
}

// BenchmarkMatch is a whole request: decode, match, pin, encode; each file is known.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1000, 5000, 10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			c := openCache(b, blob.NewMemory(), Config{MinSize: -1})
			lease := newLease(b, c)
			fps := make([]Fingerprint, n)
			for i := range fps {
				body := []byte(strconv.Itoa(i))
				fps[i] = Fingerprint{Path: fmt.Sprintf("node_modules/package-%d/lib/file-%d.js", i%977, i), SHA1: sha1Hex(body), Size: int64(len(body)), Mode: 0o644}
				_, err := c.catalog.PutAs(context.Background(), KindResource, fps[i].SHA1, lease, bytes.NewReader(body))
				require.NoError(b, err)
			}
			body, err := json.Marshal(fps)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				var in []Fingerprint
				if err := json.Unmarshal(body, &in); err != nil {
					b.Fatal(err)
				}
				l, err := c.catalog.Lease(context.Background(), time.Hour)
				if err != nil {
					b.Fatal(err)
				}
				known, err := c.Match(context.Background(), in, l)
				if err != nil || len(known) != n {
					b.Fatal(len(known), err)
				}
				if _, err := json.Marshal(known); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// packageMiB is the size of the benchmarks' app: -package-mib 1024 for the figure of docs/benchmarks.md.
var packageMiB = flag.Int("package-mib", 64, "size of the benchmarks' app in MiB")

// benchTree writes an app of 1 MiB files, which don't compress, and as many of 2 KiB.
func benchTree(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	rnd := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for i := range *packageMiB {
		sub := filepath.Join(dir, fmt.Sprintf("d%02d", i%16))
		require.NoError(b, os.MkdirAll(sub, 0o755))
		_, _ = rnd.Read(buf)
		require.NoError(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("big%d", i)), buf, 0o644))
		require.NoError(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("small%d", i)), buf[:2<<10], 0o644))
	}
	b.SetBytes(int64(*packageMiB) * (1<<20 + 2<<10))
	return dir
}

func BenchmarkScan(b *testing.B) {
	dir := benchTree(b)
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(int64(*packageMiB) * (1<<20 + 2<<10))
		for b.Loop() {
			f, err := ScanPath(b.Context(), dir, ScanOptions{})
			require.NoError(b, err)
			f.Close()
		}
	})
	for _, tool := range []string{"sha1sum", "sha256sum"} {
		b.Run(tool, func(b *testing.B) {
			if _, err := exec.LookPath(tool); err != nil {
				b.Skip(err)
			}
			b.SetBytes(int64(*packageMiB) * (1<<20 + 2<<10))
			for b.Loop() {
				require.NoError(b, exec.Command("find", dir, "-type", "f", "-exec", tool, "{}", "+").Run())
			}
		})
	}
}

// BenchmarkPackage compares an upload, from its archive to the manifest, with the bare work:
// read, SHA-1, SHA-256, write, one fsync.
func BenchmarkPackage(b *testing.B) {
	dir := benchTree(b)
	files, err := ScanPath(b.Context(), dir, ScanOptions{})
	require.NoError(b, err)
	defer files.Close()
	archive := func(f Format) string {
		name := filepath.Join(b.TempDir(), "app")
		r, err := files.Bits(b.Context(), nil, f)
		require.NoError(b, err)
		defer r.Close()
		out, err := os.Create(name)
		require.NoError(b, err)
		_, err = io.Copy(out, r)
		require.NoError(b, err)
		require.NoError(b, out.Close())
		return name
	}
	asTar, asZip := archive(Tar), archive(Zip)
	b.Run("bare", func(b *testing.B) {
		b.SetBytes(files.Size())
		for b.Loop() {
			bare(b, asTar, filepath.Join(b.TempDir(), "out"))
		}
	})
	from := func(name string, upload func() Upload) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(files.Size())
			for b.Loop() {
				b.StopTimer()
				c := dirCache(b)
				u := upload()
				u.Lease = newLease(b, c)
				b.StartTimer()
				_, err := c.Assemble(b.Context(), u)
				require.NoError(b, err)
				b.StopTimer()
				if f, ok := u.Bits.(*os.File); ok {
					f.Close()
				}
				b.StartTimer()
			}
		})
	}
	open := func(name string) func() Upload {
		return func() Upload {
			f, err := os.Open(name)
			require.NoError(b, err)
			return Upload{Bits: f}
		}
	}
	from("files", func() Upload { return Upload{Files: files} })
	from("tar", open(asTar))
	from("zip", open(asZip))
}

// BenchmarkPackageOneChanged packages the same app with one other file of 1 MiB: the time
// should not depend on -package-mib, scanning aside.
func BenchmarkPackageOneChanged(b *testing.B) {
	dir := benchTree(b)
	c := dirCache(b)
	l := newLease(b, c)
	files, err := ScanPath(b.Context(), dir, ScanOptions{})
	require.NoError(b, err)
	defer files.Close()
	_, err = c.Assemble(b.Context(), Upload{Lease: l, Files: files})
	require.NoError(b, err)
	buf := make([]byte, 1<<20)
	rnd := rand.NewChaCha8([32]byte{2})
	b.SetBytes(0)
	for b.Loop() {
		b.StopTimer()
		_, _ = rnd.Read(buf)
		require.NoError(b, os.WriteFile(filepath.Join(dir, "d00", "big0"), buf, 0o644))
		files, err := ScanPath(b.Context(), dir, ScanOptions{})
		require.NoError(b, err)
		b.StartTimer()
		known, err := c.Match(b.Context(), files.Fingerprints(), l)
		require.NoError(b, err)
		p, err := c.Assemble(b.Context(), Upload{Lease: l, Known: known, Files: files})
		require.NoError(b, err)
		require.Equal(b, *packageMiB-1, p.KnownFiles)
		files.Close()
	}
}

func dirCache(b *testing.B) *Cache {
	b.Helper()
	s, err := blob.OpenDir(filepath.Join(b.TempDir(), "blobs"), blob.DirConfig{})
	require.NoError(b, err)
	return openCache(b, s, Config{})
}

func bare(b *testing.B, from, to string) {
	b.Helper()
	in, err := os.Open(from)
	require.NoError(b, err)
	defer in.Close()
	out, err := os.Create(to)
	require.NoError(b, err)
	defer out.Close()
	d := newDigests(bothSums)
	buf := make([]byte, chunk)
	for tr := tar.NewReader(in); ; {
		if _, err := tr.Next(); err != nil {
			break
		}
		d.reset()
		_, err := io.CopyBuffer(io.MultiWriter(out, d), onlyReader{tr}, buf)
		require.NoError(b, err)
		d.sha1.Sum(nil)
		d.sha256.Sum(make([]byte, 0, sha256.Size))
	}
	require.NoError(b, out.Sync())
}

type onlyReader struct{ io.Reader }
