//go:build linux

package containerd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// pluginsList writes a list of plugins that are everywhere: one link to each container (ptp), addresses by host-local, whose notes are in the
// folder that is returned.
func pluginsList(t testing.TB, subnet string) (file, notes string) {
	t.Helper()
	need(t)
	if _, err := os.Stat("/usr/lib/cni/ptp"); err != nil {
		needs.Missing(t, "this machine has no CNI plugins in /usr/lib/cni")
	}
	dir := t.TempDir()
	file, notes = filepath.Join(dir, "test.conflist"), filepath.Join(dir, "notes")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "dewpoint-test", "plugins": [
		{"type": "ptp", "ipam": {"type": "host-local", "subnet": %q, "dataDir": %q, "routes": [{"dst": "0.0.0.0/0"}]}}]}`, subnet, notes)), 0o600))
	return file, notes
}

// given lists the addresses that host-local has given.
func given(t *testing.T, notes string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(notes, "dewpoint-test", "198.18.*"))
	require.NoError(t, err)
	return all
}

func TestNetworksByCNI(t *testing.T) {
	t.Parallel()
	list, notes := pluginsList(t, "198.18.5.0/24")
	dir := t.TempDir()
	config := containerd.Config{Dir: dir, Socket: socket, Program: prog, CNI: list}
	t.Cleanup(func() { empty(t, dir) })
	r, err := containerd.New(t.Context(), config)
	require.NoError(t, err)
	res, err := r.Capacity(t.Context())
	require.NoError(t, err)
	assert.True(t, res.Networks)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Create(ctx, cell.Creation{ID: "cancelled", Spec: cell.Spec{Ports: []int{8080}}})
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, given(t, notes), "what was begun is taken away")

	c, err := r.Create(t.Context(), cell.Creation{ID: "x", Spec: cell.Spec{Ports: []int{8080}}})
	require.NoError(t, err)
	p := program("serve")
	p.Env = append(p.Env, "PORT=8080")
	_, err = c.Run(t.Context(), p, cell.IO{})
	require.NoError(t, err)
	require.Len(t, c.Info().Addresses, 1)
	assert.Regexp(t, `^198\.18\.5\.\d+:8080$`, c.Info().Addresses[0].Host)
	conn, err := dial(c.Info().Addresses[0].Host)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	assert.Equal(t, []string{"done"}, attacktest.Said(t, c, "own", "dial=tcp:127.0.0.1:8080"), "its loopback is up")
	assert.Len(t, given(t, notes), 1)

	// Killed before it was noted what plugins have made: they are asked to take it away all the same.
	half, err := r.Create(t.Context(), cell.Creation{ID: "half", Spec: cell.Spec{Ports: []int{8080}}})
	require.NoError(t, err)
	assert.Len(t, given(t, notes), 2)
	noted, err := filepath.Glob(filepath.Join(dir, "cni", "results", "*"))
	require.NoError(t, err)
	require.Len(t, noted, 2)
	for _, f := range noted {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		if strings.Contains(string(b), filepath.Join(dir, "containers", "half")) {
			require.NoError(t, os.Remove(f))
		}
	}
	require.NoError(t, half.Destroy(t.Context()))
	assert.Len(t, given(t, notes), 1)

	// The next program finds it; of what is no more nothing is left.
	lost, err := r.Create(t.Context(), cell.Creation{ID: "lost", Spec: cell.Spec{Ports: []int{8080}}})
	require.NoError(t, err)
	assert.Len(t, given(t, notes), 2)
	require.NoError(t, r.Close())
	require.NoError(t, containerd.Forget(dir, lost.Info().ID))
	r, err = containerd.New(t.Context(), config)
	require.NoError(t, err)
	assert.Len(t, given(t, notes), 1)
	all, err := r.Containers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Equal(t, c.Info().Addresses, all[0].Info().Addresses)

	// After a start of the machine it is connected anew.
	require.NoError(t, r.Close())
	reboot(t, dir)
	r, err = containerd.New(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	all, err = r.Containers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	_, err = all[0].Run(t.Context(), withID(p, "again"), cell.IO{})
	require.NoError(t, err)
	conn, err = dial(all[0].Info().Addresses[0].Host)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	assert.Len(t, given(t, notes), 1)
	require.NoError(t, all[0].Destroy(t.Context()))
	assert.Empty(t, given(t, notes))
}

func withID(p cell.Process, id string) cell.Process {
	p.ID = id
	return p
}

// The suite of cells, over such networks.
func TestAgentByCNI(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestAgent is the same but for the network")
	}
	list, notes := pluginsList(t, "198.18.6.0/24")
	celltest.RunCell(t, func(t *testing.T) celltest.Cell {
		dir := t.TempDir()
		t.Cleanup(func() { empty(t, dir) })
		r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog, CNI: list})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, r.Close()) })
		return celltest.Cell{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: r}), Program: program}
	})
	t.Cleanup(func() { assert.Empty(t, given(t, notes)) }) // after all cases
}

func TestBadCNI(t *testing.T) {
	t.Parallel()
	list, _ := pluginsList(t, "198.18.7.0/24")
	dir := t.TempDir()
	write := func(text string) string {
		f := filepath.Join(t.TempDir(), "bad.conflist")
		require.NoError(t, os.WriteFile(f, []byte(text), 0o600))
		return f
	}
	for says, c := range map[string]containerd.Config{
		"no such file or directory": {CNI: filepath.Join(dir, "none")},
		"give a list of plugins":    {CNI: write("rubbish")},
		"Config.CNIPath":            {CNI: write(`{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "no-such-plugin"}]}`)},
		"in its list of plugins":    {CNI: list, Egress: []cell.EgressRule{}},
		"plugins are looked for in": {CNI: list, CNIPath: []string{dir}},
	} {
		c.Dir, c.Socket, c.Program = t.TempDir(), socket, prog
		_, err := containerd.New(t.Context(), c)
		assert.ErrorContains(t, err, says)
	}
	// One whose plugins fail for a container: what is the matter is told, and nothing stays.
	full := write(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "dewpoint-test", "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "subnet": "198.18.8.0/30", "dataDir": %q}}]}`, dir))
	at := t.TempDir()
	t.Cleanup(func() { empty(t, at) })
	r, err := containerd.New(t.Context(), containerd.Config{Dir: at, Socket: socket, Program: prog, CNI: full})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	c, err := r.Create(t.Context(), cell.Creation{ID: "one", Spec: cell.Spec{Ports: []int{8080}}})
	require.NoError(t, err)
	_, err = r.Create(t.Context(), cell.Creation{ID: "two", Spec: cell.Spec{Ports: []int{8080}}})
	require.ErrorContains(t, err, "network dewpoint-test of "+full)
	require.NoError(t, c.Destroy(t.Context()))
	c, err = r.Create(t.Context(), cell.Creation{ID: "two", Spec: cell.Spec{Ports: []int{8080}}})
	require.NoError(t, err)
	require.NoError(t, c.Destroy(t.Context()))
}
