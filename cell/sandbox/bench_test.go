//go:build linux

package sandbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
)

// BenchmarkStart compares the time from Start to running of an instance whose droplet (100 files of
// 10 kB) is on the cell, and that of its Stop without grace, with those of a cell of plain processes.
func BenchmarkStart(b *testing.B) {
	needIsolation(b)
	files := map[string]string{}
	for i := range 100 {
		files[fmt.Sprintf("app/%d/f%d", i%10, i)] = strings.Repeat(string(rune('a'+i%26)), 10_000)
	}
	droplet := tarOf(b, files)
	digest := fmt.Sprintf("%x", sha256.Sum256(droplet))
	open := map[string]func(*testing.B) (cell.Runtime, io.Closer, error){
		"process": func(b *testing.B) (cell.Runtime, io.Closer, error) {
			r, err := process.New(b.Context(), process.Config{Dir: b.TempDir(), Program: prog})
			return r, r, err
		},
		"sandbox": func(b *testing.B) (cell.Runtime, io.Closer, error) {
			r, err := sandbox.New(b.Context(), sandbox.Config{Dir: b.TempDir(), Program: prog})
			return r, r, err
		},
	}
	for _, name := range []string{"process", "sandbox"} {
		b.Run(name, func(b *testing.B) {
			r, c, err := open[name](b)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = c.Close() })
			benchStart(b, runAgent(b, cell.AgentConfig{Runtime: r, Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(droplet)), nil
			}}), digest)
		})
	}
}

func benchStart(b *testing.B, a *cell.Agent, digest string) {
	var start, stop []time.Duration
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("w%d", i)
		w := cell.Work{ID: id, LRP: "l", Health: &cell.Health{Type: "process"}, Process: cell.Process{Path: "/bin/sleep", Args: []string{"1000"}},
			Layers: []cell.Input{{Source: "blob:x", Dir: "/home/vcap", SHA256: digest}}}
		begun := time.Now()
		if err := a.Start(b.Context(), w); err != nil {
			b.Fatal(err)
		}
		for e := range a.Watch(b.Context()) {
			if e.Status.ID != id {
				continue
			}
			if e.Gone {
				stop = append(stop, time.Since(begun))
				break
			}
			switch {
			case e.Status.Phase == cell.PhaseDone && e.Status.Reason != cell.ReasonStopped:
				b.Fatal(e.Status.Failure)
			case e.Status.Phase == cell.PhaseRunning:
				start = append(start, time.Since(begun))
				begun = time.Now()
				_ = a.Stop(b.Context(), id)
			}
		}
	}
	for what, all := range map[string][]time.Duration{"": start, "-stop": stop} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms"+what)
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms"+what)
	}
}
