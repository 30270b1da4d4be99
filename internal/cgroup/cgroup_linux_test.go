package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// machine is a folder that looks like control groups; a real kernel makes the files of a group with it.
func machine(t *testing.T, self string, files map[string]string) (root, selfFile string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	}
	selfFile = filepath.Join(t.TempDir(), "cgroup")
	require.NoError(t, os.WriteFile(selfFile, []byte(self), 0o600))
	return root, selfFile
}

func content(t *testing.T, name ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(name...))
	require.NoError(t, err)
	return string(b)
}

func TestVersion2(t *testing.T) {
	t.Parallel()
	files := map[string]string{"cgroup.controllers": "", "user/me/cgroup.controllers": "cpuset memory pids io\n", "user/me/cgroup.subtree_control": ""}
	for _, f := range []string{"memory.max", "memory.swap.max", "pids.max", "memory.events", "memory.current", "memory.stat"} {
		files["user/me/cell-a/"+f] = ""
	}
	root, self := machine(t, "0::/user/me\n", files)
	p, err := openAt(root, self, "cell")
	require.NoError(t, err)
	assert.Equal(t, []string{"memory", "pids"}, p.Controllers())
	assert.Equal(t, "+memory +pids", content(t, root, "user/me/cgroup.subtree_control"))
	require.NoError(t, p.Make("a", Limits{Memory: 1 << 20, CPU: 50, PIDs: 7}))
	assert.Equal(t, "1048576", content(t, root, "user/me/cell-a/memory.max"))
	assert.Equal(t, "0", content(t, root, "user/me/cell-a/memory.swap.max"))
	assert.Equal(t, "7", content(t, root, "user/me/cell-a/pids.max"))
	var attr syscall.SysProcAttr
	names, err := p.Enter("a", &attr)
	require.NoError(t, err)
	assert.Empty(t, names)
	assert.True(t, attr.UseCgroupFD)
	at, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(attr.CgroupFD))
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(root, "user/me/cell-a"), at)
	require.NoError(t, os.WriteFile(filepath.Join(root, "user/me/cell-a/memory.events"), []byte("low 0\noom 3\noom_kill 2\n"), 0o600))
	assert.EqualValues(t, 2, p.Group("a").OutOfMemory())
	require.NoError(t, os.WriteFile(filepath.Join(root, "user/me/cell-a/memory.current"), []byte("5000\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "user/me/cell-a/memory.stat"), []byte("anon 1\ninactive_file 1000\n"), 0o600))
	assert.EqualValues(t, 4000, p.Group("a").Memory())
}

func TestWhereThereAreNone(t *testing.T) {
	t.Parallel()
	root, self := machine(t, "0::/\n", map[string]string{"cgroup.controllers": "", "cgroup.subtree_control": ""})
	_, err := openAt(root, self, "cell")
	assert.ErrorContains(t, err, "no control groups: none of the controllers memory, cpu and pids is handed on to "+root)
	root, self = machine(t, "1:name=systemd:/\n", nil)
	_, err = openAt(root, self, "cell")
	assert.EqualError(t, err, "no control groups: this machine has none")
	root, self = machine(t, "3:memory:/gone\n", nil)
	_, err = openAt(root, self, "cell")
	assert.ErrorContains(t, err, "no such file or directory")
}

func TestStepAside(t *testing.T) {
	t.Parallel()
	root, _ := machine(t, "", map[string]string{"cgroup.procs": "1\n2\n"})
	assert.ErrorContains(t, stepAside(root), "holds other processes beside this program")
	root, _ = machine(t, "", map[string]string{"cgroup.procs": strconv.Itoa(os.Getpid()) + "\n", "program/cgroup.procs": ""})
	require.NoError(t, stepAside(root))
	assert.Equal(t, strconv.Itoa(os.Getpid()), content(t, root, "program/cgroup.procs"))
}

// The real ones of this machine.
func TestGroups(t *testing.T) {
	p, err := Open("dewpoint-cgroup-test")
	if err != nil {
		needs.Missing(t, err.Error())
	}
	t.Cleanup(func() {
		assert.NoError(t, p.Sweep(func(string) bool { return false }))
	})
	other, err := Open("dewpoint-cgroup-other")
	require.NoError(t, err)
	assert.Equal(t, p.dirs, other.dirs, "wherever the first has brought this program")
	require.NoError(t, p.Make("a", Limits{Memory: 32 << 20, CPU: 50, PIDs: 20}))
	require.NoError(t, p.Make("a", Limits{Memory: 16 << 20, CPU: 50, PIDs: 20}), "again")
	require.NoError(t, p.Make("b", Limits{}))
	cmd := exec.Command("sh", "-c", `for f; do echo 0 >$f || exit; done; exec tail /dev/zero`, "sh")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	files, err := p.Enter("a", cmd.SysProcAttr)
	require.NoError(t, err)
	cmd.Args = append(cmd.Args, files...)
	err = cmd.Run() // a line without an end takes more and more
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
	assert.EqualValues(t, 1, p.Group("a").OutOfMemory())
	assert.Zero(t, p.Group("b").OutOfMemory())

	// What is left of another program goes, with all that runs there.
	cmd = exec.Command("sh", "-c", `for f; do echo 0 >$f || exit; done; echo in; exec sleep 1000`, "sh")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	files, err = p.Enter("b", cmd.SysProcAttr)
	require.NoError(t, err)
	cmd.Args = append(cmd.Args, files...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := make([]byte, 3)
	_, err = out.Read(said)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	require.NoError(t, p.Sweep(func(key string) bool { return key == "a" }))
	require.Error(t, <-ended)
	require.NoError(t, p.Remove("a"))
	require.NoError(t, p.Remove("a"), "again")
	for _, dir := range p.dirs {
		all, err := filepath.Glob(filepath.Join(dir, p.name+"*"))
		require.NoError(t, err)
		assert.Empty(t, all)
	}
	assert.NotEmpty(t, strings.Join(p.Controllers(), " "))
}
