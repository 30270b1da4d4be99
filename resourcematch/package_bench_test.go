package resourcematch

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/internal/sampletree"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
	"github.com/dewpoint-go/dewpoint/state"
)

// packageMiB is the size of the benchmarks' app, in files of 50 KiB on average: 1000 for
// the figures of docs/benchmarks.md.
var packageMiB = flag.Int("package-mib", 64, "size of the benchmarks' app in MiB")

func benchTree(b *testing.B, mib int) string {
	b.Helper()
	dir := b.TempDir()
	if err := sampletree.Make(dir, 1, mib*20, int64(mib)<<20); err != nil {
		b.Skip(err)
	}
	require.NoError(b, os.WriteFile(filepath.Join(dir, "changing"), make([]byte, 1<<20), 0o644))
	return dir
}

// benchCache is a Cache over a directory.
type benchCache struct {
	*Cache
	db *state.DB
}

func dirCache(b *testing.B, cfg Config) *benchCache {
	b.Helper()
	s, err := blob.OpenDir(filepath.Join(b.TempDir(), "blobs"), blob.DirConfig{})
	require.NoError(b, err)
	db, err := state.Open(b.Context(), state.Config{Journal: state.NewMemory()}, catalog.Tables()...)
	require.NoError(b, err)
	b.Cleanup(func() { db.Close(); s.Close() })
	cat, err := catalog.New(catalog.Config{DB: db, Store: s})
	require.NoError(b, err)
	cfg.Catalog = cat
	c, err := New(cfg)
	require.NoError(b, err)
	return &benchCache{Cache: c, db: db}
}

// writeBits writes what has to travel to a file.
func writeBits(b *testing.B, files *Files, known []Fingerprint, f Format) string {
	b.Helper()
	r, err := files.Bits(b.Context(), known, f)
	require.NoError(b, err)
	defer r.Close()
	out, err := os.Create(filepath.Join(b.TempDir(), "bits"))
	require.NoError(b, err)
	_, err = io.Copy(out, r)
	require.NoError(b, err)
	require.NoError(b, out.Close())
	return out.Name()
}

// peakMB runs act and returns the most memory that the process had meanwhile; 0 where that
// cannot be learned.
func peakMB(act func()) float64 {
	debug.FreeOSMemory()
	ok := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) == nil
	act()
	status, err := os.ReadFile("/proc/self/status")
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if !ok || err != nil || m == nil {
		return 0
	}
	kb, _ := strconv.ParseFloat(string(m[1]), 64)
	return kb / 1024
}

// keep refers to a package as its owner's row would.
func keep(b *testing.B, c *benchCache, owner string, p *Package) {
	b.Helper()
	require.NoError(b, c.db.Update(b.Context(), func(tx *state.Tx) error {
		for _, k := range p.Keys {
			if err := c.catalog.Use(tx, owner, k); err != nil {
				return err
			}
		}
		return nil
	}))
}

// BenchmarkPackage takes an upload of which nothing is known from its zip to the package, in
// turns with the bare work on the same zip: read, inflate, SHA-1, SHA-256, write, one fsync.
func BenchmarkPackage(b *testing.B) {
	dir := benchTree(b, *packageMiB)
	files, err := ScanPath(b.Context(), dir, ScanOptions{})
	require.NoError(b, err)
	defer files.Close()
	size := files.Size()
	name := writeBits(b, files, nil, Zip)
	for _, way := range []string{"zip", "files"} {
		b.Run(way, func(b *testing.B) {
			b.SetBytes(size)
			var limit1, limit2, ours, limitCPU, oursCPU time.Duration
			var peak float64
			for b.Loop() {
				b.StopTimer()
				cpu := sampletree.CPUTime()
				limit1 += bare(b, name, 1)
				limitCPU += sampletree.CPUTime() - cpu
				limit2 += bare(b, name, 2)
				c := dirCache(b, Config{})
				u := Upload{Lease: newLease(b, c.Cache)}
				if way == "files" {
					u.Files = files
				} else {
					f, err := os.Open(name)
					require.NoError(b, err)
					defer f.Close()
					u.Bits = f
				}
				b.StartTimer()
				cpu = sampletree.CPUTime()
				start := time.Now()
				peak = max(peak, peakMB(func() {
					p, err := c.Assemble(b.Context(), u)
					require.NoError(b, err)
					keep(b, c, "package:1", p)
				}))
				ours += time.Since(start)
				oursCPU += sampletree.CPUTime() - cpu
			}
			b.ReportMetric(100*float64(limitCPU)/float64(oursCPU), "%-of-limit-cpu")
			b.ReportMetric(100*float64(limit1)/float64(ours), "%-of-limit-1-core")
			b.ReportMetric(100*float64(limit2)/float64(ours), "%-of-limit-2-cores")
			b.ReportMetric(peak, "peak-MB")
		})
	}
}

