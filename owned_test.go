package dewpoint_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/state"
)

// launched counts the containers in which an app's instances run.
func (w *world) launched() int {
	w.t.Helper()
	all, err := w.runtime.Containers(w.t.Context())
	require.NoError(w.t, err)
	n := 0
	for _, c := range all {
		if strings.Contains(string(c.Info().Note), "lifecycle:launcher") {
			n++
		}
	}
	return n
}

// wantedNow is how many instances the rows of apps say that there should be.
func wantedNow(p *dewpoint.Platform) int {
	n := 0
	for _, a := range p.Apps() {
		if a.Started {
			n += a.Process(dewpoint.Web).Instances
		}
	}
	return n
}

// Whoever leaves a push, at whatever point, leaves nothing that nobody owns: neither now nor
// when the platform is started again over the same journal.
func TestNothingRunsThatNobodyOwns(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		for _, at := range []dewpoint.Step{dewpoint.StepDroplet, dewpoint.StepRun, dewpoint.StepHealthy} {
			w := newWorld(t)
			p, stop := w.start()
			if begun {
				_, err := p.Push(t.Context(), request("app", site("before")))
				require.NoError(t, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			req := request("app", site("x"))
			req.Progress = func(e dewpoint.Progress) {
				if e.Step == at && e.Line == nil && !e.Done {
					cancel()
				}
			}
			_, err := p.Push(ctx, req)
			require.ErrorIs(t, err, context.Canceled, "%s", at)
			stop()
			p, _ = w.start()
			for _, a := range p.Apps() {
				assert.Len(t, a.Owned, map[bool]int{true: 1}[a.Started], "%s, running before: %v", at, begun)
				if a.Started {
					require.NoError(t, p.Start(t.Context(), a.ID))
				}
			}
			assert.Equal(t, wantedNow(p), w.launched(), "%s, running before: %v", at, begun)
		}
	}
}

// The same for a journal whose answer is lost while a process is scheduled or stopped.
func TestALostAnswerLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		for name, change := range map[string]func(*dewpoint.Platform) error{
			"restart": func(p *dewpoint.Platform) error { return p.Restart(t.Context(), "app") },
			"stop":    func(p *dewpoint.Platform) error { return p.Stop(t.Context(), "app") },
			"start":   func(p *dewpoint.Platform) error { return p.Start(t.Context(), "app") },
			"scale":   func(p *dewpoint.Platform) error { return p.Scale(t.Context(), "app", "", 2) },
		} {
			w := newWorld(t)
			p, stop := w.start()
			_, err := p.Push(t.Context(), request("app", site("x")))
			require.NoError(t, err)
			w.journal.Inject(state.Fault{Err: errors.New("no answer"), Done: done})
			_ = change(p) // it may succeed: the database repeats what is uncertain
			stop()
			p, _ = w.start()
			for _, a := range p.Apps() {
				if a.Started {
					require.NoError(t, p.Start(t.Context(), a.ID))
				}
				assert.Len(t, a.Owned, map[bool]int{true: 1}[a.Started], "%s, done: %v", name, done)
			}
			assert.Equal(t, wantedNow(p), w.launched(), "%s, done: %v", name, done)
		}
	}
}

func TestNamesDifferByMoreThanCase(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("Shop", site("one")))
	require.NoError(t, err)
	res, err := p.Push(t.Context(), request("shop", site("two")))
	require.NoError(t, err)
	assert.Len(t, p.Apps(), 1)
	assert.Equal(t, []string{"shop.localhost"}, res.Hosts)
	_, body := get(p, "SHOP.localhost", "/")
	assert.Equal(t, "two", body)
}

func TestReplaceForgetsSettings(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	req := request("app", site("x"))
	two := 2
	req.Env, req.Memory, req.Instances = []string{"A=1"}, 64<<20, &two
	res, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	assert.EqualValues(t, 64<<20, res.App.Process("web").Memory)
	res, err = p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
	assert.Equal(t, []string{"A=1"}, res.App.Env, "as it was")
	assert.Equal(t, 2, res.Processes[0].Running())
	req = request("app", site("x"))
	req.Replace = true
	res, err = p.Push(t.Context(), req)
	require.NoError(t, err)
	assert.Empty(t, res.App.Env)
	assert.EqualValues(t, 1<<30, res.App.Process("web").Memory)
	assert.Equal(t, 1, res.Processes[0].Running())
}
