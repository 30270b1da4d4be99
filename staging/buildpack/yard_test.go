//go:build linux || darwin

package buildpack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/lifecycle"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

// The lifecycle program is this test, prepared once.
var (
	programFolder string
	prepared      = sync.OnceValues(func() (*lifecycle.Program, error) {
		dir, err := os.MkdirTemp("", "buildpack-test-")
		if err != nil {
			return nil, err
		}
		programFolder = dir
		return lifecycle.Prepare(context.Background(), lifecycle.Config{Dir: dir})
	})
)

func removeProgram() {
	if programFolder != "" {
		_ = os.RemoveAll(programFolder)
	}
}

// yard is a cell of plain processes, in which the real builder runs.
type yard struct {
	t       *testing.T
	dir     string
	runtime *process.Runtime
	runner  *buildpack.Runner
	stager  *staging.Stager
	open    func(context.Context, cell.Source) (io.ReadCloser, error) // before all else, if set
	save    func(context.Context, string) error                       // the same

	mu    sync.Mutex
	blobs map[string][]byte
	lines []string
}

func newYard(t *testing.T, c buildpack.Config, entries ...buildpack.Entry) *yard {
	t.Helper()
	prog, err := prepared()
	require.NoError(t, err)
	y := &yard{t: t, dir: t.TempDir(), blobs: map[string][]byte{"package:p-1": tarOf(map[string]string{"index.html": "hello"})}}
	y.runtime, err = process.New(t.Context(), process.Config{Dir: y.dir, Program: prog})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, y.runtime.Close()) })
	c.BaseEnv = append(c.BaseEnv, "PATH="+os.Getenv("PATH"))
	y.runner = open(t, c, entries...)
	agent, err := cell.New(cell.AgentConfig{ID: "c1", Runtime: y.runtime, Open: y.get, Save: y.put})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	y.stager, err = staging.New(staging.Config{Runner: y.runner, Tasks: cell.Tasks{Cell: agent}})
	require.NoError(t, err)
	return y
}

func (y *yard) get(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
	if y.open != nil {
		if r, err := y.open(ctx, s); r != nil || err != nil {
			return r, err
		}
	}
	if r, err := y.runner.Open(ctx, s); !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	b, ok := y.blobs[string(s)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (y *yard) put(ctx context.Context, key string, r io.Reader) (blob.Info, error) {
	if y.save != nil {
		if err := y.save(ctx, key); err != nil {
			return blob.Info{}, err
		}
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return blob.Info{}, err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.blobs["blob:"+key] = b
	return blob.Info{Key: key, Size: int64(len(b)), SHA256: fmt.Sprintf("%x", sha256.Sum256(b))}, nil
}

// stage stages, and calls on for each line.
func (y *yard) stage(ctx context.Context, r staging.Request, on func(string)) (staging.Result, error) {
	y.lines = nil
	return y.stager.Stage(ctx, r, func(l logs.Line) {
		y.lines = append(y.lines, l.Text)
		if on != nil {
			on(l.Text)
		}
	})
}

// clean fails the test unless nothing is left of any staging but what the cell may share.
func (y *yard) clean(r staging.Request) {
	y.t.Helper()
	left, err := y.runtime.Containers(context.Background())
	require.NoError(y.t, err)
	assert.Empty(y.t, left)
	for _, folder := range []string{"containers", "making"} {
		entries, err := os.ReadDir(filepath.Join(y.dir, folder))
		require.NoError(y.t, err)
		assert.Empty(y.t, entries, folder)
	}
	assert.Empty(y.t, processesIn(y.t, y.dir))
	_, _, busy := y.stager.Staging(r.App)
	assert.False(y.t, busy)
}

// processesIn finds the processes that were started in a folder: its name is in their
// environment. Where there is no /proc nothing is found.
func processesIn(t *testing.T, dir string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, f := range files {
		env, _ := os.ReadFile(f)
		if strings.Contains(string(env), dir) {
			cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
			found = append(found, strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return found
}

// scripts is a buildpack of shell scripts. What it has not got does nothing.
func scripts(t *testing.T, name string, files map[string]string) buildpack.Entry {
	all := map[string]string{
		"bin/detect": "#!/bin/sh\necho " + name, "bin/compile": "#!/bin/sh\n",
		"bin/release": "#!/bin/sh\necho 'default_process_types: {web: run-it}'",
	}
	for file, text := range files {
		all["bin/"+file] = "#!/bin/sh\n" + text
	}
	return buildpack.Entry{Name: name, Location: "dir:" + folder(t, all)}
}

func request(id string, buildpacks ...string) staging.Request {
	return stagingtest.Request(id, buildpacks...)
}
