package dewpoint_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// small is a world whose cell has room for so many instances of 1 GiB, and a push of as many as given.
func small(t *testing.T, room, instances int) (*world, dewpoint.PushRequest) {
	w := newWorld(t)
	w.runtime = cell.NewMemory(cell.MemoryConfig{Programs: programs, Capacity: cell.Resources{Memory: int64(room) << 30}})
	req := request("app", site("one"))
	req.Instances = &instances
	return w, req
}

// bodies makes requests until done is closed, and counts the answers.
func bodies(t *testing.T, p *dewpoint.Platform, done <-chan struct{}) (counted func() map[string]int) {
	t.Helper()
	n := map[string]int{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				code, body := get(p, "app.localhost", "/")
				n[fmt.Sprint(code, " ", body)]++
			}
		}
	}()
	return func() map[string]int { <-ended; return n }
}

// A new version takes over where there is room for one more instance only, and no request is lost.
func TestANewVersionNeedsRoomForOneMoreInstance(t *testing.T) {
	t.Parallel()
	w, req := small(t, 4, 3)
	p, _ := w.start()
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	done := make(chan struct{})
	counted := bodies(t, p, done)
	req.Files = site("two")
	_, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	require.NoError(t, p.Restart(t.Context(), "app"))
	close(done)
	for answer := range counted() {
		assert.Contains(t, []string{"200 one", "200 two"}, answer)
	}
	_, body := get(p, "app.localhost", "/")
	assert.Equal(t, "two", body)
	st := status(t, p, "app")
	assert.Equal(t, 3, st.Web().Running())
	assert.Empty(t, st.Web().Successor)
	assert.Len(t, st.App.Owned, 1)
}

// What breaks in the middle, because an instance falls or finds no place, gives everything back.
func TestABrokenVersionGivesBackWhatItTook(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*dewpoint.PushRequest){
		"crashes at first": func(r *dewpoint.PushRequest) { r.Files = site("two", "crash") },
		"crashes later": func(r *dewpoint.PushRequest) {
			f := site("two")
			f["crash-from"] = &fstest.MapFile{Data: []byte("2"), Mode: 0o644}
			r.Files = f
		},
		"recreate": func(r *dewpoint.PushRequest) { r.Files, r.Strategy = site("two", "crash"), dewpoint.Recreate },
		"both": func(r *dewpoint.PushRequest) {
			r.Files, r.Strategy, r.Memory = site("two", "crash"), dewpoint.BlueGreen, 64<<20
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, req := small(t, 4, 3)
			p, _ := w.start()
			_, err := p.Push(t.Context(), req)
			require.NoError(t, err)
			change(&req)
			_, err = p.Push(t.Context(), req)
			var un *dewpoint.UnhealthyError
			require.ErrorAs(t, err, &un)
			require.ErrorContains(t, err, "what ran before")
			require.NoError(t, p.Start(t.Context(), "app"), "waits for all")
			st := status(t, p, "app")
			assert.Equal(t, 3, st.Web().Running())
			assert.Empty(t, st.Web().Successor)
			assert.Len(t, st.App.Owned, 1)
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				for range 6 {
					_, body := get(p, "app.localhost", "/")
					assert.Equal(c, "one", body)
				}
			}, 20*time.Second, 5*time.Millisecond)
		})
	}
}

func TestBlueGreenShowsNobodyBothVersions(t *testing.T) {
	t.Parallel()
	w, req := small(t, 6, 3)
	p, _ := w.start()
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	req.Files, req.Strategy = site("two"), dewpoint.BlueGreen
	seen := ""
	req.Progress = func(e dewpoint.Progress) {
		if _, body := get(p, "app.localhost", "/"); !strings.HasSuffix(seen, body) {
			seen += body
		}
	}
	_, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, "onetwo", seen)
	assert.Equal(t, dewpoint.BlueGreen, status(t, p, "app").App.Strategy, "it is kept for the next restart")
}

func TestRecreateNeedsNoFurtherRoom(t *testing.T) {
	t.Parallel()
	w, req := small(t, 3, 3)
	p, _ := w.start()
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	req.Files, req.Strategy = site("two"), dewpoint.Recreate
	req.NoStart = true
	require.NoError(t, p.Scale(t.Context(), "app", "", 2)) // staging needs a place, too
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		cells, err := p.Cells(t.Context())
		require.NoError(c, err)
		assert.Equal(c, 2, cells[0].Instances)
	}, 20*time.Second, 5*time.Millisecond)
	_, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	require.NoError(t, p.Scale(t.Context(), "app", "", 3))
	require.NoError(t, p.Start(t.Context(), "app"))
	require.NoError(t, p.Restart(t.Context(), "app"))
	_, body := get(p, "app.localhost", "/")
	assert.Equal(t, "two", body)
	assert.Equal(t, 3, status(t, p, "app").Web().Running())
}

