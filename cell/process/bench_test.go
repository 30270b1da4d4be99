//go:build linux || darwin

package process_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/process"
)

// BenchmarkStart is the time from Start to running of an instance whose droplet (100 files)
// is on the cell; stopping it is not counted.
func BenchmarkStart(b *testing.B) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for i := range 100 {
		data := bytes.Repeat([]byte{byte(i)}, 10_000)
		_ = tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("app/%d/f", i%10*100+i), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
		_, _ = tw.Write(data)
	}
	_ = tw.Close()
	sum := sha256.Sum256(buf.Bytes())
	r, err := process.New(b.Context(), process.Config{Dir: b.TempDir(), Program: prog})
	if err != nil {
		b.Fatal(err)
	}
	a, err := cell.New(cell.AgentConfig{ID: "c", Runtime: r, Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("w%d", i)
		w := cell.Work{ID: id, LRP: "l", Health: &cell.Health{Type: "process"}, Process: cell.Process{Path: "/bin/sleep", Args: []string{"1000"}},
			Layers: []cell.Input{{Source: "blob:x", Dir: "/home/vcap", SHA256: hex.EncodeToString(sum[:])}}}
		if err := a.Start(ctx, w); err != nil {
			b.Fatal(err)
		}
		for e := range a.Watch(ctx) {
			if e.Status.ID != id {
				continue
			}
			if e.Status.Phase == cell.PhaseDone && e.Status.Reason != cell.ReasonStopped {
				b.Fatal(e.Status.Failure)
			}
			if e.Status.Phase == cell.PhaseRunning {
				b.StopTimer()
				_ = a.Stop(ctx, id)
			}
			if e.Gone {
				break
			}
		}
		b.StartTimer()
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
}
