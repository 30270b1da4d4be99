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
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/process"
)

// tree makes a tar of n files of size bytes.
func tree(t testing.TB, n, size int) (data []byte, digest string) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("app/%d/f%d", i%10, i), Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}))
		_, err := w.Write(bytes.Repeat([]byte{byte(i)}, size))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	sum := sha256.Sum256(buf.Bytes())
	return buf.Bytes(), hex.EncodeToString(sum[:])
}

// tarOf makes a tar of one file.
func tarOf(t testing.TB, name string, content []byte) (data []byte, digest string) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	sum := sha256.Sum256(buf.Bytes())
	return buf.Bytes(), hex.EncodeToString(sum[:])
}

// stuck is a stream that ends when it is closed.
type stuck struct {
	head    io.Reader
	reached func()
	closed  chan struct{}
	once    sync.Once
}

func (s *stuck) Read(p []byte) (int, error) {
	if n, err := s.head.Read(p); err == nil {
		return n, nil
	}
	s.reached()
	<-s.closed
	return 0, os.ErrClosed
}

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Each work hangs somewhere; Stop ends it there and then: what hangs would not end by itself, so
// that a Stop that waited for it would never be done.
func TestStopInEachPhase(t *testing.T) {
	t.Parallel()
	data, digest := tree(t, 10, 1000)
	for name, c := range map[string]func(w *cell.Work, a *cell.AgentConfig, reached func()){
		"opening": func(w *cell.Work, a *cell.AgentConfig, reached func()) {
			w.Inputs = []cell.Input{{Source: "blob:x", Dir: "/tmp"}}
			a.Open = func(ctx context.Context, _ cell.Source) (io.ReadCloser, error) {
				reached()
				<-ctx.Done()
				return nil, ctx.Err()
			}
		},
		"in the middle of an input": func(w *cell.Work, a *cell.AgentConfig, reached func()) {
			w.Inputs = []cell.Input{{Source: "blob:x", Dir: "/tmp"}}
			a.Open = func(context.Context, cell.Source) (io.ReadCloser, error) {
				return &stuck{head: bytes.NewReader(data[:3000]), reached: reached, closed: make(chan struct{})}, nil
			}
		},
		"in the middle of a layer": func(w *cell.Work, a *cell.AgentConfig, reached func()) {
			w.Layers = []cell.Input{{Source: "blob:x", Dir: "/tmp", SHA256: digest}}
			a.Open = func(context.Context, cell.Source) (io.ReadCloser, error) {
				return &stuck{head: bytes.NewReader(data[:3000]), reached: reached, closed: make(chan struct{})}, nil
			}
		},
		"uploading": func(w *cell.Work, a *cell.AgentConfig, reached func()) {
			w.Process.Args = []string{"-c", "echo x > f"}
			w.Outputs = []cell.Output{{Path: "/home/vcap/f", Key: "k"}}
			a.Save = func(ctx context.Context, _ string, _ io.Reader) (blob.Info, error) {
				reached()
				<-ctx.Done()
				return blob.Info{}, ctx.Err()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			w := cell.Work{ID: "w", Process: cell.Process{Path: "/bin/sh"}}
			conf := cell.AgentConfig{Runtime: openClean(t, dir)}
			reached, once := make(chan struct{}), sync.Once{}
			c(&w, &conf, func() { once.Do(func() { close(reached) }) })
			a := celltest.Agent(t, conf)
			require.NoError(t, a.Start(t.Context(), w))
			<-reached
			stopped(t, a, "w")
			layers, err := os.ReadDir(filepath.Join(dir, "layers"))
			require.NoError(t, err)
			assert.Empty(t, layers, "half a layer is none")
		})
	}
}

// stopped stops a work and waits until it is gone.
func stopped(t *testing.T, a *cell.Agent, id string) {
	t.Helper()
	require.NoError(t, a.Stop(t.Context(), id))
	seen := false
	for e, err := range a.Watch(t.Context()) {
		require.NoError(t, err)
		seen = seen || e.Status.ID == id
		if e.Gone || e.Synced && !seen {
			return
		}
	}
}

// Without grace not even a process that ignores TERM and whose children have left it is waited for.
func TestStopOfWhatDoesNotWantTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: openClean(t, dir)})
	w := cell.Work{ID: "w", Log: cell.LogTag{Source: "STG"}, Process: cell.Process{Path: "/bin/sh", Args: []string{"-c",
		// A daemon, forked twice and in a session of its own, that forks on.
		`trap '' TERM HUP INT; (setsid sh -c 'trap "" TERM; (while :; do sleep 1000 & wait; done) & echo up; exec sleep 1000' &) ; while :; do sleep 1000; done`}}}
	require.NoError(t, a.Start(t.Context(), w))
	for l, err := range a.Logs(t.Context(), "w", 0) {
		require.NoError(t, err)
		if l.Text == "up" {
			break
		}
	}
	stopped(t, a, "w")
	noProcesses(t, dir)
}

