package blob_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/dewpoint-go/dewpoint/blob"
)

// BenchmarkDirPut stands beside BenchmarkBareFile: the same bytes, written and synced with
// nothing else.
func BenchmarkDirPut(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 20} {
		data := make([]byte, size)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			d, err := blob.OpenDir(b.TempDir(), blob.DirConfig{})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				if _, err := d.Put(b.Context(), fmt.Sprintf("resource/%02x/%d", i%256, i%1000), bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDirPutMany is BenchmarkDirPut with callers that do not wait for each other.
func BenchmarkDirPutMany(b *testing.B) {
	data := make([]byte, 4<<10)
	d, err := blob.OpenDir(b.TempDir(), blob.DirConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	b.SetBytes(int64(len(data)))
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := d.Put(b.Context(), fmt.Sprintf("resource/%02x/%p-%d", i%256, pb, i%1000), bytes.NewReader(data)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkBareFile(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 20} {
		data := make([]byte, size)
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			dir := b.TempDir()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(i%1000)))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(f, struct{ io.Reader }{bytes.NewReader(data)}); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}
