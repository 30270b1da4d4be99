//go:build linux

package sandbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
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
		"sandbox-host-network": func(b *testing.B) (cell.Runtime, io.Closer, error) {
			r, err := sandbox.New(b.Context(), sandbox.Config{Dir: b.TempDir(), Program: prog, Network: sandbox.HostNetwork})
			return r, r, err
		},
	}
	image := imageWithSleep(b)
	open["sandbox-image"] = func(b *testing.B) (cell.Runtime, io.Closer, error) {
		r, err := sandbox.New(b.Context(), sandbox.Config{Dir: b.TempDir(), Program: prog, Images: &attacktest.Roots{Dir: image}})
		return r, r, err
	}
	kinds := []string{"process", "sandbox", "sandbox-host-network", "sandbox-image"}
	if sandbox.MayGiveUsers(cell.FirstUser) {
		theirs := imageWithSleep(b)
		require.NoError(b, filepath.WalkDir(theirs, func(name string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(name, cell.FirstUser, cell.FirstUser))
		}))
		open["sandbox-image-users"] = func(b *testing.B) (cell.Runtime, io.Closer, error) {
			r, err := sandbox.New(b.Context(), sandbox.Config{Dir: b.TempDir(), Program: prog, Images: &attacktest.Roots{Dir: theirs}, FirstUser: cell.FirstUser})
			return r, r, err
		}
		kinds = append(kinds, "sandbox-image-users")
	}
	for _, name := range kinds {
		b.Run(name, func(b *testing.B) {
			r, c, err := open[name](b)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = c.Close() })
			benchStart(b, celltest.Agent(b, cell.AgentConfig{Runtime: r, Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(droplet)), nil
			}}), func(w *cell.Work) {
				if strings.HasPrefix(name, "sandbox-image") {
					w.Layers, w.Spec.Image, w.Spec.User, w.Process.Path = nil, "x@sha256:"+digest, "1000", "/sleep"
				}
			}, digest)
		})
	}
}

// imageWithSleep makes the root of an image with the droplet's files and a program that waits.
func imageWithSleep(b *testing.B) string {
	b.Helper()
	dir, src := b.TempDir(), b.TempDir()
	require.NoError(b, os.WriteFile(filepath.Join(src, "main.go"), []byte("package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(time.Hour) }\n"), 0o600))
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "sleep"), filepath.Join(src, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Skipf("go build: %v: %s", err, out) // the image is made with Go's tools, which a test binary elsewhere may lack
	}
	for i := range 100 {
		name := filepath.Join(dir, "app", strconv.Itoa(i%10), "f"+strconv.Itoa(i))
		require.NoError(b, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(b, os.WriteFile(name, bytes.Repeat([]byte("x"), 10_000), 0o644))
	}
	require.NoError(b, os.Chmod(dir, 0o755))
	return dir
}

func benchStart(b *testing.B, a *cell.Agent, change func(*cell.Work), digest string) {
	var start, stop []time.Duration
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("w%d", i)
		w := cell.Work{ID: id, LRP: "l", Health: &cell.Health{Type: "process"}, Process: cell.Process{Path: "/bin/sleep", Args: []string{"1000"}},
			Layers: []cell.Input{{Source: "blob:x", Dir: "/home/vcap", SHA256: digest}}}
		change(&w)
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

// BenchmarkCrowd is how long 200 instances take that start at once, until the last one runs, and what memory each takes
// beside its app, idle.
func BenchmarkCrowd(b *testing.B) {
	needIsolation(b)
	for _, network := range []string{sandbox.OwnNetwork, sandbox.HostNetwork} {
		b.Run(network, func(b *testing.B) { benchCrowd(b, network) })
	}
}

func benchCrowd(b *testing.B, network string) {
	const n = 200
	for b.Loop() {
		r, err := sandbox.New(b.Context(), sandbox.Config{Dir: b.TempDir(), Program: prog, Network: network})
		if err != nil {
			b.Fatal(err)
		}
		a := celltest.Agent(b, cell.AgentConfig{Runtime: r})
		running := map[string]bool{}
		begun := time.Now()
		for i := range n {
			w := cell.Work{ID: fmt.Sprintf("w%d", i), LRP: "l", Health: &cell.Health{Type: "process"}, Process: cell.Process{Path: "/bin/sleep", Args: []string{"1000"}}}
			if err := a.Start(b.Context(), w); err != nil {
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
		b.ReportMetric(float64(inits(b))/n/1e6, "MB-each")
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
		_ = r.Close()
	}
}

// inits adds up the proportional share of memory (smaps_rollup, proc(5)) of all inits below this process.
func inits(b *testing.B) (sum int64) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		if name, _ := os.ReadFile(f); !strings.HasPrefix(string(name), "dewpoint") {
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

// BenchmarkNetwork has a program inside take 256 MiB from this machine, by the network of its own and by the machine's, in
// turns; and connects to it from outside.
func BenchmarkNetwork(b *testing.B) {
	own := machine(b)
	const size = 256 << 20
	l, err := net.Listen("tcp4", own.String()+":0")
	require.NoError(b, err)
	defer l.Close()
	block := make([]byte, 1<<20)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for range size / len(block) {
					_, _ = c.Write(block)
				}
				_ = c.Close()
			}()
		}
	}()
	isolated := networked(b, b.TempDir(), cell.EgressRule{Network: netip.PrefixFrom(own, 32)})
	shared, err := sandbox.New(b.Context(), sandbox.Config{Dir: b.TempDir(), Program: prog, Network: sandbox.HostNetwork})
	require.NoError(b, err)
	spent, dialed := map[string]time.Duration{}, map[string]time.Duration{}
	const dials = 200
	for i := range b.N {
		for name, r := range map[string]*sandbox.Runtime{"own": isolated, "host": shared} {
			c, err := r.Create(b.Context(), cell.Creation{ID: "x" + strconv.Itoa(i), Spec: cell.Spec{Ports: []int{8080}}})
			require.NoError(b, err)
			p := program("serve")
			p.ID, p.Env = "web", append(p.Env, "PORT="+strconv.Itoa(c.Info().Addresses[0].Port))
			_, err = c.Run(b.Context(), p, cell.IO{})
			require.NoError(b, err)
			require.Eventually(b, func() bool { return answers(c) }, time.Minute, time.Millisecond)
			begun := time.Now()
			for range dials {
				require.True(b, answers(c))
			}
			dialed[name] += time.Since(begun) / dials
			var out bytes.Buffer
			begun = time.Now()
			run, err := c.Run(b.Context(), cell.Process{Path: "lifecycle:attack", Args: []string{"take=" + l.Addr().String()}}, cell.IO{Stdout: &out})
			require.NoError(b, err)
			_, err = run.Wait(b.Context())
			require.NoError(b, err)
			require.Equal(b, "take "+strconv.Itoa(size), strings.TrimSpace(out.String()))
			spent[name] += time.Since(begun)
			require.NoError(b, c.Destroy(b.Context()))
		}
	}
	for name := range spent {
		b.ReportMetric(size/1e6*float64(b.N)/spent[name].Seconds(), "MB/s-"+name)
		b.ReportMetric(float64(dialed[name].Microseconds())/float64(b.N), "us-dial-"+name)
	}
	b.ReportMetric(0, "ns/op")
	require.NoError(b, errors.Join(isolated.Close(), shared.Close()))
}
