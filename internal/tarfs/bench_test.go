package tarfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkExtract unpacks an app of 5,000 files and 100 MB, and says how many times
// faster that is than "tar -xzf".
func BenchmarkExtract(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < 40_000 {
		fmt.Fprintf(&text, "if x%d := call(%d); x != nil { return %x }\n", r.IntN(50), r.IntN(1000), r.Uint32())
	}
	items := []item{}
	for i := range 5000 {
		if i%50 == 0 {
			items = append(items, item{name: fmt.Sprintf("app/d%d/", i/50), kind: tar.TypeDir, mode: 0o755})
		}
		items = append(items, item{name: fmt.Sprintf("app/d%d/f%d", i/50, i), body: text.String()[:r.IntN(40_000)]})
	}
	data := gz(b, tarOf(b, items...))
	dir := b.TempDir()
	n := 0
	for b.Loop() {
		root, err := os.OpenRoot(dir)
		require.NoError(b, err)
		s, err := Extract(b.Context(), root, fmt.Sprintf("x%d", n), bytes.NewReader(data), Limits{})
		require.NoError(b, err)
		root.Close()
		b.SetBytes(s.Bytes)
		n++
	}
	ours := b.Elapsed() / time.Duration(b.N)
	tgz := filepath.Join(dir, "x.tgz")
	require.NoError(b, os.WriteFile(tgz, data, 0o600))
	require.NoError(b, os.Mkdir(filepath.Join(dir, "tar"), 0o755))
	start := time.Now()
	if err := exec.CommandContext(b.Context(), "tar", "-C", filepath.Join(dir, "tar"), "-xzf", tgz).Run(); err != nil {
		b.Logf("tar: %v", err)
		return
	}
	b.ReportMetric(float64(time.Since(start))/float64(ours), "times-faster")
}
