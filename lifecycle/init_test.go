//go:build unix

package lifecycle_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// startInit runs init with a state folder of its own, and waits for it at the end of the test.
func startInit(t *testing.T, args ...string) (dir string, cmd *exec.Cmd) {
	t.Helper()
	p := program(t)
	dir = t.TempDir()
	cmd = p.Command(context.Background(), "init", append([]string{"-state", dir}, args...)...)
	require.NoError(t, p.Start(cmd))
	t.Cleanup(func() {
		_ = lifecycle.SignalInit(dir, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return dir, cmd
}

// follow reads all output to its end.
func follow(t *testing.T, dir string) (stdout, stderr string, lost int64) {
	t.Helper()
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	for {
		c, err := o.Next(ctx)
		if err == io.EOF {
			return out.String(), errs.String(), lost
		}
		require.NoError(t, err)
		lost += c.Lost
		if c.Stderr {
			errs.Write(c.Data)
		} else {
			out.Write(c.Data)
		}
	}
}

func readUntil(t *testing.T, o *lifecycle.Output, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var all strings.Builder
	for !strings.Contains(all.String(), text) {
		c, err := o.Next(ctx)
		require.NoError(t, err)
		all.Write(c.Data)
	}
	return all.String()
}

func exitOf(t *testing.T, dir string) lifecycle.Exit {
	t.Helper()
	s, err := lifecycle.InitState(dir)
	require.NoError(t, err)
	require.NotNil(t, s.Exit)
	return *s.Exit
}

func TestInitRecordsOutputAndExit(t *testing.T) {
	t.Parallel()
	cwd := t.TempDir()
	dir, cmd := startInit(t, "-dir", cwd, "--", "sh", "-c", "pwd; echo oops >&2; exit 7")
	stdout, stderr, lost := follow(t, dir)
	want, err := filepath.EvalSymlinks(cwd)
	require.NoError(t, err)
	assert.Equal(t, want+"\n", stdout)
	assert.Equal(t, "oops\n", stderr)
	assert.Zero(t, lost)
	require.NoError(t, cmd.Wait())
	e := exitOf(t, dir)
	assert.Equal(t, 7, e.Code)
	assert.Empty(t, e.Signal)
	assert.WithinDuration(t, time.Now(), e.Time, time.Minute)
}

func TestInitWhatCannotBeStarted(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(file, []byte(text), mode))
		return file
	}
	for name, c := range map[string]struct {
		prog   string
		code   int
		stderr string
	}{
		"absent":          {"no-such-program", 127, "no-such-program: not found\n"},
		"not executable":  {write("plain", "x", 0o644), 126, "permission denied"},
		"no interpreter":  {write("lost", "#!/no/such/interpreter\n", 0o755), 127, "interpreter or loader"},
		"no hash-bang":    {write("bare", "exit 4\n", 0o755), 4, ""},
		"role of its own": {"lifecycle:check", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := startInit(t, "--", c.prog)
			_, stderr, _ := follow(t, dir)
			assert.Equal(t, c.code, exitOf(t, dir).Code)
			assert.Contains(t, stderr, c.stderr)
		})
	}
}

func TestInitForwardsSignals(t *testing.T) {
	t.Parallel()
	dir, _ := startInit(t, "--", "sh", "-c", "trap 'echo got term; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	readUntil(t, o, "ready")
	s, err := lifecycle.InitState(dir)
	require.NoError(t, err)
	assert.True(t, s.Alive)
	assert.Nil(t, s.Exit)
	require.NoError(t, lifecycle.SignalInit(dir, syscall.SIGTERM))
	readUntil(t, o, "got term")
	follow(t, dir)
	assert.Equal(t, 3, exitOf(t, dir).Code)
	assert.NoError(t, lifecycle.SignalInit(dir, syscall.SIGTERM), "to an ended process: nil")
}

func TestInitKillsOnDemand(t *testing.T) {
	t.Parallel()
	dir, _ := startInit(t, "--", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	readUntil(t, o, "ready")
	require.NoError(t, lifecycle.SignalInit(dir, syscall.SIGKILL))
	follow(t, dir)
	assert.Equal(t, lifecycle.Exit{Code: 137, Signal: "KILL"}, lifecycle.Exit{Code: exitOf(t, dir).Code, Signal: exitOf(t, dir).Signal})
}

func TestInitLeavesNothing(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("no subreaper")
	}
	// A grandchild in a session of its own, holding the pipes.
	dir, _ := startInit(t, "--", "sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000")
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	pid, err := strconv.Atoi(strings.TrimSpace(readUntil(t, o, "\n")))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, 0))
	require.NoError(t, lifecycle.SignalInit(dir, syscall.SIGKILL))
	follow(t, dir)
	assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestInitChildHoldingPipesDoesNotHang(t *testing.T) {
	t.Parallel()
	dir, _ := startInit(t, "--", "sh", "-c", "sleep 1000 & exit 5")
	follow(t, dir) // gives up long before the child ends
	assert.Equal(t, 5, exitOf(t, dir).Code)
}

