//go:build unix

package lifecycle_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// build builds a command of this package, once.
func build(t *testing.T, pkg string, env ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a program")
	}
	once, _ := builds.LoadOrStore(fmt.Sprint(pkg, env), sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "lifecycle-host-")
		if err != nil {
			return "", err
		}
		exe := filepath.Join(dir, "host")
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", exe, pkg)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return exe, nil
	}))
	exe, err := once.(func() (string, error))()
	require.NoError(t, err)
	return exe
}

var builds sync.Map

func removeBuilds() {
	builds.Range(func(_, once any) bool {
		if exe, err := once.(func() (string, error))(); err == nil {
			_ = os.RemoveAll(filepath.Dir(exe))
		}
		return true
	})
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "if need be")
	p, err := lifecycle.Prepare(t.Context(), lifecycle.Config{Dir: dir})
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, lifecycle.ProgramName), p.Path)
	first, err := os.Stat(p.Path)
	require.NoError(t, err)

	_, err = lifecycle.Prepare(t.Context(), lifecycle.Config{Dir: dir})
	require.NoError(t, err)
	second, err := os.Stat(p.Path)
	require.NoError(t, err)
	assert.True(t, os.SameFile(first, second), "the same program is kept")

	require.NoError(t, os.WriteFile(p.Path+"x", []byte("damaged"), 0o755))
	require.NoError(t, os.Rename(p.Path+"x", p.Path))
	_, err = lifecycle.Prepare(t.Context(), lifecycle.Config{Dir: dir})
	require.NoError(t, err)
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, names, 1, "no temporary file stays")

	_, err = lifecycle.Prepare(t.Context(), lifecycle.Config{})
	assert.ErrorContains(t, err, "Config.Dir is empty")
}

func TestPrepareStockProgram(t *testing.T) {
	t.Parallel()
	for _, cgo := range []string{"CGO_ENABLED=0", "CGO_ENABLED=1"} {
		exe := build(t, "./cmd/dewpoint-lifecycle", cgo)
		_, err := lifecycle.Prepare(t.Context(), lifecycle.Config{Dir: t.TempDir(), Source: exe})
		require.NoError(t, err)
		out, err := exec.Command(exe).CombinedOutput()
		assert.Error(t, err)
		assert.Contains(t, string(out), "is run by a cell")
	}
}

func TestPrepareRefuses(t *testing.T) {
	t.Parallel()
	for host, text := range map[string]string{
		"prints": `printed "early: loading plug-ins\n" before its role ran`,
		"slow":   "before a role starts and may take 1s",
		"mute":   "ended before it said that it runs",
		"late":   "ended before it said that it runs", // killed by the time limit of the check
	} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			exe := build(t, "./testdata/hosts/"+host)
			_, err := lifecycle.Prepare(t.Context(), lifecycle.Config{Dir: t.TempDir(), Source: exe})
			assert.ErrorContains(t, err, text)
		})
	}
}

func TestHostsOfEachKind(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]string{"static": "CGO_ENABLED=0", "dynamic": "CGO_ENABLED=1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exe := build(t, "./testdata/hosts/plain", env)
			out, err := exec.Command(exe, t.TempDir()).CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Equal(t, "hello\n", string(out))
		})
	}
	t.Run("go run", func(t *testing.T) {
		t.Parallel()
		if testing.Short() {
			t.Skip("builds a program")
		}
		out, err := exec.Command("go", "run", "./testdata/hosts/plain", t.TempDir()).CombinedOutput()
		require.NoError(t, err, "%s", out)
		assert.Equal(t, "hello\n", string(out))
	})
}

func TestRoleNeedsTheProgramsName(t *testing.T) {
	t.Parallel()
	exe := build(t, "./cmd/dewpoint-lifecycle", "CGO_ENABLED=0")
	cmd := exec.Command(exe) // named "host"
	cmd.Args[0] = "check"
	assert.Error(t, cmd.Run(), "another program of that name keeps its own main")
}

func TestStartUnknownRole(t *testing.T) {
	t.Parallel()
	p, err := lifecycle.Prepare(t.Context(), lifecycle.Config{Dir: t.TempDir(), Source: build(t, "./cmd/dewpoint-lifecycle", "CGO_ENABLED=0")})
	require.NoError(t, err)
	err = p.Start(p.Command(t.Context(), "no-such-role"))
	assert.ErrorContains(t, err, "start role no-such-role of "+p.Path+": it ended before it said that it runs")
}

func TestStartKillsWhatDoesNotSpeak(t *testing.T) {
	t.Parallel()
	p := &lifecycle.Program{Path: build(t, "./testdata/hosts/late")}
	p.SetPatience(300 * time.Millisecond)
	cmd := p.Command(context.Background(), "init")
	begin := time.Now()
	err := p.Start(cmd)
	assert.ErrorContains(t, err, "it did not say within 300ms that it runs, and was killed")
	assert.GreaterOrEqual(t, time.Since(begin), 300*time.Millisecond)
	assert.NotNil(t, cmd.ProcessState)
}

func TestStartPassesFilesOn(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p := program(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "app"), 0o755))
	cmd := p.Command(t.Context(), "launcher", filepath.Join(dir, "app"), "echo four >&4")
	cmd.ExtraFiles = []*os.File{w}
	require.NoError(t, p.Start(cmd))
	require.NoError(t, w.Close())
	require.NoError(t, cmd.Wait())
	b := make([]byte, 10)
	n, err := r.Read(b)
	require.NoError(t, err)
	assert.Equal(t, "four\n", string(b[:n]))
}