// hanging pushes a version that never gets healthy, and returns when it has begun to take over.
func hanging(ctx context.Context, t *testing.T, p *dewpoint.Platform, req dewpoint.PushRequest) (pushed <-chan error) {
	t.Helper()
	req.Files = site("two")
	req.Health = &cell.Health{StartTimeout: -1, Type: "http", Endpoint: "/sick"} // waits for ever
	return reaches(ctx, t, p, req, dewpoint.StepHealthy)
}

// reaches pushes, and returns when a step has begun.
func reaches(ctx context.Context, t *testing.T, p *dewpoint.Platform, req dewpoint.PushRequest, step dewpoint.Step) (pushed <-chan error) {
	t.Helper()
	there, once := make(chan struct{}), false
	req.Progress = func(e dewpoint.Progress) {
		if e.Step == step && !once {
			once = true
			close(there)
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := p.Push(ctx, req)
		ended <- err
	}()
	select {
	case <-there:
	case err := <-ended:
		t.Fatalf("the push ended before it came to %s: %v", step, err)
	}
	return ended
}

// While a version takes over, both are seen; whoever leaves the push leaves the old one whole.
func TestWhoLeavesATakeoverLeavesTheOldVersion(t *testing.T) {
	t.Parallel()
	w, req := small(t, 8, 3) // what is ending takes room, too
	p, stop := w.start()
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	pushed := hanging(ctx, t, p, req)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		st := status(t, p, "app").Web()
		assert.Len(c, st.Now, 3)
		assert.Len(c, st.Coming, 1)
		_, process, ok := p.AppOf(st.Successor)
		assert.True(c, ok)
		assert.Equal(c, "web", process)
	}, 20*time.Second, 5*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-pushed, context.Canceled)
	st := status(t, p, "app")
	assert.Equal(t, 3, st.Web().Running())
	assert.Empty(t, st.Web().Successor)

	// The same for a platform that ends meanwhile.
	pushed = hanging(t.Context(), t, p, req)
	stop()
	require.ErrorContains(t, <-pushed, "Run has ended")
	p, _ = w.start()
	require.NoError(t, p.Start(t.Context(), "app"))
	st = status(t, p, "app")
	assert.Equal(t, 3, st.Web().Running())
	assert.Empty(t, st.Web().Successor)
	assert.Len(t, st.App.Owned, 1)
	assert.Equal(t, 3, w.launched())
}

// What comes while a push stages does not wait for it.
func TestWhatRunsIsChangedWhileAPushStages(t *testing.T) {
	t.Parallel()
	w, req := small(t, 8, 2)
	p, _ := w.start()
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	req.Files, req.Env, req.Instances = site("two"), []string{"A=1"}, nil
	staging, goOn := make(chan struct{}), make(chan struct{})
	once := false
	req.Progress = func(e dewpoint.Progress) {
		if e.Step == dewpoint.StepDroplet && !once {
			once = true
			close(staging)
			<-goOn
		}
	}
	pushed := make(chan error, 1)
	go func() {
		_, err := p.Push(t.Context(), req)
		pushed <- err
	}()
	<-staging
	require.NoError(t, p.Scale(t.Context(), "app", "", 3))
	require.NoError(t, p.Start(t.Context(), "app"))
	require.NoError(t, p.RestartInstance(t.Context(), "app", "", 0))
	require.NoError(t, p.Restart(t.Context(), "app"))
	_, err = p.RunTask(t.Context(), "app", dewpoint.TaskRequest{Command: "once"})
	require.NoError(t, err)
	require.NoError(t, p.MapRoute(t.Context(), dewpoint.Route{Host: "www.example.com", App: "app"}))
	close(goOn)
	require.NoError(t, <-pushed)
	st := status(t, p, "app")
	assert.Equal(t, 3, st.Web().Running(), "the push goes on with what was asked for meanwhile")
	assert.Equal(t, []string{"A=1"}, st.App.Env)
	assert.Len(t, st.App.Owned, 1)
	_, body := get(p, "www.example.com", "/")
	assert.Equal(t, "two", body)
}

