//go:build unix

package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var detects = map[string]string{"bin/detect": "#!/bin/sh\n", "bin/compile": "#!/bin/sh\n", "bin/release": release}

func TestWhereADropletCanGo(t *testing.T) {
	t.Parallel()
	app := tree(t, map[string]string{"hello": "hello\n"})
	bp := tree(t, detects)
	dir := t.TempDir()

	real := filepath.Join(dir, "real.tgz")
	require.NoError(t, os.WriteFile(real, []byte("old"), 0o644))
	link := filepath.Join(dir, "link.tgz")
	require.NoError(t, os.Symlink(real, link))
	status, _, stderr := cistage(t, "-buildpack", bp, "-o", link, app)
	require.Zero(t, status, stderr)
	fi, err := os.Lstat(link)
	require.NoError(t, err)
	assert.NotZero(t, fi.Mode()&os.ModeSymlink, "a link stays one")
	assert.Equal(t, "hello\n", inDroplet(t, real)["./app/hello"])

	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	got := make(chan int64, 1)
	go func() {
		f, err := os.Open(fifo)
		if err != nil {
			got <- -1
			return
		}
		defer f.Close()
		n, _ := io.Copy(io.Discard, f)
		got <- n
	}()
	status, _, stderr = cistage(t, "-buildpack", bp, "-o", fifo, app)
	require.Zero(t, status, stderr)
	assert.Positive(t, <-got)
	fi, err = os.Lstat(fifo)
	require.NoError(t, err)
	assert.NotZero(t, fi.Mode()&os.ModeNamedPipe, "a pipe stays one")

	for name, want := range map[string]string{dir: "is a folder", filepath.Join(dir, "none", "x.tgz"): "no such file"} {
		status, stdout, stderr := cistage(t, "-buildpack", bp, "-o", name, app)
		assert.Equal(t, 2, status)
		assert.Empty(t, stdout, "it is told before anything is done")
		assert.Contains(t, stderr, want)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".cistage-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// A run that was killed leaves its builder running; the next run ends it, and removes its folder.
func TestTheNextRunClearsUpAfterOneThatWasKilled(t *testing.T) {
	t.Parallel()
	exe := filepath.Join(t.TempDir(), "cistage")
	build := exec.Command("go", "build", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	text, err := build.CombinedOutput()
	require.NoError(t, err, "%s", text)

	app := tree(t, map[string]string{"hello": "hello\n"})
	forever := tree(t, map[string]string{"bin/detect": "#!/bin/sh\n", "bin/compile": "#!/bin/sh\necho builds\nsleep 600\n", "bin/release": release})
	temp := t.TempDir()
	out := filepath.Join(t.TempDir(), "droplet.tgz")
	start := func(bp string) (*exec.Cmd, *bufio.Reader) {
		cmd := exec.Command(exe, "-buildpack", bp, "-o", out, app)
		cmd.Env = append(os.Environ(), "TMPDIR="+temp)
		pipe, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd, bufio.NewReader(pipe)
	}
	killed, lines := start(forever)
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		if strings.HasPrefix(line, "builds") {
			break
		}
	}
	require.NoError(t, killed.Process.Kill())
	_ = killed.Wait()
	running := func() (n int) {
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		require.NoError(t, err)
		for _, name := range all {
			if line, err := os.ReadFile(name); err == nil && strings.Contains(string(line), temp) {
				n++
			}
		}
		return n
	}
	if _, err := os.Stat("/proc/self/cmdline"); err == nil {
		require.Positive(t, running(), "its builder runs on")
	}

	next, lines := start(tree(t, detects))
	_, err = io.Copy(io.Discard, lines)
	require.NoError(t, err)
	require.NoError(t, next.Wait())
	assert.FileExists(t, out)
	assert.Zero(t, running())
	folders, err := filepath.Glob(filepath.Join(temp, "*", "*"))
	require.NoError(t, err)
	assert.Empty(t, folders)
}
