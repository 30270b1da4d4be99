package dewpoint_test

import (
	"bytes"
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a platform in memory whose parts outlive it.
type world struct {
	t       *testing.T
	blobs   *blob.Memory
	journal *state.Memory
	runtime *cell.Memory
}

func newWorld(t *testing.T) *world {
	return &world{t: t, blobs: blob.NewMemory(), journal: state.NewMemory(), runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs})}
}

// start makes a platform over the world's parts and runs it; stop ends it.
func (w *world) start() (p *dewpoint.Platform, stop func()) {
	w.t.Helper()
	packs, err := buildpack.New(buildpack.Config{Catalogue: &buildpack.Catalogue{}, Local: true, Dir: w.t.TempDir()})
	require.NoError(w.t, err)
	return w.startWith(dewpoint.Config{Buildpacks: packs})
}

// startWith is start with what is not the world's.
func (w *world) startWith(c dewpoint.Config) (p *dewpoint.Platform, stop func()) {
	w.t.Helper()
	c.Blobs, c.Journal = w.blobs, w.journal
	if c.Runtime == nil {
		c.Runtime = w.runtime
	}
	p, err := dewpoint.New(c)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		assert.NoError(w.t, <-ended)
	}
	w.t.Cleanup(stop)
	<-p.Ready()
	return p, stop
}

func site(text string, extra ...string) fstest.MapFS {
	f := fstest.MapFS{
		"index.html": {Data: []byte(text), Mode: 0o644},
		"big.bin":    {Data: bytes.Repeat([]byte("0123456789abcdef"), 8<<10), Mode: 0o644},
	}
	for _, name := range extra {
		f[name] = &fstest.MapFile{Data: []byte("x"), Mode: 0o644}
	}
	return f
}

func request(name string, files fs.FS) dewpoint.PushRequest {
	return dewpoint.PushRequest{Name: name, Files: files, Buildpacks: []string{"testdata/buildpack"}}
}

func get(p *dewpoint.Platform, host, path string) (int, string) {
	w := httptest.NewRecorder()
	p.Router().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+host+path, nil))
	return w.Code, w.Body.String()
}

func TestPushServesAndTheSecondPushSpares(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	var steps []dewpoint.Step
	req := request("app", site("one"))
	req.Progress = func(e dewpoint.Progress) {
		if e.Done {
			steps = append(steps, e.Step)
		}
	}
	res, err := p.Push(t.Context(), req)
	require.NoError(t, err)
	assert.Equal(t, []dewpoint.Step{"scan", "record", "match", "upload", "package", "stage", "droplet", "run", "healthy"}, steps)
	assert.Equal(t, 0, res.KnownFiles)
	assert.False(t, res.CacheUsed)
	assert.Equal(t, "Memory", res.Droplet.DetectedBuildpack)
	code, body := get(p, "app.localhost", "/")
	assert.Equal(t, 200, code)
	assert.Equal(t, "one", body)

	res, err = p.Push(t.Context(), request("app", site("two")))
	require.NoError(t, err)
	assert.Equal(t, 1, res.KnownFiles)
	assert.Equal(t, int64(128<<10), res.KnownBytes)
	assert.True(t, res.CacheUsed)
	_, body = get(p, "app.localhost", "/")
	assert.Equal(t, "two", body)
}

func TestAFailedPushLeavesWhatRan(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("app", site("good")))
	require.NoError(t, err)

	_, err = p.Push(t.Context(), request("app", site("bad", "fail")))
	var se *staging.Error
	require.ErrorAs(t, err, &se)
	assert.Equal(t, staging.BuildpackCompileFailed, se.Reason)
	assert.Equal(t, 223, se.ExitStatus)

	_, err = p.Push(t.Context(), request("app", site("falls", "crash")))
	var un *dewpoint.UnhealthyError
	require.ErrorAs(t, err, &un)
	assert.Contains(t, err.Error(), "Exited with status 17")
	assert.Contains(t, err.Error(), "I fall")

	code, body := get(p, "app.localhost", "/")
	assert.Equal(t, 200, code)
	assert.Equal(t, "good", body)
}

func TestScaleStopStartRestartDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, stop := w.start()
	_, err := p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)

	require.NoError(t, p.Scale(t.Context(), "app", "", 3))
	require.NoError(t, p.Start(t.Context(), "app")) // waits for all
	st, err := p.Status(t.Context(), "app")
	require.NoError(t, err)
	assert.Equal(t, 3, st.Web().Running())

	require.NoError(t, p.Restart(t.Context(), "app"))
	require.NoError(t, p.Stop(t.Context(), "app"))
	st, err = p.Status(t.Context(), "app")
	require.NoError(t, err)
	assert.False(t, st.App.Started)

	require.NoError(t, p.Start(t.Context(), "app"))
	code, _ := get(p, "app.localhost", "/")
	assert.Equal(t, 200, code)

	require.NoError(t, p.Delete(t.Context(), "app"))
	require.NoError(t, p.Delete(t.Context(), "app"))
	_, err = p.App("app")
	require.ErrorIs(t, err, fs.ErrNotExist)
	stop()
	for info, err := range w.blobs.List(t.Context(), "") {
		require.NoError(t, err)
		t.Errorf("blob %s was left behind", info.Key)
	}
}

