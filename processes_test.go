package dewpoint_test

import (
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

func status(t *testing.T, p *dewpoint.Platform, app string) dewpoint.Status {
	t.Helper()
	st, err := p.Status(t.Context(), app)
	require.NoError(t, err)
	return st
}

func TestProcessesBesideWeb(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	res, err := p.Push(t.Context(), request("app", site("x", "worker")))
	require.NoError(t, err)
	require.Len(t, res.Processes, 2)
	assert.Equal(t, "worker", res.Processes[1].Type)
	assert.Zero(t, res.Processes[1].Instances, "only web runs if nobody says more")

	require.NoError(t, p.Scale(t.Context(), "app", "worker", 2))
	require.NoError(t, p.Start(t.Context(), "app"), "waits for all")
	st := status(t, p, "app")
	assert.Equal(t, 1, st.Web().Running())
	assert.Equal(t, 2, st.Processes[1].Running())
	assert.Empty(t, st.Processes[1].Now[0].Addresses, "a worker has no port")

	// The next push brings it all along, on new processes.
	two := 3
	req := request("app", site("y", "worker"))
	req.Processes = []dewpoint.ProcessRequest{{Type: "worker", Instances: &two, Memory: 64 << 20}}
	before := st
	res, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, 3, res.Processes[1].Running())
	st = status(t, p, "app")
	assert.NotEqual(t, before.Processes[1].LRP, st.Processes[1].LRP)
	assert.EqualValues(t, 64<<20, st.Processes[1].Memory)
	assert.EqualValues(t, 1<<30, st.Web().Memory)

	sources := map[string]bool{}
	for l, err := range p.Logs(t.Context(), "app", 0, false) {
		require.NoError(t, err)
		sources[l.Source] = true
	}
	for _, s := range []string{"APP/PROC/WEB", "APP/PROC/WORKER", "APP/PROC/WORKER/SIDECAR/WATCHER"} {
		assert.True(t, sources[s], s)
	}

	guid := st.Processes[1].Now[1].GUID
	require.NoError(t, p.RestartInstance(t.Context(), "app", "worker", 1))
	require.NoError(t, p.Start(t.Context(), "app"))
	assert.NotEqual(t, guid, status(t, p, "app").Processes[1].Now[1].GUID)

	require.NoError(t, p.Stop(t.Context(), "app"))
	for _, pr := range status(t, p, "app").Processes {
		assert.Empty(t, pr.LRP)
		assert.Empty(t, pr.Now)
	}

	// A droplet without the process: it is not run, and missed only if somebody wants it.
	require.NoError(t, p.Scale(t.Context(), "app", "worker", 0))
	_, err = p.Push(t.Context(), request("app", site("z")))
	require.NoError(t, err)
	require.ErrorContains(t, p.Scale(t.Context(), "app", "worker", 1), "Start command not specified")
	require.ErrorIs(t, p.Scale(t.Context(), "app", "clock", 1), fs.ErrNotExist)
	require.Error(t, p.Scale(t.Context(), "app", "", lrp.MaxInstances+1))
}

// An instance that runs but is not ready gets no requests; and a crash tells the probes.
func TestReadinessAndProbes(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	two := 2
	req := request("app", site("x"))
	req.Instances = &two
	req.Health = &cell.Health{Readiness: &cell.Probe{Type: "http", Endpoint: "/ready", Interval: 50 * time.Millisecond}}
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	first := status(t, p, "app").Web().Now[0]
	unready.Store(first.GUID, true)
	t.Cleanup(func() { unready.Delete(first.GUID) })
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		in := status(t, p, "app").Web().Now[0]
		assert.False(c, in.Routable)
		assert.Equal(c, lrp.Running, in.State)
	}, 20*time.Second, 10*time.Millisecond)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for range 10 {
			code, index := get(p, "app.localhost", "/index")
			assert.Equal(c, 200, code)
			assert.Equal(c, "1", index)
		}
	}, 20*time.Second, 10*time.Millisecond)
	unready.Delete(first.GUID)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.True(c, status(t, p, "app").Web().Now[0].Routable)
	}, 20*time.Second, 10*time.Millisecond)

	req = request("sick", site("x"))
	req.Health = &cell.Health{Type: "http", Endpoint: "/sick", StartTimeout: 100 * time.Millisecond}
	_, err = p.Push(t.Context(), req)
	var un *dewpoint.UnhealthyError
	require.ErrorAs(t, err, &un)
	probes := un.Instance.LastCrash.Probes
	require.NotEmpty(t, probes)
	assert.Contains(t, probes[len(probes)-1].Text, "503")
}