// Somebody removes the data folder of a running cell.
func TestInitWhoseFolderWasRemovedEnds(t *testing.T) {
	t.Parallel()
	cwd := t.TempDir()
	fifo := filepath.Join(cwd, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	dir, cmd := startInit(t, "-dir", cwd, "--", "sh", "-c", "echo ready; read x < fifo; exit 3")
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	readUntil(t, o, "ready")
	o.Close()
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(fifo, []byte("go\n"), 0))
	_ = cmd.Wait() // returns
}

func TestInitOutputIsBounded(t *testing.T) {
	t.Parallel()
	dir, cmd := startInit(t, "-output", "1048576", "--", "sh", "-c", "head -c 5000000 /dev/zero; echo end")
	require.NoError(t, cmd.Wait())
	stdout, _, lost := follow(t, dir)
	assert.Equal(t, int64(5000004), lost+int64(len(stdout)))
	assert.Greater(t, lost, int64(3000000))
	assert.True(t, strings.HasSuffix(stdout, "end\n"))
	var size int64
	files, err := filepath.Glob(filepath.Join(dir, "out-*"))
	require.NoError(t, err)
	for _, f := range files {
		fi, err := os.Stat(f)
		require.NoError(t, err)
		size += fi.Size()
	}
	assert.LessOrEqual(t, size, int64(1048576+8*33000))
}

func TestInitSurvivesItsStarter(t *testing.T) {
	t.Parallel()
	p := program(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// sh starts init in its background and is killed with its pipe; init's own is gone then.
	cmd := exec.CommandContext(ctx, "sh", "-c", `"$0" -state "$1" -- sh -c 'echo one; while [ ! -e "$0" ]; do sleep 0.02; done; echo two; exit 9' "$1/go" & wait`,
		filepath.Join(filepath.Dir(p.Path), "init"), dir)
	link := filepath.Join(filepath.Dir(p.Path), "init")
	if err := os.Symlink(p.Path, link); err != nil {
		require.ErrorIs(t, err, os.ErrExist)
	}
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	readUntil(t, o, "one")
	cancel()
	_ = pipe.Close()
	_ = cmd.Wait()
	s, err := lifecycle.InitState(dir)
	require.NoError(t, err)
	assert.True(t, s.Alive)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
	readUntil(t, o, "two")
	follow(t, dir)
	assert.Equal(t, 9, exitOf(t, dir).Code)
}

func TestInitVanished(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs a parent-death signal")
	}
	dir, cmd := startInit(t, "--", "sh", "-c", "sleep 1000 & echo $!; wait")
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	pid, err := strconv.Atoi(strings.TrimSpace(readUntil(t, o, "\n")))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	_, err = o.Next(t.Context())
	require.ErrorIs(t, err, lifecycle.ErrLost)
	s, err := lifecycle.InitState(dir)
	require.NoError(t, err)
	assert.False(t, s.Alive)
	assert.Nil(t, s.Exit)
	require.NoError(t, lifecycle.SignalInit(dir, syscall.SIGKILL), "ends what is left of the session")
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ")
	}, 10*time.Second, 5*time.Millisecond)
}

// What left its session is not found by its parents when the init is gone too.
func TestInitVanishedAndADaemonIsLeft(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	dir, cmd := startInit(t, "--", "sh", "-c", "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000")
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	pid, err := strconv.Atoi(strings.TrimSpace(readUntil(t, o, "\n")))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, syscall.Kill(pid, 0), "nothing else has ended it")
	require.NoError(t, lifecycle.SignalInit(dir, syscall.SIGKILL))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	assert.True(t, err != nil || strings.Contains(string(b), ") Z "), "%s", b)
}

// What a power cut leaves of files that were not synced is no record.
func TestStateAfterAPowerCut(t *testing.T) {
	t.Parallel()
	dir, cmd := startInit(t, "--", "sh", "-c", "exit 3")
	require.NoError(t, cmd.Wait())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "exit"), make([]byte, 100), 0o600))
	s, err := lifecycle.InitState(dir)
	require.NoError(t, err)
	assert.Nil(t, s.Exit)
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	_, err = o.Next(t.Context())
	assert.ErrorIs(t, err, lifecycle.ErrLost)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "started"), nil, 0o600))
	_, err = lifecycle.InitState(dir)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestInitRefusesAnothersState(t *testing.T) {
	t.Parallel()
	dir, _ := startInit(t, "--", "true")
	follow(t, dir)
	p := program(t)
	err := p.Start(p.Command(t.Context(), "init", "-state", dir, "--", "true"))
	assert.ErrorContains(t, err, "is the state of another process")
	err = p.Start(p.Command(t.Context(), "init"))
	assert.ErrorContains(t, err, "usage: init -state DIR")
}
