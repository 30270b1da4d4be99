package droplet_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet"
)

// corpus returns n bytes that compress about as program text does, from the Go
// distribution's own files.
func corpus(b *testing.B) []byte {
	var all []byte
	root := filepath.Join(runtime.GOROOT(), "src")
	_ = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(p) == ".go" && len(all) < 64<<20 {
			if data, err := os.ReadFile(p); err == nil {
				all = append(all, data...)
			}
		}
		return nil
	})
	if len(all) < 1<<20 {
		b.Skip("no sources of Go to make a tree of")
	}
	return all
}

// bigTree makes files files of size bytes in all: text, and one byte in five random, as
// jars and pictures are.
func bigTree(b *testing.B, files int, size int64) string {
	b.Helper()
	text := corpus(b)
	r := rand.New(rand.NewPCG(3, 4))
	dir := b.TempDir()
	for i := range files {
		n := int(float64(size) / float64(files) * (0.2 + 1.6*r.Float64()))
		data := make([]byte, n)
		if i%5 == 0 {
			for j := range data {
				data[j] = byte(r.Uint32())
			}
		} else {
			for j := 0; j < n; {
				j += copy(data[j:], text[r.IntN(len(text)-1):])
			}
		}
		p := filepath.Join(dir, "app", fmt.Sprintf("d%d", i%97), fmt.Sprintf("e%d", i%7))
		require.NoError(b, os.MkdirAll(p, 0o755))
		require.NoError(b, os.WriteFile(filepath.Join(p, fmt.Sprintf("f%d", i)), data, 0o644))
	}
	return dir
}

// BenchmarkWrite writes a large app, and says how many times faster that is than
// "tar -czf" and how many times larger the result is.
func BenchmarkWrite(b *testing.B) {
	if testing.Short() {
		b.Skip("makes 400 MB")
	}
	dir := bigTree(b, 20_000, 400<<20)
	b.Run("gzip", func(b *testing.B) { benchmarkWrite(b, dir, droplet.Options{}) })
	b.Run("tar", func(b *testing.B) { benchmarkWrite(b, dir, droplet.Options{Plain: true}) })
}

func benchmarkWrite(b *testing.B, dir string, o droplet.Options) {
	var info droplet.Info
	for b.Loop() {
		var err error
		info, err = droplet.Write(b.Context(), io.Discard, dir, o)
		require.NoError(b, err)
	}
	b.SetBytes(info.Bytes)
	ours := b.Elapsed() / time.Duration(b.N)
	if o.Plain {
		return
	}
	tar, err := exec.LookPath("tar")
	if err != nil {
		return
	}
	out := filepath.Join(b.TempDir(), "x.tgz")
	start := time.Now()
	if err := exec.CommandContext(b.Context(), tar, "-C", dir, "-czf", out, ".").Run(); err != nil {
		b.Logf("tar: %v", err)
		return
	}
	theirs := time.Since(start)
	fi, err := os.Stat(out)
	require.NoError(b, err)
	b.ReportMetric(float64(theirs)/float64(ours), "times-faster")
	b.ReportMetric(float64(info.Size)/float64(fi.Size()), "times-larger")
}
