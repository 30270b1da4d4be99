package staging_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runner is the least BuildpackRunner.
type runner struct {
	plan func(context.Context) error
}

func (b runner) Plan(ctx context.Context, r staging.Request, out func(logs.Line)) (cell.Work, error) {
	if b.plan != nil {
		if err := b.plan(ctx); err != nil {
			return cell.Work{}, err
		}
	}
	return cell.Work{ID: r.ID, Spec: staging.Spec(r), Log: cell.LogTag{App: r.App, Source: "STG"},
		Outputs: []cell.Output{{Path: "/tmp/droplet", Key: r.DropletKey}}}, nil
}

func (b runner) Result(_ context.Context, r staging.Request, s cell.Status) (staging.Result, error) {
	if e := staging.Failed(r, s); e != nil {
		return staging.Result{}, e
	}
	return staging.Result{Droplet: s.Outputs["/tmp/droplet"]}, nil
}

func open(t *testing.T, c staging.Config) *staging.Stager {
	t.Helper()
	s, err := staging.New(c)
	require.NoError(t, err)
	return s
}

func names(ps []staging.Phase) (out []string) {
	for _, p := range ps {
		out = append(out, p.Name)
	}
	return out
}

func TestStagePhasesAndLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := &stagingtest.Tasks{Func: func(_ context.Context, w cell.Work, say func(string)) cell.Status {
			for _, l := range []string{
				"Cell a creating container for instance x", "Cell a successfully created container for instance x",
				"Downloading app package...", "Downloaded app package (1K)", "-----> Go", "Exit status 0",
				"Uploading droplet, build artifacts cache...", "Uploading complete",
			} {
				time.Sleep(time.Second)
				say(l)
			}
			return stagingtest.Ended(w, 0)
		}}
		s := open(t, staging.Config{Runner: runner{}, Tasks: tasks})
		var got []logs.Line
		res, err := s.Stage(t.Context(), stagingtest.Request("a"), func(l logs.Line) { got = append(got, l) })
		require.NoError(t, err)
		assert.Equal(t, []staging.Phase{
			{Name: "plan"}, {Name: "place", Duration: time.Second}, {Name: "create", Duration: time.Second},
			{Name: "fetch", Duration: 2 * time.Second}, {Name: "build", Duration: 3 * time.Second},
			{Name: "save", Duration: time.Second}, {Name: "result"},
		}, res.Phases)
		require.Len(t, got, 8)
		for _, l := range got {
			assert.Equal(t, "STG", l.Source)
			assert.Equal(t, "app-a", l.App)
		}
	})
}

func TestOneStagingPerApp(t *testing.T) {
	t.Parallel()
	inside, release := make(chan struct{}), make(chan struct{})
	tasks := &stagingtest.Tasks{Func: func(_ context.Context, w cell.Work, _ func(string)) cell.Status {
		close(inside)
		<-release
		return stagingtest.Ended(w, 0)
	}}
	s := open(t, staging.Config{Runner: runner{}, Tasks: tasks})
	first := stagingtest.Request("first")
	done := make(chan error, 1)
	go func() {
		_, err := s.Stage(t.Context(), first, nil)
		done <- err
	}()
	<-inside
	second := stagingtest.Request("second")
	second.App = first.App
	_, err := s.Stage(t.Context(), second, nil)
	e, ok := errors.AsType[*staging.Error](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, staging.StagingInProgress, e.Reason)
	assert.Contains(t, e.Error(), "by first")
	name, code, _ := e.CFError()
	assert.Equal(t, "StagingInProgress", name)
	assert.Equal(t, 170017, code)
	close(release)
	require.NoError(t, <-done)
	_, _, busy := s.Staging(first.App)
	assert.False(t, busy)
}

func TestLimitAndCancelInEachPhase(t *testing.T) {
	t.Parallel()
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, phase := range []string{"plan", "build"} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var r runner
				tasks := &stagingtest.Tasks{Func: func(ctx context.Context, w cell.Work, _ func(string)) cell.Status {
					_ = wait(ctx)
					return cell.Status{Reason: cell.ReasonStopped}
				}}
				if phase == "plan" {
					r.plan = wait
				}
				s := open(t, staging.Config{Runner: r, Tasks: tasks})
				begun := time.Now()
				_, err := s.Stage(t.Context(), stagingtest.Request("limit"), nil)
				e, ok := errors.AsType[*staging.Error](err)
				require.True(t, ok, "%v", err)
				assert.Equal(t, staging.Timeout, e.Reason)
				assert.Contains(t, e.Error(), "exceeded 15m0s timeout")
				require.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Equal(t, 15*time.Minute, time.Since(begun))

				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Minute, cancel)
				begun = time.Now()
				res, err := s.Stage(ctx, stagingtest.Request("cancel"), nil)
				e, ok = errors.AsType[*staging.Error](err)
				require.True(t, ok, "%v", err)
				assert.Equal(t, staging.Canceled, e.Reason)
				require.ErrorIs(t, err, context.Canceled)
				assert.Equal(t, time.Minute, time.Since(begun))
				assert.Contains(t, names(res.Phases), "plan")
			})
		})
	}
}