// bare is the work that cannot be spared, by so many workers.
func bare(b *testing.B, name string, workers int) time.Duration {
	b.Helper()
	dir := b.TempDir()
	defer os.RemoveAll(dir)
	start := time.Now()
	in, err := os.Open(name)
	require.NoError(b, err)
	defer in.Close()
	fi, err := in.Stat()
	require.NoError(b, err)
	z, err := tarfs.OpenZip(in, fi.Size(), tarfs.Limits{})
	require.NoError(b, err)
	var g errgroup.Group
	for w := range workers {
		g.Go(func() error {
			out, err := os.Create(filepath.Join(dir, strconv.Itoa(w)))
			if err != nil {
				return err
			}
			defer out.Close()
			d, buf := newDigests(bothSums), make([]byte, chunk)
			for i := w; i < len(z.Entries); i += workers {
				if !z.Entries[i].Mode.IsRegular() {
					continue
				}
				r, err := z.Entries[i].Open()
				if err != nil {
					return err
				}
				d.reset()
				if _, err := io.CopyBuffer(io.MultiWriter(onlyWriter{out}, d), r, buf); err != nil {
					return err
				}
				r.Close()
				var f Fingerprint
				d.into(&f)
			}
			return out.Sync()
		})
	}
	require.NoError(b, g.Wait())
	return time.Since(start)
}

// BenchmarkPackageOneChanged packages an app again, of which one file of 1 MiB is another,
// as a server does: the request of the match, the upload of the zip, the package. Beside it
// stands what needs no server to know: the scan that finds the change out, and the whole
// upload of the first time.
func BenchmarkPackageOneChanged(b *testing.B) {
	for _, limits := range []struct {
		name string
		Config
	}{{"every file known", Config{MinSize: -1}}, {"Cloud Foundry's limits", Config{}}} {
		for _, mib := range []int{*packageMiB / 64, *packageMiB / 16, *packageMiB / 4, *packageMiB} {
			b.Run(fmt.Sprintf("%s/%dMiB", limits.name, mib), func(b *testing.B) { oneChanged(b, limits.Config, mib) })
		}
	}
}

func oneChanged(b *testing.B, cfg Config, mib int) {
	dir := benchTree(b, mib)
	c := dirCache(b, cfg)
	files, err := ScanPath(b.Context(), dir, ScanOptions{})
	require.NoError(b, err)
	start := time.Now()
	p, err := c.Assemble(b.Context(), Upload{Lease: newLease(b, c.Cache), Files: files})
	require.NoError(b, err)
	keep(b, c, "package:0", p)
	whole := time.Since(start)
	files.Close()
	buf := make([]byte, 1<<20)
	rnd := rand.NewChaCha8([32]byte{2})
	var scan, sent time.Duration
	n, bits := 0, int64(0)
	for b.Loop() {
		b.StopTimer()
		n++
		_, _ = rnd.Read(buf)
		require.NoError(b, os.WriteFile(filepath.Join(dir, "changing"), buf, 0o644))
		start := time.Now()
		files, err := ScanPath(b.Context(), dir, ScanOptions{})
		require.NoError(b, err)
		scan += time.Since(start)
		l := newLease(b, c.Cache)
		fps := files.Fingerprints()
		b.StartTimer()
		start = time.Now()
		known, err := c.Match(b.Context(), fps, l)
		require.NoError(b, err)
		sent += time.Since(start)
		b.StopTimer()
		body, err := os.ReadFile(writeBits(b, files, known, Zip))
		require.NoError(b, err)
		bits += int64(len(body))
		b.StartTimer()
		start = time.Now()
		p, err := c.Assemble(b.Context(), Upload{Lease: l, Known: known, Bits: bytes.NewReader(body)})
		require.NoError(b, err)
		keep(b, c, fmt.Sprint("package:", n), p)
		sent += time.Since(start)
		b.StopTimer()
		require.NoError(b, c.catalog.Release(b.Context(), l))
		files.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(whole)/(float64(sent)/float64(n)), "times-faster-than-first")
	b.ReportMetric(float64(scan)/float64(n)/1e6, "scan-ms")
	b.ReportMetric(float64(bits)/float64(n)/(1<<20), "sent-MiB")
}

// BenchmarkScan reads and hashes an app, in turns with sha1sum and sha256sum, one after the
// other as Scan takes both.
func BenchmarkScan(b *testing.B) {
	dir := benchTree(b, *packageMiB)
	b.SetBytes(int64(*packageMiB) << 20)
	var ours, theirs time.Duration
	for b.Loop() {
		start := time.Now()
		f, err := ScanPath(b.Context(), dir, ScanOptions{})
		require.NoError(b, err)
		f.Close()
		ours += time.Since(start)
		b.StopTimer()
		start = time.Now()
		for _, tool := range []string{"sha1sum", "sha256sum"} {
			if err := exec.Command("find", dir, "-type", "f", "-exec", tool, "{}", "+").Run(); err != nil {
				b.Skip(err)
			}
		}
		theirs += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(theirs)/float64(ours), "times-faster-than-tools")
}
