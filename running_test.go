package dewpoint_test

import (
	"context"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
)

// Settings that wait for the next start, because their push did not start the app or failed,
// change nothing of what runs, which can be scaled all the same.
func TestWhatRunsIsScaledThoughItsSettingsChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, stop := w.start()
	two, one := 2, 1
	req := request("app", site("x"))
	req.Instances = &two
	_, err := p.Push(t.Context(), req)
	require.NoError(t, err)

	for _, files := range []string{"", "fail"} {
		req = request("app", site("y"))
		req.Env, req.Instances, req.NoStart = []string{"NEW=" + files}, &one, true
		if files != "" {
			req.Files = site("y", files)
		}
		_, err = p.Push(t.Context(), req)
		assert.Equal(t, files != "", err != nil)
		st := status(t, p, "app").Web()
		assert.Equal(t, 2, st.Instances, "what runs is as it was")
		assert.Equal(t, 2, st.Running())
	}
	require.NoError(t, p.Scale(t.Context(), "app", "", 3))
	require.NoError(t, p.Start(t.Context(), "app"))
	assert.Equal(t, 3, status(t, p, "app").Web().Running())
	_, body := get(p, "app.localhost", "/")
	assert.Equal(t, "x", body)

	// Over the same journal, too.
	stop()
	p, _ = w.start()
	require.NoError(t, p.Scale(t.Context(), "app", "", 1))
	req.Files, req.Instances = site("z"), &two
	_, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, 1, status(t, p, "app").Web().Instances)
	require.NoError(t, p.Restart(t.Context(), "app"))
	st := status(t, p, "app").Web()
	assert.Equal(t, 2, st.Instances, "what the last push asked for")
	assert.Equal(t, 2, st.Running())
	assert.Nil(t, st.Next)
	_, body = get(p, "app.localhost", "/")
	assert.Equal(t, "z", body)
}

// A version that never gets ready takes no requests from the one that serves.
func TestWhatDoesNotGetReadyReplacesNothing(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
	req := request("app", site("y"))
	req.Health = &cell.Health{StartTimeout: time.Second, Readiness: &cell.Probe{Type: "http", Endpoint: "/sick"}}
	req.Progress = func(e dewpoint.Progress) {
		_, body := get(p, "app.localhost", "/")
		assert.Equal(t, "x", body, "at %s", e.Step)
	}
	_, err = p.Push(t.Context(), req)
	var unhealthy *dewpoint.UnhealthyError
	require.ErrorAs(t, err, &unhealthy)
	require.ErrorContains(t, err, "its readiness check does not pass")
	require.ErrorContains(t, err, "what ran before goes on")
	_, body := get(p, "app.localhost", "/")
	assert.Equal(t, "x", body)

	// The first version has nothing to go on with, but says so, too.
	req.Name, req.Progress = "other", nil
	_, err = p.Push(t.Context(), req)
	require.ErrorAs(t, err, &unhealthy)
	require.ErrorContains(t, err, "instance 0 of other runs, but")
}

// Who stops or deletes an app does not wait for a push that hangs.
func TestStopAndDeleteGiveAPushUp(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(p *dewpoint.Platform) error{
		"stop":   func(p *dewpoint.Platform) error { return p.Stop(t.Context(), "app") },
		"delete": func(p *dewpoint.Platform) error { return p.Delete(t.Context(), "app") },
	} {
		for _, again := range []bool{false, true} {
			w := newWorld(t)
			p, _ := w.start()
			if again {
				_, err := p.Push(t.Context(), request("app", site("x")))
				require.NoError(t, err)
			}
			req := request("app", site("y"))
			req.Health = &cell.Health{StartTimeout: -1, Type: "http", Endpoint: "/sick"} // waits for ever
			waits, once := make(chan struct{}), false
			req.Progress = func(e dewpoint.Progress) {
				if e.Step == dewpoint.StepHealthy && !once {
					once = true
					close(waits)
				}
			}
			pushed := make(chan error, 1)
			go func() {
				_, err := p.Push(t.Context(), req)
				pushed <- err
			}()
			<-waits
			require.NoError(t, act(p), "%s, running before: %v", name, again)
			require.ErrorIs(t, <-pushed, dewpoint.ErrStopped)
			for _, a := range p.Apps() {
				assert.False(t, a.Started)
				assert.Empty(t, a.Owned)
			}
			assert.Len(t, p.Apps(), map[string]int{"stop": 1}[name])
		}
	}
}