// What comes while a new version takes over waits for that, but tasks do not, nor who wants an end.
func TestWhatWaitsForATakeover(t *testing.T) {
	t.Parallel()
	w, req := small(t, 8, 1)
	p, _ := w.start()
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	pushed := hanging(t.Context(), t, p, req)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"scale":            p.Scale(ctx, "app", "", 2),
		"start":            p.Start(ctx, "app"),
		"restart":          p.Restart(ctx, "app"),
		"restart instance": p.RestartInstance(ctx, "app", "", 0),
	} {
		require.ErrorIs(t, err, context.Canceled, name)
		require.ErrorContains(t, err, name+" app: waiting for another change of app app")
	}
	task, err := p.RunTask(t.Context(), "app", dewpoint.TaskRequest{Command: "work"})
	require.NoError(t, err)
	require.NoError(t, p.CancelTask(t.Context(), task.ID))
	require.NoError(t, p.Stop(t.Context(), "app"))
	require.ErrorIs(t, <-pushed, dewpoint.ErrStopped)
	assert.Empty(t, status(t, p, "app").App.Owned)
}

func TestWhereAndHowAnAppRunsIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.start()
	rt := cell.NewMemory(cell.MemoryConfig{Programs: programs})
	a, err := p.NewAgent(cell.AgentConfig{ID: "secret", Tags: []string{"isolated"}, OptionalTags: []string{"fast"}, Runtime: rt})
	require.NoError(t, err)
	runs(t, a.Run)
	require.NoError(t, p.AddCell(a))
	awaitCells(t, p, 2)
	rate := int64(1 << 20)
	req := request("app", site("one"))
	req.Tags, req.Isolation, req.LogRate, req.Grace = []string{"isolated", "fast"}, "memory", &rate, 3*time.Second
	_, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	holds := func() {
		t.Helper()
		st := status(t, p, "app")
		assert.Equal(t, []string{"isolated", "fast"}, st.App.Tags)
		assert.Equal(t, "memory", st.App.Isolation)
		assert.EqualValues(t, 1<<20, st.Web().LogRate)
		assert.Equal(t, 3*time.Second, st.Web().Grace)
		assert.Equal(t, "secret", st.Web().Now[0].Cell)
	}
	holds()
	_, err = p.Push(t.Context(), request("app", site("two")))
	require.NoError(t, err)
	holds()
	for s, err := range a.Watch(t.Context()) {
		require.NoError(t, err)
		if s.Synced {
			break
		}
		if w := s.Status.Work; w != nil && w.LRP != "" {
			assert.Equal(t, 3*time.Second, w.Process.Grace)
			assert.Equal(t, int64(1<<20), w.Spec.LogRate)
			assert.Equal(t, "memory", w.Spec.Isolation)
		}
	}
	req = request("app", site("three"))
	req.Replace = true
	res, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	assert.Empty(t, res.App.Tags)
	assert.Zero(t, res.Processes[0].Grace)
	assert.Equal(t, "cell-0", res.Processes[0].Now[0].Cell)
	assert.Equal(t, lrp.Running, res.Processes[0].Now[0].State)

	req.Isolation = "containerd" // no cell has it: nothing is even staged
	_, err = p.Push(t.Context(), req)
	require.ErrorContains(t, err, "isolation")
}

// An app without a route is not waited for by the router.
func TestAnAppWithoutARouteTakesOver(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("app", site("one")))
	require.NoError(t, err)
	require.NoError(t, p.UnmapRoute(t.Context(), "app.localhost", ""))
	before := status(t, p, "app").Web().LRP
	require.NoError(t, p.Restart(t.Context(), "app"))
	assert.NotEqual(t, before, status(t, p, "app").Web().LRP)
	require.NoError(t, p.Stop(t.Context(), "app"))
	require.NoError(t, p.Start(t.Context(), "app"))
}

// When a push returns, nobody is answered by the old version any more.
func TestTheOldVersionIsGoneWhenAPushReturns(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	for i := range 8 {
		_, err := p.Push(t.Context(), request("app", site(fmt.Sprint("v", i))))
		require.NoError(t, err)
		for range 4 {
			_, body := get(p, "app.localhost", "/")
			require.Equal(t, fmt.Sprint("v", i), body)
		}
	}
}

// A process of which nothing is known but that it runs takes nobody's place before it has run for a moment.
func TestAWorkerThatDiesAtOnceTakesNoPlace(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	two := 2
	req := request("app", site("x"))
	req.Instances, req.Health, req.Command = &two, &cell.Health{Type: "process"}, "work"
	res, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	old := res.Processes[0].LRP
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan int)
	go func() {
		n := 0
		for e, err := range p.Watch(ctx, 0) {
			if err == nil && e.Gone && e.Instance.LRP == old {
				n++
			}
		}
		gone <- n
	}()
	req.Command = "fall"
	_, err = p.Push(t.Context(), req)
	var unhealthy *dewpoint.UnhealthyError
	require.ErrorAs(t, err, &unhealthy)
	cancel()
	assert.Zero(t, <-gone, "none of the old ones had to go")
	assert.Equal(t, 2, status(t, p, "app").Web().Running())
}
