//go:build linux || darwin

package process_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/process"
)

// times are measured one by one: the middle one says more than the mean.
type times []time.Duration

func (t times) report(b *testing.B, what string) {
	slices.Sort(t)
	b.ReportMetric(float64(t[len(t)/2].Microseconds())/1000, "p50-ms"+what)
	b.ReportMetric(float64(t[len(t)*99/100].Microseconds())/1000, "p99-ms"+what)
}

// BenchmarkStart compares the time from Start to running of an instance whose droplet (100 files of
// 10 kB) is on the cell, started as it is and by the launcher, and that of its Stop without grace, with a bare fork
// and exec of the same program.
func BenchmarkStart(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		var start, stop times
		for b.Loop() {
			begun := time.Now()
			cmd := exec.Command("/bin/sleep", "1000")
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			start = append(start, time.Since(begun))
			begun = time.Now()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			stop = append(stop, time.Since(begun))
		}
		start.report(b, "")
		stop.report(b, "-stop")
	})
	b.Run("cp", func(b *testing.B) { // what the copy of the droplet alone takes
		data, _ := tree(b, 100, 10_000)
		dir := b.TempDir()
		untar := exec.Command("tar", "-x", "-C", dir)
		untar.Stdin = bytes.NewReader(data)
		if err := untar.Run(); err != nil {
			b.Skip(err)
		}
		var all times
		for i := 0; b.Loop(); i++ {
			to := filepath.Join(dir, fmt.Sprint("copy", i))
			begun := time.Now()
			if err := exec.Command("cp", "-a", filepath.Join(dir, "app"), to).Run(); err != nil {
				b.Fatal(err)
			}
			all = append(all, time.Since(begun))
			_ = os.RemoveAll(to)
		}
		all.report(b, "")
	})
	for name, p := range map[string]cell.Process{
		"instance": {Path: "/bin/sleep", Args: []string{"1000"}},
		"launcher": {Path: "lifecycle:launcher", Args: []string{"{{path /home/vcap/app}}", "sleep 1000", ""}, Dir: "/home/vcap/app"},
	} {
		b.Run(name, func(b *testing.B) { benchStart(b, p) })
	}
}

func benchStart(b *testing.B, p cell.Process) {
	data, digest := tree(b, 100, 10_000)
	a := benchAgent(b, data)
	var start, stop times
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("w%d", i)
		w := cell.Work{ID: id, LRP: "l", Health: &cell.Health{Type: "process"}, Process: p,
			Layers: []cell.Input{{Source: "blob:x", Dir: "/home/vcap", SHA256: digest}}}
		begun := time.Now()
		if err := a.Start(b.Context(), w); err != nil {
			b.Fatal(err)
		}
		for e := range a.Watch(b.Context()) {
			switch {
			case e.Status.ID != id:
			case e.Gone:
				stop = append(stop, time.Since(begun))
			case e.Status.Phase == cell.PhaseDone && e.Status.Reason != cell.ReasonStopped:
				b.Fatal(e.Status.Failure)
			case e.Status.Phase == cell.PhaseRunning:
				start = append(start, time.Since(begun))
				begun = time.Now()
				_ = a.Stop(b.Context(), id)
			}
			if e.Gone {
				break
			}
		}
	}
	start.report(b, "")
	stop.report(b, "-stop")
}

func benchAgent(b *testing.B, droplet []byte) *cell.Agent {
	r, err := process.New(b.Context(), process.Config{Dir: b.TempDir(), Program: prog})
	if err != nil {
		b.Fatal(err)
	}
	a, err := cell.New(cell.AgentConfig{ID: "c", Runtime: r, Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(droplet)), nil
	}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	})
	return a
}

// BenchmarkLines is how many lines of a work come through: process, init, file, Agent, reader.
// Beside it the same program writes into a pipe that is read and thrown away.
func BenchmarkLines(b *testing.B) {
	const n = 200_000
	p := program(fmt.Sprintf("lines=%d", n))
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			cmd := exec.Command(p.Path, p.Args...)
			cmd.Stdout = struct{ io.Writer }{io.Discard}
			if err := cmd.Run(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "lines/s")
	})
	b.Run("work", func(b *testing.B) {
		a := benchAgent(b, nil)
		for i := 0; b.Loop(); i++ {
			id, got := fmt.Sprintf("w%d", i), 0
			if err := a.Start(b.Context(), cell.Work{ID: id, Process: p}); err != nil {
				b.Fatal(err)
			}
			for l := range a.Logs(b.Context(), id, 0) {
				if l.Text == fmt.Sprintf("line %d", got+1) {
					got++
				}
			}
			if got != n {
				b.Fatalf("%d lines of %d came", got, n)
			}
			_ = a.Stop(b.Context(), id)
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "lines/s")
	})
}
