package dewpoint_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/state"
)

// addCell gives a platform a further cell of this machine, which runs until the test ends.
func addCell(t *testing.T, p *dewpoint.Platform, id, zone string) *cell.Memory {
	t.Helper()
	rt := cell.NewMemory(cell.MemoryConfig{Programs: programs})
	a, err := p.NewAgent(cell.AgentConfig{ID: id, Zone: zone, Runtime: rt})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	require.NoError(t, p.AddCell(a))
	return rt
}

// awaitCells waits until so many cells answer.
func awaitCells(t *testing.T, p *dewpoint.Platform, n int) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		cells, err := p.Cells(t.Context())
		require.NoError(c, err)
		ready := 0
		for _, i := range cells {
			if i.Reachable {
				ready++
			}
		}
		assert.Equal(c, n, ready)
	}, 10*time.Second, 10*time.Millisecond)
}

func TestCellsAreAddedExplainedDrainedAndRemoved(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	addCell(t, p, "cell-1", "z1")
	addCell(t, p, "cell-2", "z2")
	awaitCells(t, p, 3)
	req := request("app", site("x"))
	three := 3
	req.Instances = &three
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	on := map[string]int{}
	for _, in := range status(t, p, "app").Web().Now {
		on[in.Cell]++
		assert.NotEmpty(t, in.Placed, "it says why it is there")
		a, process, ok := p.AppOf(in.LRP)
		assert.True(t, ok)
		assert.Equal(t, "app web", a.Name+" "+process)
	}
	assert.Equal(t, map[string]int{"cell-0": 1, "cell-1": 1, "cell-2": 1}, on)

	e, err := p.Explain(t.Context(), "app", "")
	require.NoError(t, err)
	assert.Equal(t, 3, e.Fitting)
	assert.NotEmpty(t, e.Cell)

	// While a cell is emptied, requests go on.
	require.NoError(t, p.Drain(t.Context(), "cell-1", true))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		code, _ := get(p, "app.localhost", "/")
		require.Equal(t, 200, code)
		cells, err := p.Cells(t.Context())
		require.NoError(c, err)
		for _, i := range cells {
			if i.ID == "cell-1" {
				assert.True(c, i.Empty())
			}
		}
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, p.Drain(t.Context(), "cell-1", false))
	_, err = p.Rebalance(t.Context(), 2)
	require.NoError(t, err)
	require.NoError(t, p.Check(t.Context()))

	require.NoError(t, p.RemoveCell("cell-2"))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		st, err := p.Status(t.Context(), "app")
		require.NoError(c, err)
		assert.Equal(c, 3, st.Web().Running())
		for _, in := range st.Web().Now {
			assert.NotEqual(c, "cell-2", in.Cell)
		}
	}, 20*time.Second, 10*time.Millisecond)
}

func TestTasks(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
	end := func(id string) dewpoint.Task {
		t.Helper()
		for e, err := range p.WatchTasks(t.Context(), 0) {
			require.NoError(t, err)
			if e.Task.ID == id && e.Task.State == scheduler.TaskCompleted {
				return e.Task
			}
		}
		return dewpoint.Task{}
	}
	task, err := p.RunTask(t.Context(), "app", dewpoint.TaskRequest{Name: "migrate", Command: "once", Result: "/tmp/result"})
	require.NoError(t, err)
	done := end(task.ID)
	assert.False(t, done.Failed, done.Failure)
	assert.Equal(t, "42", string(done.Outputs["/tmp/result"].Data))

	task, err = p.RunTask(t.Context(), "app", dewpoint.TaskRequest{Command: "work"})
	require.NoError(t, err)
	require.NoError(t, p.CancelTask(t.Context(), task.ID))
	done = end(task.ID)
	assert.True(t, done.Failed)
	assert.Equal(t, "task was cancelled", done.Failure)
	require.ErrorIs(t, p.CancelTask(t.Context(), task.ID), scheduler.ErrTaskState)

	task, err = p.RunTask(t.Context(), "app", dewpoint.TaskRequest{Command: "fall"})
	require.NoError(t, err)
	assert.Contains(t, end(task.ID).Failure, "Exited with status 3")

	all, err := p.Tasks("app")
	require.NoError(t, err)
	assert.Len(t, all, 3)
	found := false
	for l := range p.Logs(t.Context(), "app", 0, false) {
		found = found || l.Source == "APP/TASK/migrate" && l.Text == "done once"
	}
	assert.True(t, found, "its lines are the app's")
	_, err = p.RunTask(t.Context(), "app", dewpoint.TaskRequest{})
	require.ErrorContains(t, err, "Command is empty")
	_, err = p.RunTask(t.Context(), "app", dewpoint.TaskRequest{Command: "once", Result: "tmp/result"})
	require.ErrorContains(t, err, `result file "tmp/result": give its whole path`)

	require.NoError(t, p.Delete(t.Context(), "app"))
	_, err = p.Task(task.ID)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// hung is a cell that answers nothing while it hangs.
type hung struct {
	cell.Cell
	hangs atomic.Bool
}

func (c *hung) State(ctx context.Context) (cell.State, error) {
	if c.hangs.Load() {
		<-ctx.Done()
		return cell.State{}, ctx.Err()
	}
	return c.Cell.State(ctx)
}

// After a restart an app gets requests where its cell has told what it runs, while another cell is
// still waited for.
func TestACellThatHangsKeepsNoAppWaiting(t *testing.T) {
	t.Parallel()
	packs, err := buildpack.New(buildpack.Config{Catalogue: &buildpack.Catalogue{}, Local: true, Dir: t.TempDir()})
	require.NoError(t, err)
	first, second := &hung{}, &hung{} // their agents outlive the platforms
	c := dewpoint.Config{Blobs: blob.NewMemory(), Journal: state.NewMemory(), Cells: []cell.Cell{first, second}, Buildpacks: packs}
	p, err := dewpoint.New(c)
	require.NoError(t, err)
	for i, h := range []*hung{first, second} {
		a, err := p.NewAgent(cell.AgentConfig{ID: fmt.Sprint("c", i+1), Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs})})
		require.NoError(t, err)
		h.Cell = a
		runs(t, a.Run)
	}
	stop := runs(t, p.Run)
	<-p.Ready()
	two := 2
	req := request("app", site("one"))
	req.Instances = &two
	_, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	places := func() (all []string) {
		for _, in := range status(t, p, "app").Web().Now {
			all = append(all, in.Cell+" "+in.GUID)
		}
		return all
	}
	before := places()
	stop()

	second.hangs.Store(true)
	p, err = dewpoint.New(c)
	require.NoError(t, err)
	runs(t, p.Run)
	for {
		select {
		case <-p.Ready():
			t.Fatal("the app was not served before the cell that hangs was given up")
		default:
		}
		if code, body := get(p, "app.localhost", "/"); code == http.StatusOK {
			require.Equal(t, "one", body)
			break
		}
	}
	cells, err := p.Cells(t.Context())
	require.NoError(t, err)
	require.Equal(t, "", cells[0].ID)
	assert.Equal(t, "it has not answered yet", cells[0].Why)
	second.hangs.Store(false)
	<-p.Ready()
	assert.Equal(t, before, places(), "nothing was replaced")
}

// runs runs something until the test ends, or stop is called.
func runs(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return stop
}
