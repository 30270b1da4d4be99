//go:build linux

package containerd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
)

// output is a writer whose lines can be waited for.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) await(t *testing.T, line string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(o.String(), line+"\n") }, patience, 5*time.Millisecond, "%q does not come", line)
}

func openChild(t *testing.T, dir string) *containerd.Runtime {
	t.Helper()
	need(t)
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Program: prog})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, r.Close())
		assert.NoDirExists(t, filepath.Dir(r.Socket()), "the server's state is gone with the last container")
		empty(t, dir)
	})
	return r
}

// killServer kills the server of a cell as a crash would.
func killServer(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "containerd", "pid"))
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(b), &pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

const counts = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 9"

// Nobody whose process runs notices that containerd has ended, no line is lost, and what is asked of it waits until
// it is there again.
func TestContainerdIsKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openChild(t, dir)
	c := create(t, r, cell.Spec{Ports: []int{8080}})
	var out output
	run, err := c.Run(t.Context(), cell.Process{ID: "counts", Path: "/bin/sh", Args: []string{"-c", counts}}, cell.IO{Stdout: &out})
	require.NoError(t, err)
	out.await(t, "10")
	killServer(t, dir)
	assert.Equal(t, 5, shell(t, c, "meanwhile", "exit 5").Code)
	other := create(t, r, cell.Spec{})
	assert.Equal(t, 6, shell(t, other, "after", "exit 6").Code)
	killServer(t, dir)
	require.NoError(t, other.Destroy(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := run.Wait(ctx)
	require.NoError(t, err)
	assert.Equal(t, 9, e.Code)
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintln(&want, i+1)
	}
	assert.Equal(t, want.String(), out.String())
}

// With a containerd that is somebody else's, it is waited for, and said.
func TestTheMachinesContainerdGoesAndComes(t *testing.T) {
	t.Parallel()
	need(t)
	theirs, dir := t.TempDir(), t.TempDir()
	host, err := containerd.New(t.Context(), containerd.Config{Dir: theirs, Program: prog})
	require.NoError(t, err)
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Program: prog, Socket: host.Socket()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c, err := r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	assert.Equal(t, 5, shell(t, c, "first", "exit 5").Code)

	require.NoError(t, host.Close()) // which leaves the state of what runs
	assert.Equal(t, 6, shell(t, c, "alone", "exit 6").Code)
	other, err := r.Create(t.Context(), cell.Creation{ID: "y"})
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = other.Run(short, cell.Process{Path: "true"}, cell.IO{})
	require.ErrorContains(t, err, "containerd at "+host.Socket()+" does not answer")
	short, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.Error(t, c.Destroy(short))

	again, err := containerd.New(t.Context(), containerd.Config{Dir: theirs, Program: prog})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, again.Close()); empty(t, theirs) })
	require.NoError(t, c.Destroy(t.Context()))
	assert.Equal(t, 7, shell(t, other, "second", "exit 7").Code)
	require.NoError(t, other.Destroy(t.Context()))
}

// The program is killed and its containerd goes on, until the next program replaces it; containers stay.
func TestSurvivalWithAServerOfItsOwn(t *testing.T) {
	t.Parallel()
	need(t)
	if testing.Short() {
		t.Skip("the same with a server that stays is tested")
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	celltest.RunSurvival(t, func(t *testing.T) celltest.Survivor {
		dir := t.TempDir()
		return celltest.Survivor{Program: program,
			Open: func(t *testing.T) cell.Runtime { return openChild(t, dir) },
			Command: func(works ...string) *exec.Cmd {
				return exec.Command(exe, append([]string{"agent", dir, prog.Path, ""}, works...)...)
			},
		}
	})
}

func TestWhatCannotBeServed(t *testing.T) {
	t.Parallel()
	need(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	deaf := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", deaf)
	require.NoError(t, err)
	go func() { // it hangs up on everybody
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
	empty := t.TempDir()
	for name, c := range map[string]struct {
		conf containerd.Config
		want string
	}{
		"no folder":            {containerd.Config{}, "Config.Dir is empty"},
		"no socket":            {containerd.Config{Socket: "/no/such/socket"}, "is it started? Config.Socket names its socket"},
		"a relative socket":    {containerd.Config{Socket: "run/containerd.sock"}, "give an absolute path"},
		"a file for a socket":  {containerd.Config{Socket: file}, "is no socket"},
		"somebody else":        {containerd.Config{Socket: deaf}, "no containerd answers at " + deaf},
		"no containerd":        {containerd.Config{Server: "no-such-containerd"}, "apt-get install containerd runc"},
		"no server":            {containerd.Config{Server: "/bin/false"}, "/bin/false does not start"},
		"a stack is missing":   {containerd.Config{Socket: socket, Stacks: []containerd.Stack{{Name: "s", Dir: "/no/such"}}}, "unpack a root filesystem there"},
		"a stack is empty":     {containerd.Config{Socket: socket, Stacks: []containerd.Stack{{Name: "s", Dir: empty}}}, "holds nothing"},
		"a stack twice":        {containerd.Config{Socket: socket, Stacks: []containerd.Stack{{Name: "s"}, {Name: "s"}}}, `names "s" twice`},
		"a program of nothing": {containerd.Config{Socket: socket, Source: file}, "lifecycle"},
		"a subnet":             {containerd.Config{Socket: socket, Subnet: badSubnet}, "give an IPv4 network"},
		"a rule":               {containerd.Config{Socket: socket, Egress: []cell.EgressRule{{}}}, "give an IPv4 network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name != "no folder" {
				c.conf.Dir = t.TempDir()
			}
			if c.conf.Source == "" {
				c.conf.Program = prog
			}
			r, err := containerd.New(t.Context(), c.conf)
			if err == nil {
				_ = r.Close()
			}
			assert.ErrorContains(t, err, c.want)
			if name != "no folder" {
				assert.NoDirExists(t, "/run/dewpoint/"+containerd.NameOf(c.conf.Dir))
			}
		})
	}
}