type placed struct{ error }

func (placed) StagingReason() string { return "NoCompatibleCell" }

func TestPlacementErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want staging.Reason
	}{
		{&cell.RefusedError{Cell: "a", Reason: "memory"}, staging.InsufficientResources},
		{errors.New("insufficient resources: memory"), staging.InsufficientResources},
		{errors.New("found no compatible cell"), staging.NoCompatibleCell},
		{placed{errors.New("nothing there")}, staging.NoCompatibleCell},
		{errors.New("unable to communicate to compatible cells"), staging.CellCommunicationError},
		{fmt.Errorf("task: %w", &staging.Error{Reason: staging.CellLost}), staging.CellLost},
		{errors.New("ends in 222"), staging.StagingError},
		{fmt.Errorf("run task x: %w", scheduler.ErrLost), staging.CellLost},
		{fmt.Errorf("run task x: %w", &scheduler.PlacementError{Text: "insufficient resources: memory", Refused: []scheduler.Refusal{{Rule: "memory", Cells: 2}}}), staging.InsufficientResources},
		{&scheduler.PlacementError{Text: "found no compatible cell for required rootfs"}, staging.NoCompatibleCell},
		{&scheduler.PlacementError{Text: "unable to communicate to compatible cells"}, staging.CellCommunicationError},
	} {
		s := open(t, staging.Config{Runner: runner{}, Tasks: &stagingtest.Tasks{Before: func(cell.Work) error { return c.err }}})
		_, err := s.Stage(t.Context(), stagingtest.Request("x"), nil)
		e, ok := errors.AsType[*staging.Error](err)
		require.True(t, ok)
		assert.Equal(t, c.want, e.Reason, "%v", c.err)
		assert.Equal(t, "place", e.Phase)
		assert.Equal(t, "x", e.Staging)
		if _, ok := errors.AsType[*staging.Error](c.err); !ok {
			assert.True(t, e.Retryable, "%v: tomorrow there may be room", c.err)
			if no, ok := errors.AsType[*scheduler.PlacementError](c.err); ok {
				assert.ErrorIs(t, err, no)
				assert.Equal(t, 1, strings.Count(err.Error(), no.Text), "it is said once: %v", err)
			} else {
				assert.ErrorIs(t, err, c.err)
			}
		}
	}
}

// The ids and codes of Cloud Foundry's API, and that each reason says something of itself.
func TestReasonsInCloudFoundrysWords(t *testing.T) {
	t.Parallel()
	for reason, want := range map[staging.Reason]struct {
		name string
		code int
	}{
		staging.NoAppDetected: {"NoAppDetectedError", 170003}, staging.BuildpackCompileFailed: {"BuildpackCompileFailed", 170004},
		staging.BuildpackReleaseFailed: {"BuildpackReleaseFailed", 170005}, staging.NoBuildpacksFound: {"NoBuildpacksFound", 170006},
		staging.Timeout: {"StagingTimeExpired", 170007}, staging.InsufficientResources: {"InsufficientResources", 170008},
		staging.NoCompatibleCell: {"NoCompatibleCell", 170009}, staging.StagingInProgress: {"StagingInProgress", 170017},
		staging.BuildpackInvalid: {"BuildpackInvalid", 290003}, staging.CustomBuildpacksDisabled: {"CustomBuildpacksDisabled", 290004},
		staging.BuildpackSupplyFailed: {"StagingError", 170001}, staging.BuildpackUnavailable: {"StagingError", 170001},
		staging.CellCommunicationError: {"StagingError", 170001}, staging.CellLost: {"StagingError", 170001},
		staging.Canceled: {"StagingError", 170001}, staging.ImageInvalid: {"StagingError", 170001},
		staging.RegistryUnavailable: {"StagingError", 170001}, staging.StagingError: {"StagingError", 170001},
		"OfSomebodyElse": {"StagingError", 170001},
	} {
		e := &staging.Error{Reason: reason}
		name, code, message := e.CFError()
		assert.Equal(t, want.name, name)
		assert.Equal(t, want.code, code, reason)
		assert.NotContains(t, message, "%")
		assert.NotEqual(t, "stage app: ", e.Error())
	}
}

