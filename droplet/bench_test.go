package droplet_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet"
	"github.com/dewpoint-go/dewpoint/internal/sampletree"
)

// BenchmarkWrite writes an app of 20,000 files and 400 MB, in turns with "tar -czf", and says
// how many times faster that is and how many times larger the result is. Tar works on one
// processor; "times-faster-per-cpu" is what is left of the difference if that is discounted.
func BenchmarkWrite(b *testing.B) {
	if testing.Short() {
		b.Skip("makes 400 MB")
	}
	dir := b.TempDir()
	if err := sampletree.Make(dir, 3, 20_000, 400<<20); err != nil {
		b.Skip(err)
	}
	b.Run("gzip", func(b *testing.B) { benchmarkWrite(b, dir, droplet.Options{}, "-czf") })
	b.Run("tar", func(b *testing.B) { benchmarkWrite(b, dir, droplet.Options{Plain: true}, "-cf") })
}

func benchmarkWrite(b *testing.B, dir string, o droplet.Options, flag string) {
	tar, err := exec.LookPath("tar")
	if err != nil {
		b.Skip(err)
	}
	out := filepath.Join(b.TempDir(), "x")
	var ours, theirs, ourCPU, theirCPU time.Duration
	var last droplet.Info
	for b.Loop() {
		b.StopTimer()
		cmd := exec.CommandContext(b.Context(), tar, "-C", dir, flag, out, ".")
		start := time.Now()
		require.NoError(b, cmd.Run())
		theirs += time.Since(start)
		theirCPU += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		before := sampletree.CPUTime()
		b.StartTimer()
		start = time.Now()
		info, err := write(b, out+".ours", dir, o)
		require.NoError(b, err)
		ours += time.Since(start)
		ourCPU += sampletree.CPUTime() - before
		if last.SHA256 != "" {
			require.Equal(b, last, info, "other bytes this time")
		}
		last = info
	}
	b.SetBytes(last.Bytes)
	fi, err := os.Stat(out)
	require.NoError(b, err)
	b.ReportMetric(float64(theirs)/float64(ours), "times-faster")
	b.ReportMetric(float64(theirCPU)/float64(ourCPU), "times-faster-per-cpu")
	b.ReportMetric(float64(last.Size)/float64(fi.Size()), "times-larger")
}

func write(b *testing.B, name, dir string, o droplet.Options) (droplet.Info, error) {
	f, err := os.Create(name)
	if err != nil {
		return droplet.Info{}, err
	}
	defer f.Close()
	return droplet.Write(b.Context(), io.Writer(f), dir, o)
}
