//go:build linux

package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
)

// BenchmarkStart is the time from Start to running of an instance whose droplet (100 files of 10 kB) is on the cell, that of another
// process in its container, and that of its Stop without grace.
func BenchmarkStart(b *testing.B) {
	b.Run("measured", func(b *testing.B) { benchmarkStart(b, open(b, b.TempDir()), cell.Spec{}) })
	b.Run("bounded", func(b *testing.B) { benchmarkStart(b, open(b, b.TempDir()), cell.Spec{Disk: 1 << 30}) })
	b.Run("by CNI", func(b *testing.B) {
		list, _ := pluginsList(b, "198.18.9.0/24")
		r, err := containerd.New(b.Context(), containerd.Config{Dir: b.TempDir(), Socket: socket, Program: prog, CNI: list})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		benchmarkStart(b, r, cell.Spec{})
	})
}

// benchmarkStart starts instances of a kind.
func benchmarkStart(b *testing.B, r *containerd.Runtime, spec cell.Spec) {
	droplet := droplet(b)
	a := celltest.Agent(b, cell.AgentConfig{Runtime: r, Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(droplet)), nil
	}})
	var start, second, stop []time.Duration
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("w%d", i)
		w := idle(id)
		w.Spec = spec
		w.Layers = []cell.Input{{Source: "blob:x", Dir: "/home/vcap", SHA256: fmt.Sprintf("%x", sha256.Sum256(droplet))}}
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
				second = append(second, another(b, r, id))
				begun = time.Now()
				_ = a.Stop(b.Context(), id)
			}
		}
	}
	for what, all := range map[string][]time.Duration{"": start, "-second": second, "-stop": stop} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms"+what)
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms"+what)
	}
}

func droplet(b *testing.B) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range 100 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("app/%d/f%d", i%10, i), Mode: 0o644, Size: 10_000, Typeflag: tar.TypeReg}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte{byte('a' + i%26)}, 10_000)); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

func idle(id string) cell.Work {
	return cell.Work{ID: id, LRP: "l", Health: &cell.Health{Type: "process"}, Process: cell.Process{Path: "/bin/sleep", Args: []string{"1000"}}}
}

// another starts a process in a container that runs.
func another(b *testing.B, r cell.Runtime, id string) time.Duration {
	all, err := r.Containers(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range all {
		if c.Info().ID != id {
			continue
		}
		begun := time.Now()
		if _, err := c.Run(b.Context(), cell.Process{ID: "second", Path: "/bin/sleep", Args: []string{"1000"}}, cell.IO{}); err != nil {
			b.Fatal(err)
		}
		return time.Since(begun)
	}
	b.Fatal("it is not there")
	return 0
}

// BenchmarkCrowd is how long 200 instances take that start at once, until the last one runs, and what memory each takes
// beside its app, idle: shim, keeper and init.
func BenchmarkCrowd(b *testing.B) {
	const n = 200
	for b.Loop() {
		r := open(b, b.TempDir())
		a := celltest.Agent(b, cell.AgentConfig{Runtime: r})
		running := map[string]bool{}
		begun := time.Now()
		for i := range n {
			if err := a.Start(b.Context(), idle(fmt.Sprintf("w%d", i))); err != nil {
				b.Fatal(err)
			}
		}
		for e := range a.Watch(b.Context()) {
			if e.Status.Phase == cell.PhaseDone {
				b.Fatal(e.Status.Failure)
			}
			if e.Status.Phase == cell.PhaseRunning {
				if running[e.Status.ID] = true; len(running) == n {
					break
				}
			}
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-200")
		b.ReportMetric(float64(share(b, "keeper", "init", "dewpoint"))/n/1e6, "MB-ours-each")
		b.ReportMetric(float64(share(b, "containerd-shim"))/n/1e6, "MB-shim-each")
		begun = time.Now()
		for id := range running {
			_ = a.Stop(b.Context(), id)
		}
		synced, left := false, map[string]bool{} // what Watch begins with, and does not forget
		for e := range a.Watch(b.Context()) {
			if e.Gone {
				delete(left, e.Status.ID)
			} else if e.Status.ID != "" {
				left[e.Status.ID] = true
			}
			synced = synced || e.Synced
			if synced && len(left) == 0 {
				break
			}
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-200-stop")
	}
}

// share adds up the proportional share of memory (smaps_rollup, proc(5)) of processes by the beginnings of their names.
func share(b *testing.B, names ...string) (sum int64) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		name, _ := os.ReadFile(f) // one that has ended has none
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(string(name), n) }) {
			continue
		}
		text, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "smaps_rollup"))
		for l := range strings.Lines(string(text)) {
			var kb int64
			if _, err := fmt.Sscanf(l, "Pss: %d kB", &kb); err == nil {
				sum += kb * 1000
			}
		}
	}
	return sum
}

// BenchmarkDisk writes 300 MB, and 5,243 files of 10 kB from one of 52 MB, in a container whose disk is measured, and in one whose disk is bounded.
func BenchmarkDisk(b *testing.B) {
	const large = "head -c 300M /dev/zero > f; sync f; rm f"
	const small = "head -c 50M /dev/zero > all; mkdir d; split -b 10000 -a 4 all d/; sync -f d; rm -r d all"
	for name, disk := range map[string]int64{"measured": 0, "bounded": 1 << 30} {
		for kind, script := range map[string]string{"large": large, "small": small} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				r := open(b, b.TempDir())
				c, err := r.Create(b.Context(), cell.Creation{ID: "x", Spec: cell.Spec{Disk: disk}})
				if err != nil {
					b.Fatal(err)
				}
				for i := 0; b.Loop(); i++ {
					run, err := c.Run(b.Context(), cell.Process{ID: fmt.Sprint("p", i), Path: "/bin/sh", Args: []string{"-ec", script}}, cell.IO{})
					if err != nil {
						b.Fatal(err)
					}
					if e, err := run.Wait(b.Context()); err != nil || e.Code != 0 {
						b.Fatal(e, err)
					}
				}
				if err := c.Destroy(context.Background()); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
