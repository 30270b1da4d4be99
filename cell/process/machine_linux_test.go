package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// TestAFullDisk runs itself again where it may mount a small file system.
func TestAFullDisk(t *testing.T) {
	if dir := os.Getenv("TEST_FULL_DISK"); dir != "" {
		fullDisk(t, dir)
		return
	}
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^TestAFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), "TEST_FULL_DISK="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) || bytes.Contains(out, []byte("cannot mount")) {
		needs.Missing(t, "this machine allows no user namespaces")
	}
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "--- PASS: TestAFullDisk")
}

func fullDisk(t *testing.T, dir string) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	r, err := process.New(t.Context(), process.Config{Dir: dir, Program: prog})
	require.NoError(t, err)
	data, digest := tree(t, 100, 100_000)
	a := celltest.Agent(t, cell.AgentConfig{Runtime: r, Open: func(context.Context, cell.Source) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}})
	good := func(id string) {
		t.Helper()
		require.NoError(t, a.Start(t.Context(), cell.Work{ID: id, Process: cell.Process{Path: "/bin/sh", Args: []string{"-c", "echo fine > f; cat f; exit 5"}}}))
		s := until(t, a, id, is(cell.PhaseDone))
		assert.Equal(t, 5, s.Exit.Code)
		assert.Contains(t, s.Last, "fine")
	}

	w := cell.Work{ID: "layer", Process: cell.Process{Path: "true"}, Layers: []cell.Input{{Source: "blob:x", Dir: "/home/vcap", SHA256: digest, Name: "droplet"}}}
	require.NoError(t, a.Start(t.Context(), w))
	s := until(t, a, "layer", is(cell.PhaseDone))
	assert.Equal(t, cell.ReasonCreate, s.Reason)
	assert.Contains(t, s.Failure, "no space left on device")
	good("after-layer")

	w = cell.Work{ID: "input", Process: cell.Process{Path: "true"}, Inputs: []cell.Input{{Source: "blob:x", Dir: "/home/vcap", Name: "app package"}}}
	require.NoError(t, a.Start(t.Context(), w))
	s = until(t, a, "input", is(cell.PhaseDone))
	assert.Equal(t, cell.ReasonInput, s.Reason)
	assert.Contains(t, s.Failure, "Downloading app package failed: ")
	assert.Contains(t, s.Failure, "no space left on device")
	good("after-input")

	// An app that fills the disk, and prints what there is no room for: its end is known all the same.
	// It waits until what it said first is written, for later there may be no room for that.
	w = cell.Work{ID: "filler", Process: cell.Process{Path: "/bin/sh", Args: []string{"-c",
		"echo begin; sleep 1; cat /dev/zero > big; i=0; while [ $i -lt 2000 ]; do echo a line that is long enough to matter; i=$((i+1)); done; exit 7"}}}
	require.NoError(t, a.Start(t.Context(), w))
	s = until(t, a, "filler", is(cell.PhaseDone))
	require.NotNil(t, s.Exit, s.Failure)
	assert.Equal(t, 7, s.Exit.Code)
	all := ""
	for l, err := range a.Logs(t.Context(), "filler", 0) {
		require.NoError(t, err)
		all += l.Text + "\n"
	}
	assert.Contains(t, all, "begin\n")
	assert.Regexp(t, `\d+ bytes of output are missing here`, all)
	good("after-filler")

	// One that fills it and goes on can be stopped.
	w.ID, w.Process.Args = "stays", []string{"-c", "cat /dev/zero > big; exec sleep 1000"}
	w.Outputs, w.Health = nil, &cell.Health{Type: "process"}
	require.NoError(t, a.Start(t.Context(), w))
	require.Eventually(t, func() bool { return free(t, dir) <= 16 }, patience, tick)
	stopped(t, a, "stays")
	good("after-stays")
	for _, id := range []string{"layer", "input", "filler", "after-layer", "after-input", "after-filler", "after-stays"} {
		stopped(t, a, id)
	}
	require.NoError(t, r.Close())
	empty(t, dir)
	noProcesses(t, dir)
}

func free(t *testing.T, dir string) uint64 {
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	return st.Bavail
}

func TestAFolderWithoutPermission(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	require.NoError(t, os.Chmod(parent, 0o500))
	// The superuser may write anyway, unless it lets go of that; the thread that did is not used again.
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		var data [2]unix.CapUserData
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
		if err == nil {
			_, err = process.New(context.Background(), process.Config{Dir: filepath.Join(parent, "cell"), Program: prog})
		}
		result <- err
	}()
	err := <-result
	require.ErrorIs(t, err, os.ErrPermission)
	assert.True(t, strings.HasPrefix(err.Error(), fmt.Sprintf("process.New: folder %s/cell: mkdir", parent)), err)
	assert.ErrorContains(t, err, "give one that this user may write to")
}

// What this program has left open for its children is no business of an app's.
func TestOpenFilesOfTheHostAreNotInherited(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("s"), 0o600))
	fd, err := syscall.Open(secret, syscall.O_RDONLY, 0) // without O_CLOEXEC, as many a library does
	require.NoError(t, err)
	defer func() { _ = syscall.Close(fd) }()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: open(t, t.TempDir())})
	require.NoError(t, a.Start(t.Context(), cell.Work{ID: "w", Process: cell.Process{Path: "/bin/sh", Args: []string{"-c", "ls -l /proc/self/fd; echo listed"}}}))
	s := until(t, a, "w", is(cell.PhaseDone))
	text := strings.Join(s.Last, "\n")
	assert.Contains(t, text, "listed")
	assert.NotContains(t, text, "secret")
	stopped(t, a, "w")
}