// Whoever notices the end first, the last lines are there, the newest twenty.
func TestLastLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := &stagingtest.Tasks{Func: func(ctx context.Context, _ cell.Work, say func(string)) cell.Status {
			for i := range 30 {
				say(fmt.Sprint("line ", i))
			}
			<-ctx.Done()
			return cell.Status{Reason: cell.ReasonStopped}
		}}
		_, err := open(t, staging.Config{Runner: runner{}, Tasks: tasks, Timeout: time.Minute}).Stage(t.Context(), stagingtest.Request("x"), nil)
		e, ok := errors.AsType[*staging.Error](err)
		require.True(t, ok)
		assert.Equal(t, staging.Timeout, e.Reason)
		assert.Contains(t, e.Error(), "exceeded 1m0s timeout")
		require.Len(t, e.Last, 20)
		assert.Equal(t, "line 10", e.Last[0])
		assert.Equal(t, "line 29", e.Last[19])
	})
}

// A fault comes in two kinds: before the work ran, and after it did. The app is free again
// after both.
func TestLostOutcome(t *testing.T) {
	t.Parallel()
	lost := errors.New("the line is dead")
	for _, tasks := range []*stagingtest.Tasks{
		{Before: func(cell.Work) error { return lost }},
		{After: func(cell.Work) error { return lost }},
	} {
		s := open(t, staging.Config{Runner: runner{}, Tasks: tasks})
		_, err := s.Stage(t.Context(), stagingtest.Request("x"), nil)
		e, ok := errors.AsType[*staging.Error](err)
		require.True(t, ok)
		assert.True(t, e.Retryable)
		require.ErrorIs(t, err, lost)
		tasks.Before, tasks.After = nil, nil
		_, err = s.Stage(t.Context(), stagingtest.Request("x"), nil)
		require.NoError(t, err)
	}
}

func TestStageRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	_, err := staging.New(staging.Config{})
	require.ErrorContains(t, err, "Config.Tasks")
	s := open(t, staging.Config{Tasks: &stagingtest.Tasks{}})
	_, err = s.Stage(t.Context(), stagingtest.Request("x"), nil)
	assert.EqualError(t, err, "stage hello: no buildpacks are plugged in; give a BuildpackRunner, such as that of package staging/buildpack")
	_, err = s.Stage(t.Context(), staging.Request{}, nil)
	assert.ErrorContains(t, err, "no ID")
}

func TestErrorSentence(t *testing.T) {
	t.Parallel()
	e := &staging.Error{Reason: staging.BuildpackCompileFailed, Name: "shop", ExitStatus: 223}
	assert.Equal(t, "stage shop: the buildpack failed to compile the app (exit status 223); its last lines say why", e.Error())
	name, code, msg := e.CFError()
	assert.Equal(t, "BuildpackCompileFailed", name)
	assert.Equal(t, 170004, code)
	assert.Equal(t, "App staging failed in the buildpack compile phase", msg)
	name, code, _ = (&staging.Error{Reason: staging.CellLost}).CFError()
	assert.Equal(t, "StagingError", name)
	assert.Equal(t, 170001, code)
}

func TestEnv(t *testing.T) {
	t.Parallel()
	r := staging.Request{App: "g", AppName: "n", Stack: "host", Env: []string{"A=app", "LANG=C", "CF_STACK=forged"}, Services: []byte(`{"db":[]}`)}
	env := staging.Env(r, []string{"PATH=/bin", "A=base"}, []string{"A=group", "B=group"})
	assert.Equal(t, []string{"LANG=C", "PATH=/bin", "A=app", "B=group", "CF_STACK=host",
		`VCAP_APPLICATION={"application_id":"g","application_name":"n","application_uris":[],"limits":{"disk":4096,"fds":16384,"mem":1024},"name":"n","uris":[]}`,
		"MEMORY_LIMIT=1024m", `VCAP_SERVICES={"db":[]}`}, env)
}

// The limits of a staging that asks for none are those of Cloud Foundry.
func TestSpec(t *testing.T) {
	t.Parallel()
	s := staging.Spec(staging.Request{})
	assert.Equal(t, 50, s.CPU)
	assert.EqualValues(t, 1<<30, s.Memory)
	assert.EqualValues(t, 4<<30, s.Disk)
	assert.Equal(t, 16384, s.NoFile)
}

// The cell is given what is left of the time, and the caller's own limit is told as one.
func TestWhatIsLeftOfTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var given time.Duration
		tasks := &stagingtest.Tasks{Func: func(ctx context.Context, w cell.Work, _ func(string)) cell.Status {
			given = w.Timeout
			<-ctx.Done()
			return cell.Status{Reason: cell.ReasonStopped}
		}}
		r := runner{plan: func(context.Context) error { time.Sleep(5 * time.Minute); return nil }}
		s := open(t, staging.Config{Runner: r, Tasks: tasks})
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Minute)
		defer cancel()
		_, err := s.Stage(ctx, stagingtest.Request("own"), nil)
		assert.Equal(t, 10*time.Minute, given)
		e, ok := errors.AsType[*staging.Error](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, staging.Timeout, e.Reason)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotContains(t, e.Error(), "15m0s", "that is not the limit that was exceeded")
	})
}
