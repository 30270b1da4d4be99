package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/internal/needs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree makes a folder; files below bin can be run.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		mode := os.FileMode(0o644)
		if strings.Contains(name, "bin/") {
			mode = 0o755
		}
		require.NoError(t, os.WriteFile(p, []byte(text), mode))
	}
	return dir
}

// needsUnix skips what runs scripts: cell/process is for Linux and macOS.
func needsUnix(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no scripts here")
	}
}

func cistage(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"-o", "x"}, {"x"}, {"-o", "x", "a", "b"}, {"-nonsense"}, {"-o", "x", "-env", "=v", "d"}, {"-o", "x", "-timeout", "0s", "d"}} {
		status, stdout, stderr := cistage(t, args...)
		assert.Equal(t, 2, status, "%q", args)
		assert.Empty(t, stdout)
		assert.NotEmpty(t, stderr)
	}
	status, _, stderr := cistage(t, "-h")
	assert.Equal(t, 0, status)
	for _, s := range []string{" 3 ", " 22 ", " 23 ", " 24 ", " 25 ", "130 "} {
		assert.Contains(t, stderr, s)
	}
}

func TestAppsThatCannotBeStaged(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "droplet.tgz")
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		status, _, stderr := cistage(t, "-o", out, dir)
		assert.Equal(t, 3, status, stderr)
	}
	require.NoFileExists(t, out)

	status, _, stderr := cistage(t, "-o", out, "-buildpacks", filepath.Join(t.TempDir(), "none"), tree(t, map[string]string{"f": ""}))
	assert.Equal(t, 4, status)
	assert.Contains(t, stderr, "there are no buildpacks: ")
	// What cannot be kept is known before anything is built.
	file := filepath.Join(tree(t, map[string]string{"f": ""}), "f")
	for _, cache := range []string{file, filepath.Join(file, "cache")} {
		status, _, stderr = cistage(t, "-o", out, "-cache", cache, t.TempDir())
		assert.Equal(t, 2, status, stderr)
	}
}

// A file that changes, or that may not be read, is the app's fault and not the cell's.
func TestAppsThatChange(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"f": "12345"})
	for name, c := range map[string]struct {
		change func(file string) error
		want   string
	}{
		"longer":  {func(f string) error { return os.WriteFile(f, []byte("1234567"), 0o600) }, `"f" changed while the app was read; stage again`},
		"shorter": {func(f string) error { return os.WriteFile(f, []byte("123"), 0o600) }, `"f" changed while the app was read; stage again`},
		"gone":    {os.Remove, `"f" vanished while the app was read; stage again`},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("12345"), 0o600))
		files, err := scan(t.Context(), dir)
		require.NoError(t, err)
		require.NoError(t, c.change(filepath.Join(dir, "f")))
		a := &app{Files: files}
		_, err = io.Copy(io.Discard, a.tar(t.Context()))
		require.ErrorIs(t, err, errApp, name)
		assert.ErrorContains(t, a.blame(io.ErrUnexpectedEOF), c.want, name)
		assert.NoError(t, a.blame(nil))
		require.NoError(t, files.Close())
	}
}

const release = "#!/bin/sh\nprintf -- '---\\ndefault_process_types:\\n  web: ./start\\n'\n"

