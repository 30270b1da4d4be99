package buildpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

// place is a cell in memory, with stores and a builder that the test plays.
type place struct {
	stager *staging.Stager
	memory *cell.Memory

	mu    sync.Mutex
	blobs map[string][]byte
}

func tarOf(files map[string]string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func settle(t *testing.T, builder func(context.Context, cell.MemoryProcess) int) *place {
	t.Helper()
	p := &place{blobs: map[string][]byte{"blob:cache": tarOf(map[string]string{"final/x": "cached"}), "package:p-1": tarOf(map[string]string{"go.mod": "module x"})}}
	p.memory = cell.NewMemory(cell.MemoryConfig{Programs: map[string]func(context.Context, cell.MemoryProcess) int{"lifecycle:builder": builder}})
	runner := open(t, buildpack.Config{}, one(t, "go"))
	agent, err := cell.New(cell.AgentConfig{
		ID: "c1", Runtime: p.memory,
		Open: func(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
			if r, err := runner.Open(ctx, s); !errors.Is(err, fs.ErrNotExist) {
				return r, err
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			b, ok := p.blobs[string(s)]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return io.NopCloser(bytes.NewReader(b)), nil
		},
		Save: func(_ context.Context, key string, r io.Reader) (blob.Info, error) {
			b, err := io.ReadAll(r)
			p.mu.Lock()
			defer p.mu.Unlock()
			p.blobs["blob:"+key] = b
			return blob.Info{Key: key, Size: int64(len(b)), SHA256: fmt.Sprintf("%x", sha256.Sum256(b))}, err
		},
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	p.stager, err = staging.New(staging.Config{Runner: runner, Tasks: cell.Tasks{Cell: agent}})
	require.NoError(t, err)
	return p
}

// flags reads the builder's command line.
func flags(p cell.MemoryProcess) map[string]string {
	f := map[string]string{}
	for _, a := range p.Args {
		k, v, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
		f[k] = v
	}
	return f
}

func TestAStagingOnACell(t *testing.T) {
	t.Parallel()
	var missing []string
	p := settle(t, func(_ context.Context, m cell.MemoryProcess) int {
		f := flags(m)
		for _, name := range []string{
			path.Join(f["buildDir"], "go.mod"), path.Join(f["buildArtifactsCacheDir"], "final/x"),
			path.Join(f["buildpacksDir"], fmt.Sprintf("%016x", xxhash.Sum64String("go")), "bin/detect"),
		} {
			if _, err := m.ReadFile(name); err != nil {
				missing = append(missing, err.Error())
			}
		}
		fmt.Fprintln(m.Stdout, "-----> Go", m.Getenv("MEMORY_LIMIT"))
		_ = m.WriteFile(f["outputDroplet"], []byte("droplet"), 0o644)
		_ = m.WriteFile(f["outputBuildArtifactsCache"], []byte("cache"), 0o644)
		_ = m.WriteFile(f["outputMetadata"], fmt.Appendf(nil, good, "go"), 0o644)
		return 0
	})
	r := stagingtest.Request("s")
	r.Cache = &cell.Input{Source: "blob:cache"}
	var lines []string
	res, err := p.stager.Stage(t.Context(), r, func(l logs.Line) { lines = append(lines, l.Source+" "+l.Text) })
	require.NoError(t, err)
	assert.Empty(t, missing)
	assert.Equal(t, "run-it", res.Command("web"))
	assert.Equal(t, "droplet", string(p.blobs["blob:"+res.Droplet.Key]))
	assert.Equal(t, "cache", string(p.blobs["blob:"+res.Cache.Key]))
	assert.Contains(t, lines, "STG -----> Go 1024m")
	text := strings.Join(lines, "\n")
	for _, want := range []string{"creating container for instance s", "Downloading app package...", "Downloading build artifacts cache...", "Exit status 0", "Uploading droplet, build artifacts cache...", "Uploaded droplet (7B)", "Uploading complete"} {
		assert.Contains(t, text, want)
	}
	var names []string
	for _, ph := range res.Phases {
		names = append(names, ph.Name)
	}
	assert.Equal(t, []string{"plan", "place", "create", "fetch", "build", "save", "result"}, names)
}

func TestFailuresOnACell(t *testing.T) {
	t.Parallel()
	exit := func(code int, say string) func(context.Context, cell.MemoryProcess) int {
		return func(_ context.Context, m cell.MemoryProcess) int {
			fmt.Fprintln(m.Stderr, say)
			_ = m.WriteFile("/tmp/result.json", fmt.Appendf(nil, good, "go"), 0o644)
			return code
		}
	}
	hang := func(ctx context.Context, _ cell.MemoryProcess) int { <-ctx.Done(); return 143 }
	for name, c := range map[string]struct {
		builder func(context.Context, cell.MemoryProcess) int
		change  func(*place, *staging.Request)
		want    staging.Reason
		text    string
	}{
		"detect":      {builder: exit(222, "no"), want: staging.NoAppDetected, text: "no buildpack recognised the app"},
		"compile":     {builder: exit(223, "cat: /tmp/app/x: No such file"), want: staging.BuildpackCompileFailed, text: "buildpack go 1.2 failed to compile the app (exit status 223); a script names /tmp/app/x,"},
		"no droplet":  {builder: exit(0, ""), want: staging.StagingError, text: "Uploading "},
		"no package":  {builder: exit(0, ""), want: staging.StagingError, text: "app package", change: func(_ *place, r *staging.Request) { r.Package.Source = "package:gone" }},
		"bad package": {builder: exit(0, ""), want: staging.StagingError, text: "app package", change: func(_ *place, r *staging.Request) { r.Package.SHA256 = strings.Repeat("0", 64) }},
		"too long":    {builder: hang, want: staging.Timeout, text: "exceeded 300ms timeout", change: func(_ *place, r *staging.Request) { r.Timeout = 300 * time.Millisecond }},
		"too big":     {builder: exit(0, ""), want: staging.InsufficientResources, text: "memory", change: func(_ *place, r *staging.Request) { r.Memory = 1 << 50 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := settle(t, c.builder)
			r := stagingtest.Request("s")
			if c.change != nil {
				c.change(p, &r)
			}
			_, err := p.stager.Stage(t.Context(), r, nil)
			e := reason(t, err)
			assert.Equal(t, c.want, e.Reason, "%v", e)
			assert.Contains(t, e.Error(), c.text)
			left, err := p.memory.Containers(t.Context())
			require.NoError(t, err)
			assert.Empty(t, left, "nothing stays behind")
		})
	}
}

func TestCancelAndLossOnACell(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]staging.Reason{"cancel": staging.Canceled, "vanish": staging.CellLost} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			started := make(chan struct{})
			p := settle(t, func(ctx context.Context, _ cell.MemoryProcess) int { close(started); <-ctx.Done(); return 143 })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-started
				if name == "cancel" {
					cancel()
				} else {
					p.memory.Vanish("s")
				}
			}()
			_, err := p.stager.Stage(ctx, stagingtest.Request("s"), nil)
			e := reason(t, err)
			assert.Equal(t, want, e.Reason, "%v", e)
			assert.Equal(t, name == "vanish", e.Retryable)
		})
	}
}