// A crowd of instances: each has a port of its own, on which it can listen, its copy of the droplet,
// and its process; the droplet was fetched once.
func TestACrowd(t *testing.T) {
	t.Parallel()
	n := 200
	if testing.Short() {
		n = 20
	}
	dir := t.TempDir()
	r, err := process.New(t.Context(), process.Config{Dir: dir, Program: prog, Containers: n})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir); noProcesses(t, dir) })
	data, digest := tree(t, 10, 100)
	var mu sync.Mutex
	opened := 0
	a := celltest.Agent(t, cell.AgentConfig{Runtime: r, Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		opened++
		return io.NopCloser(bytes.NewReader(data)), nil
	}})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			assert.NoError(t, a.Start(t.Context(), cell.Work{ID: "w" + strconv.Itoa(i), LRP: "l", Index: i, Health: &cell.Health{Type: "process"},
				Spec: cell.Spec{Ports: []int{8080}}, Log: cell.LogTag{Source: "APP"},
				Layers:  []cell.Input{{Source: "blob:d", Dir: "/home/vcap", SHA256: digest}},
				Process: cell.Process{Path: "/bin/sh", Args: []string{"-c", "test -f app/0/f0 && echo $PORT && exec sleep 1000"}}}))
		})
	}
	wg.Wait()
	hosts := map[string]string{}
	for e, err := range a.Watch(t.Context()) {
		require.NoError(t, err)
		require.Empty(t, e.Status.Failure)
		if e.Status.Phase == cell.PhaseRunning {
			hosts[e.Status.ID] = e.Status.Addresses[0].Host
		}
		if len(hosts) == n {
			break
		}
	}
	have := map[string]bool{}
	for id, host := range hosts {
		assert.False(t, have[host], host)
		have[host] = true
		l, err := net.Listen("tcp", host) // sleep does not
		if assert.NoError(t, err) {
			l.Close()
		}
		for line, err := range a.Logs(t.Context(), id, 0) { // it is told which is its own
			require.NoError(t, err)
			if line.Source == "APP" {
				assert.True(t, strings.HasSuffix(host, ":"+line.Text), "%s %q", host, line.Text)
				break
			}
		}
	}
	assert.Equal(t, 1, opened)
}

func TestAFixedPathIsExplained(t *testing.T) {
	t.Parallel()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: open(t, t.TempDir())})
	w := cell.Work{ID: "w", LRP: "l", Health: &cell.Health{Type: "process"}, Log: cell.LogTag{Source: "APP/PROC/WEB"},
		Process: cell.Process{Path: "/bin/sh", Args: []string{"-c", "cd /home/vcap/no-such-app && ./run"}}}
	require.NoError(t, a.Start(t.Context(), w))
	s := until(t, a, "w", is(cell.PhaseDone))
	assert.Contains(t, s.Failure, "APP/PROC/WEB: Exited with status ")
	assert.Contains(t, s.Failure, "names /home/vcap/no-such-app, which exists only on a cell with a root filesystem")
	assert.Contains(t, strings.Join(s.Last, "\n"), "root filesystem")
}

// Cloud Foundry's paths are folders of the instance, and arguments and environment say where.
func TestFixedPathsAreTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: open(t, dir)})
	w := cell.Work{ID: "w", Process: cell.Process{Path: "/bin/sh", Dir: "/home/vcap/app",
		Args: []string{"-c", `pwd; echo "$0 $HOME $TMPDIR $MINE"`, "{{path /tmp/app}}"}, Env: []string{"MINE={{path /tmp/cache}}/x"}}}
	require.NoError(t, a.Start(t.Context(), w))
	s := until(t, a, "w", is(cell.PhaseDone))
	real, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	root := filepath.Join(real, "containers", "w", "root")
	assert.Contains(t, s.Last, root+"/home/vcap/app")
	assert.Contains(t, s.Last, strings.Join([]string{root + "/tmp/app", root + "/home/vcap", root + "/tmp", root + "/tmp/cache/x"}, " "))
}

func TestADamagedContainerIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := process.New(t.Context(), process.Config{Dir: dir, Program: prog})
	require.NoError(t, err)
	c, err := r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	_, err = c.Run(t.Context(), cell.Process{Path: "sleep", Args: []string{"1000"}}, cell.IO{})
	require.NoError(t, err)
	// Others are none of its business, limited though they are.
	other, err := r.Create(t.Context(), cell.Creation{ID: "other", Spec: cell.Spec{PIDs: 50}})
	require.NoError(t, err)
	_, err = other.Run(t.Context(), cell.Process{Path: "sleep", Args: []string{"1000"}}, cell.IO{})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "containers", "x", "meta.json"), make([]byte, 10), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "containers", "y"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "containers", "a file"), nil, 0o600))
	r = open(t, dir)
	all, err := r.Containers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	u, err := all[0].(cell.Meter).Usage(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, u.Processes)
	require.NoError(t, all[0].Destroy(t.Context()))
	noProcesses(t, dir)
	for _, id := range []string{"x", "y"} {
		_, err = r.Create(t.Context(), cell.Creation{ID: id})
		require.NoError(t, err)
	}
}