func TestARestartOverTheSameJournalRunsTheAppAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, stop := w.start()
	_, err := p.Push(t.Context(), request("app", site("still here")))
	require.NoError(t, err)
	stop()

	p, _ = w.start()
	require.NoError(t, p.Start(t.Context(), "app"))
	code, body := get(p, "app.localhost", "/")
	assert.Equal(t, 200, code)
	assert.Equal(t, "still here", body)
}

func TestBadRequestsAreRefusedInOneSentence(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	minus, many := -1, 1<<30
	for name, c := range map[string]struct {
		req  dewpoint.PushRequest
		want string
	}{
		"no name":           {dewpoint.PushRequest{Files: site("x")}, "no name"},
		"bad name":          {dewpoint.PushRequest{Name: "a b", Files: site("x")}, `app name "a b"`},
		"no files":          {dewpoint.PushRequest{Name: "a"}, "set one of"},
		"empty directory":   {request("a", fstest.MapFS{}), "no files to push"},
		"missing folder":    {dewpoint.PushRequest{Name: "a", Path: "testdata/none"}, "testdata/none"},
		"negative count":    {dewpoint.PushRequest{Name: "a", Files: site("x"), Instances: &minus}, "-1 instances"},
		"too many":          {dewpoint.PushRequest{Name: "a", Files: site("x"), Instances: &many}, "1000000 is the most"},
		"host with port":    {dewpoint.PushRequest{Name: "a", Files: site("x"), Hosts: []string{"*.example.com", "example.com:80"}}, `host "example.com:80"`},
		"host with path":    {dewpoint.PushRequest{Name: "a", Files: site("x"), Hosts: []string{"example.com/shop"}}, "without port and path"},
		"host of all":       {dewpoint.PushRequest{Name: "a", Files: site("x"), Hosts: []string{"*"}}, `host "*"`},
		"host with end dot": {dewpoint.PushRequest{Name: "a", Files: site("x"), Hosts: []string{"example.com."}}, `host "example.com."`},
		"environment":       {dewpoint.PushRequest{Name: "a", Files: site("x"), Env: []string{"=x"}}, "NAME=VALUE"},
		"reserved variable": {dewpoint.PushRequest{Name: "a", Files: site("x"), Env: []string{"PORT=1"}}, "set by the platform"},
	} {
		_, err := p.Push(t.Context(), c.req)
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), c.want, name)
	}
	assert.Empty(t, p.Apps(), "what could never be pushed leaves no app")
	_, err := p.Push(t.Context(), dewpoint.PushRequest{Name: "a", Files: site("x"), Buildpacks: []string{"nope"}})
	require.ErrorContains(t, err, "nope")
}

func TestTheZeroConfigSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	p, err := dewpoint.New(dewpoint.Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	_, err = p.Push(ctx, dewpoint.PushRequest{Name: "a", Files: site("x")})
	require.ErrorContains(t, err, "staging/buildpack")
	cancel()
	require.NoError(t, <-ended)
}

func TestCancelLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.start()
	for _, at := range []dewpoint.Step{dewpoint.StepRecord, dewpoint.StepMatch, dewpoint.StepUpload, dewpoint.StepPackage, dewpoint.StepStage, dewpoint.StepDroplet, dewpoint.StepRun} {
		ctx, cancel := context.WithCancel(t.Context())
		req := request("app", site("x"))
		req.Progress = func(e dewpoint.Progress) {
			if e.Step == at && !e.Done {
				cancel()
			}
		}
		_, err := p.Push(ctx, req)
		require.ErrorIs(t, err, context.Canceled, at)
	}
	left, err := w.runtime.Containers(t.Context())
	require.NoError(t, err)
	for _, c := range left {
		assert.NotContains(t, string(c.Info().Note), "lifecycle:builder")
	}
	_, err = p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
}

func TestLogsAreReadFromAnyPoint(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	_, err := p.Push(t.Context(), request("app", site("x")))
	require.NoError(t, err)
	var sources []string
	var from logs.Position
	for l, err := range p.Logs(t.Context(), "app", 0, false) {
		require.NoError(t, err)
		sources = append(sources, l.Source)
		from = l.Pos
	}
	assert.Contains(t, sources, "STG")
	assert.Contains(t, sources, "API")
	for l := range p.Logs(t.Context(), "app", from, false) {
		t.Errorf("line %q came twice", l.Text)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"64K": 64 << 10, "256M": 256 << 20, "1G": 1 << 30, "1.5GB": 3 << 29, "10B": 10} {
		n, err := dewpoint.ParseBytes(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, n, s)
	}
	for _, s := range []string{"", "12", "M", "-1M", "1X", "0M", "99999999999T"} {
		_, err := dewpoint.ParseBytes(s)
		assert.Error(t, err, s)
	}
	assert.Equal(t, "45.6M", dewpoint.FormatBytes(47_815_066))
	assert.Equal(t, "1G", dewpoint.FormatBytes(1<<30))
	assert.Equal(t, "999B", dewpoint.FormatBytes(999))
}
