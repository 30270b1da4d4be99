//go:build linux

package sandbox_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

const forbiddenEnv = "TEST_WITHOUT_NAMESPACES"

// TestWhereNamespacesAreForbidden runs the tests whose names begin with Without again where they are: in a namespace
// in which that is for us to say.
func TestWhereNamespacesAreForbidden(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^TestWithout[^R]", "-test.v")
	cmd.Env = append(os.Environ(), forbiddenEnv+"=1", "TMPDIR="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "--- PASS: TestWithoutNamespaces")
}

func forbidden(t *testing.T) {
	t.Helper()
	t.Parallel()
	switch {
	case os.Getenv(forbiddenEnv) != "":
		require.NoError(t, os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0))
	case isolates() == nil:
		t.Skip("they are not here: it is run by TestWhereNamespacesAreForbidden")
	}
}

// openLandlock opens a Runtime where it cannot have namespaces.
func openLandlock(t testing.TB, dir string) *sandbox.Runtime {
	t.Helper()
	if jail.Landlock() == 0 {
		needs.Missing(t, "this kernel has no Landlock")
	}
	r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	res, err := r.Capacity(t.Context())
	require.NoError(t, err)
	require.Equal(t, "landlock", res.Isolation)
	require.Subset(t, []string{"nofile", "memory", "cpu", "pids"}, res.Enforced)
	return r
}

// openLandlockClean is openLandlock, and asserts when that is closed that nothing is left below dir.
func openLandlockClean(t *testing.T) *sandbox.Runtime {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { empty(t, dir) })
	return openLandlock(t, dir)
}

// Where namespaces are demanded New says that there are none, and what helps.
func TestWithoutNamespacesThatAreDemanded(t *testing.T) {
	forbidden(t)
	_, err := sandbox.New(context.Background(), sandbox.Config{Dir: t.TempDir(), Program: prog, AtLeast: sandbox.Namespaces})
	assert.ErrorContains(t, err, "sandbox.New: no isolation by namespaces: ")
	if os.Getenv(forbiddenEnv) != "" {
		assert.ErrorContains(t, err, "set user.max_user_namespaces to some thousand")
	}
	stack := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(stack, "bin"), 0o755))
	_, err = sandbox.New(context.Background(), sandbox.Config{Dir: t.TempDir(), Program: prog, Stacks: []sandbox.Stack{{Name: "s", Dir: stack}}})
	assert.ErrorContains(t, err, "stack s needs namespaces")
}

func TestWithoutNamespaces(t *testing.T) {
	forbidden(t)
	celltest.Run(t, func(t *testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: openLandlockClean(t), Program: program}
	})
}

func TestWithoutNamespacesAgent(t *testing.T) {
	forbidden(t)
	celltest.RunCell(t, func(t *testing.T) celltest.Cell {
		return celltest.Cell{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: openLandlockClean(t)}), Program: program}
	})
}

func TestWithoutNamespacesSurvival(t *testing.T) {
	forbidden(t)
	survival(t, openLandlock)
}

func TestWithoutNamespacesAttacks(t *testing.T) {
	forbidden(t)
	dir := t.TempDir()
	t.Cleanup(func() { empty(t, dir) })
	r := openLandlock(t, dir)
	c, err := r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	other, err := r.Create(t.Context(), cell.Creation{ID: "y"})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, c.Destroy(context.Background()))
		assert.NoError(t, other.Destroy(context.Background()))
	})
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("s"), 0o666))
	self := strconv.Itoa(os.Getpid())
	attacks := [][2]string{
		{"read=" + secret, "EACCES"}, {"write=" + secret, "EACCES"}, {"list=/home", "EACCES|ENOENT"}, {"list=/", "EACCES"}, {"list=/tmp", "EACCES"},
		{"list=" + filepath.Join(dir, "containers"), "EACCES"}, {"write=" + other.(cell.Pather).Path("/tmp/x"), "EACCES"},
		{"read=/proc/" + self + "/environ", "EACCES|EPERM"}, {"read=/proc/" + self + "/root" + secret, "EACCES|EPERM"},
		{"write=/usr/x", "EACCES|EROFS"}, {"files", "none"}, {"write=" + c.(cell.Pather).Path("/tmp/x"), "done"},
		{"status=CapEff", "0000000000000000"}, {"status=NoNewPrivs", "1"}, {"status=Seccomp", "2"},
		{"mount", "EPERM"}, {"unshare", "EPERM"}, {"clone", "EPERM"}, {"ptrace=" + self, "EPERM"}, {"peek=" + self, "EPERM"},
		{"chroot", "EPERM"}, {"keyctl", "EPERM"}, {"bpf", "EPERM"}, {"perf", "EPERM"}, {"uring", "EPERM"},
	}
	if jail.Landlock() >= 6 {
		attacks = append(attacks, [2]string{"kill=" + self, "EPERM"})
	}
	attacktest.Refused(t, c, attacks...)
	assert.False(t, strings.Contains(attacktest.Said(t, c, "env", "read=/proc/self/environ")[0], "TEST_WITHOUT"))
}
