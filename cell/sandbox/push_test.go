//go:build linux

package sandbox_test

import (
	"archive/tar"
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
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// A buildpack and an app that know the names of Cloud Foundry's folders and user by heart.
var fixed = map[string]string{
	"bin/detect": "#!/bin/sh\ntest -f /tmp/app/index.html && echo fixed",
	"bin/compile": `#!/bin/bash
set -eu
test "$1" = /tmp/app
test -w /tmp/cache
test "$(id -un):$(id -u)" = vcap:2000
cd /tmp/app
echo "built in $PWD by $(whoami)" > /tmp/app/built
mkdir -p /tmp/app/.profile.d
echo 'export GREETING="hello from $HOME"' > /tmp/app/.profile.d/greet.sh
echo kept >> /tmp/cache/seen
`,
	"bin/release": "#!/bin/sh\necho 'default_process_types: {web: /home/vcap/app/start}'",
}

const start = `#!/bin/bash
cat /home/vcap/app/built
echo "$GREETING, $(whoami) in $PWD"
ls -d /home/vcap/app /home/vcap/deps /home/vcap/tmp
exit 7
`

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(w, text)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// blobs are what an Agent reads and writes.
type blobs struct {
	runner *buildpack.Runner
	mu     sync.Mutex
	all    map[string][]byte
}

func (b *blobs) open(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
	if r, err := b.runner.Open(ctx, s); !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.all[string(s)]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (b *blobs) save(_ context.Context, key string, r io.Reader) (blob.Info, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return blob.Info{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all["blob:"+key] = data
	return blob.Info{Key: key, Size: int64(len(data)), SHA256: fmt.Sprintf("%x", sha256.Sum256(data))}, nil
}

// stackEnv names a stack folder in which the push is tried, too.
const stackEnv = "DEWPOINT_STACK"

func TestFixedPaths(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	stacks := []sandbox.Stack{{Name: sandbox.HostStack}}
	if dir := os.Getenv(stackEnv); dir != "" {
		stacks = append(stacks, sandbox.Stack{Name: "folder", Dir: dir})
	} else {
		t.Run("folder", func(t *testing.T) {
			needs.Missing(t, stackEnv+" names no stack of this machine (docs/isolation.md makes one)")
		})
	}
	for _, s := range stacks {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			fixedPaths(t, s)
		})
	}
}

func fixedPaths(t *testing.T, s sandbox.Stack) {
	dir := t.TempDir()
	t.Cleanup(func() { empty(t, dir) })
	r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Stacks: []sandbox.Stack{s}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	pack := t.TempDir()
	for name, text := range fixed {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(pack, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(pack, name), []byte(text), 0o755))
	}
	var cat buildpack.Catalogue
	require.NoError(t, cat.Add(buildpack.Entry{Name: "fixed_buildpack", Location: "dir:" + pack}))
	runner, err := buildpack.New(buildpack.Config{Catalogue: &cat, Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, runner.Close()) })
	b := &blobs{runner: runner, all: map[string][]byte{"package:p": tarOf(t, map[string]string{"index.html": "hi", "start": start})}}
	a := celltest.Agent(t, cell.AgentConfig{Runtime: r, Open: b.open, Save: b.save})
	stager, err := staging.New(staging.Config{Runner: runner, Tasks: cell.Tasks{Cell: a}})
	require.NoError(t, err)

	var lines []string
	res, err := stager.Stage(t.Context(), staging.Request{ID: "b", App: "a", Package: cell.Input{Source: "package:p"}, DropletKey: "droplet", CacheKey: "cache"},
		func(l logs.Line) { lines = append(lines, l.Text) })
	require.NoError(t, err, strings.Join(lines, "\n"))
	assert.Equal(t, "/home/vcap/app/start", res.Command("web"))

	w := cell.Work{ID: "w", Log: cell.LogTag{Source: "APP/PROC/WEB"},
		Layers:  []cell.Input{{Source: "blob:droplet", Dir: "/home/vcap", SHA256: res.Droplet.SHA256, Name: "droplet"}},
		Process: cell.Process{Path: "lifecycle:launcher", Args: []string{"/home/vcap/app", res.Command("web"), ""}, Dir: "/home/vcap/app"}}
	lines = nil
	st, err := cell.Tasks{Cell: a}.RunTask(t.Context(), w, func(l logs.Line) { lines = append(lines, l.Text) })
	require.NoError(t, err)
	require.NotNil(t, st.Exit, st.Failure)
	assert.Equal(t, 7, st.Exit.Code)
	for _, want := range []string{"built in /tmp/app by vcap", "hello from /home/vcap/app, vcap in /home/vcap/app", "/home/vcap/deps", "/home/vcap/tmp"} {
		assert.Contains(t, lines, want)
	}
}