func TestStatuses(t *testing.T) {
	t.Parallel()
	needsUnix(t)
	app := tree(t, map[string]string{"hello": "hello\n"})
	bad := func(s string) string { return "#!/bin/sh\necho the last words >&2\n" + s + "\n" }
	for name, c := range map[string]struct {
		want  int
		files map[string]string
	}{
		"good":    {0, map[string]string{"bin/detect": "#!/bin/sh\n[ -f \"$1/hello\" ] && echo Hi\n", "bin/compile": "#!/bin/sh\necho '-----> compiling'\ncp \"$1/hello\" \"$1/start\"\n", "bin/release": release}},
		"detect":  {22, map[string]string{"bin/detect": bad("exit 1"), "bin/compile": bad(""), "bin/release": release}},
		"compile": {23, map[string]string{"bin/detect": "#!/bin/sh\n", "bin/compile": bad("exit 7"), "bin/release": release}},
		"release": {24, map[string]string{"bin/detect": "#!/bin/sh\n", "bin/compile": "#!/bin/sh\n", "bin/release": bad("exit 7")}},
		"time":    {25, map[string]string{"bin/detect": "#!/bin/sh\n", "bin/compile": "#!/bin/sh\nexec sleep 600\n", "bin/release": release}},
		"none":    {4, map[string]string{"README": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "droplet.tgz")
			bp := filepath.Join(t.TempDir(), "all")
			require.NoError(t, os.Mkdir(bp, 0o755))
			require.NoError(t, os.Rename(tree(t, c.files), filepath.Join(bp, "mine")))
			args := []string{"-json", "-buildpacks", bp, "-o", out, app}
			if name == "time" {
				args = append([]string{"-timeout", "2s"}, args...)
			}
			status, stdout, stderr := cistage(t, args...)
			require.Equal(t, c.want, status, "%s%s", stdout, stderr)
			var p printed
			require.NoError(t, json.Unmarshal([]byte(stdout), &p), stdout)
			require.NotEmpty(t, p.Phases)
			if c.want != 0 {
				require.NotNil(t, p.Error)
				require.NoFileExists(t, out)
				return
			}
			assert.Contains(t, stderr, "-----> compiling")
			assert.Equal(t, "Hi", p.DetectedBuildpack)
			assert.Equal(t, "./start", p.Processes[0].Command)
			assert.Equal(t, "hello\n", inDroplet(t, out)["./app/start"])
			assert.Len(t, p.Droplet.SHA256, 64)
		})
	}
}

func inDroplet(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	files := map[string]string{}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		require.NoError(t, err)
		b, err := io.ReadAll(tr)
		require.NoError(t, err)
		files[h.Name] = string(b)
	}
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	needsUnix(t)
	app := tree(t, map[string]string{"hello": "hello\n"})
	bp := tree(t, map[string]string{"bin/detect": "#!/bin/sh\n", "bin/compile": "#!/bin/sh\necho started\nsleep 600\n", "bin/release": release})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	done := make(chan int, 1)
	out := filepath.Join(t.TempDir(), "d.tgz")
	go func() {
		done <- run(ctx, []string{"-buildpack", bp, "-o", out, app}, w, w) // both, so that a failure is seen
		w.Close()
	}()
	buf := make([]byte, 1<<12)
	for text := ""; !strings.Contains(text, "started"); {
		n, err := r.Read(buf)
		require.NoError(t, err, text)
		text += string(buf[:n])
	}
	go io.Copy(io.Discard, r)
	begun := time.Now()
	cancel()
	assert.Equal(t, 130, <-done)
	t.Log("cancelled within", time.Since(begun))
	require.NoFileExists(t, out)
}

func TestTheExamplesStage(t *testing.T) {
	t.Parallel()
	needsUnix(t)
	for app, tool := range map[string]string{"hello-java": "javac", "hello-python": "python3", "hello-node": "node", "hello-static": "python3", "hello-go": "go"} {
		t.Run(app, func(t *testing.T) {
			t.Parallel()
			needs.Tool(t, tool)
			if app == "hello-go" && testing.Short() {
				t.Skip("it compiles net/http")
			}
			cache := filepath.Join(t.TempDir(), "cache")
			out := filepath.Join(t.TempDir(), "d.tgz")
			for i := range 2 {
				status, stdout, stderr := cistage(t, "-buildpacks", "../buildpacks", "-cache", cache, "-o", out, "../apps/"+app)
				require.Equal(t, 0, status, "%s%s", stdout, stderr)
				assert.Contains(t, stdout, "process web: ")
				if app != "hello-static" { // only a buildpack that has a bin/finalize can tell its version
					assert.Contains(t, stdout, "buildpack "+strings.TrimPrefix(app, "hello-")+" 1.0.0\n")
				}
				if app == "hello-go" {
					assert.Equal(t, i == 1, strings.Contains(stdout, "Using build cache from"), stdout)
				}
			}
		})
	}
}
