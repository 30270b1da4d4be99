package oci_test

import (
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet/oci"
)

// benchMB is the size of the droplet in BenchmarkExport.
var benchMB = 300

// BenchmarkExport exports a droplet of 300 MB, a third of it text and the rest bytes that no compressor
// makes smaller, as a layout; and copies the same droplet, as the measure.
func BenchmarkExport(b *testing.B) {
	dir := b.TempDir()
	require.NoError(b, os.Mkdir(filepath.Join(dir, "app"), 0o755))
	r := rand.New(rand.NewSource(1))
	words := make([]string, 5000)
	for i := range words {
		words[i] = strconv.FormatInt(r.Int63n(1<<40), 36) + " "
	}
	for i := range benchMB {
		buf := make([]byte, 0, 1<<20+64)
		if i%3 == 0 {
			for len(buf) < 1<<20 {
				buf = append(buf, words[r.Intn(len(words))]...)
			}
		} else {
			buf = buf[:1<<20]
			r.Read(buf)
		}
		require.NoError(b, os.WriteFile(filepath.Join(dir, "app", strconv.Itoa(i)), buf, 0o644))
	}
	file, data := pack(b, dir)
	c, stack := client(b), someStack(b, "1")
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			in, err := os.Open(file)
			require.NoError(b, err)
			out, err := os.Create(filepath.Join(b.TempDir(), "copy"))
			require.NoError(b, err)
			// Without what the kernel may do by itself: reflinks and the like write nothing.
			_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20))
			require.NoError(b, err)
			require.NoError(b, out.Close())
			require.NoError(b, in.Close())
		}
	})
	b.Run("export", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			_, err := c.Export(b.Context(), oci.ExportRequest{Droplet: file, Stack: stack, To: "oci:" + b.TempDir()})
			require.NoError(b, err)
		}
	})
	b.Run("import", func(b *testing.B) {
		img, err := c.Export(b.Context(), oci.ExportRequest{Droplet: file, Stack: stack, To: "oci:" + b.TempDir()})
		require.NoError(b, err)
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			_, err := c.Import(b.Context(), img.Ref, io.Discard)
			require.NoError(b, err)
		}
	})
}