// Whatever number of pushes fails, what runs can be started anew where it was never before.
func TestTheDropletOfWhatRunsIsKept(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
	for i := range 8 {
		req := request("app", site(fmt.Sprint("y", i)))
		req.NoStart = true
		_, err := p.Push(t.Context(), req)
		require.NoError(t, err)
	}
	addCell(t, p, "cell-1", "z1")
	awaitCells(t, p, 2)
	require.NoError(t, p.Scale(t.Context(), "app", "", 4))
	require.NoError(t, p.Start(t.Context(), "app"))
	on := map[string]int{}
	for _, in := range status(t, p, "app").Web().Now {
		on[in.Cell]++
	}
	assert.Positive(t, on["cell-1"], "%v", on)
	_, body := get(p, "app.localhost", "/")
	assert.Equal(t, "x", body)
}

// A push that waits when Run ends, fails then, and so does what comes later.
func TestTheEndOfRunEndsAPush(t *testing.T) {
	t.Parallel()
	p, stop := newWorld(t).start()
	req := request("app", site("y"))
	req.Health = &cell.Health{StartTimeout: -1, Type: "http", Endpoint: "/sick"} // waits for ever
	waits, once := make(chan struct{}), false
	req.Progress = func(e dewpoint.Progress) {
		if e.Step == dewpoint.StepHealthy && !once {
			once = true
			close(waits)
		}
	}
	pushed := make(chan error, 1)
	go func() {
		_, err := p.Push(t.Context(), req)
		pushed <- err
	}()
	<-waits
	stop()
	require.ErrorContains(t, <-pushed, "Run has ended")
	require.ErrorContains(t, p.Scale(t.Context(), "app", "", 2), "Run has ended")
	_, err := p.Push(t.Context(), req)
	require.ErrorContains(t, err, "Run has ended")
}

func TestWhatIsNotThereIsSaid(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
	_, explained := p.Explain(t.Context(), "app", "clock")
	says := func(err error, text string) {
		t.Helper()
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.EqualError(t, err, text)
	}
	says(explained, `explain app: it has no process "clock"; it has web`)
	says(p.Scale(t.Context(), "app", "clock", 1), `scale app: it has no process "clock"; it has web`)
	says(p.Stop(t.Context(), "shop"), `stop: there is no app "shop"`)
	says(p.RestartInstance(t.Context(), "app", "clock", 0), `restart instance app: it has no process "clock"; it has web`)
	says(p.RestartInstance(t.Context(), "app", "", 4), `restart instance app: there is no instance 4 of web, which has 1`)
	require.NoError(t, p.Stop(t.Context(), "app"))
	says(p.RestartInstance(t.Context(), "app", "", 0), `restart instance app: there is no instance 0 of web: the app is stopped`)
}

// While a platform is starting, its apps are not unknown, but not available.
func TestBeforeReadyAppsAreNotAvailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, stop := w.start()
	_, err := p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
	stop()
	p, err = dewpoint.New(dewpoint.Config{Blobs: w.blobs, Journal: w.journal, Runtime: w.runtime})
	require.NoError(t, err)
	code, _ := get(p, "app.localhost", "/")
	assert.Equal(t, 503, code)
	code, _ = get(p, "other.localhost", "/")
	assert.Equal(t, 404, code)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, p.Run(ctx))
}
