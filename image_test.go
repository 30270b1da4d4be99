package dewpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
)

// imageInMemory runs what an image is made to run: it tells what it was given.
func imageInMemory(ctx context.Context, p cell.MemoryProcess) int {
	if p.Args[0] == "once" {
		fmt.Fprintln(p.Stdout, "done once")
		return 0
	}
	var port int
	if _, err := fmt.Sscan(p.Getenv("PORT"), &port); err != nil { // a worker
		<-ctx.Done()
		return 0
	}
	l, err := p.Listen(port)
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"args": p.Args, "dir": p.Dir, "port": port, "a": p.Getenv("A"), "b": p.Getenv("B")})
	})}
	ended := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = srv.Shutdown(context.WithoutCancel(ctx))
	})
	_ = srv.Serve(l)
	<-ended
	return 0
}

// asking counts what a fetcher is asked, and keeps the last request.
type asking struct {
	image.Memory
	n    atomic.Int64
	last atomic.Pointer[staging.ImageRequest]
}

func (a *asking) Fetch(ctx context.Context, r staging.ImageRequest) (staging.Image, error) {
	a.n.Add(1)
	a.last.Store(&r)
	return a.Memory.Fetch(ctx, r)
}

const cart = "reg.example:5000/shop/cart:v1"

func shop() *asking {
	a := &asking{}
	a.Put(staging.Image{Ref: cart, Entrypoint: []string{"/serve"}, Cmd: []string{"-x", "a b"}, User: "app", WorkingDir: "/srv",
		Env: []string{"A=image", "B=image"}, Ports: []int{9090, 9091}, Size: 5 << 20}, "", "")
	a.Put(staging.Image{Ref: "plain", Cmd: []string{"run"}, User: "1000"}, "", "")
	a.Put(staging.Image{Ref: "rooted", Cmd: []string{"run"}}, "", "")
	a.Put(staging.Image{Ref: "mute", User: "1000"}, "", "")
	a.Put(staging.Image{Ref: "reg.example/private:1", Cmd: []string{"run"}, User: "1000"}, "me", imageSecret)
	return a
}

const imageSecret = "Geh3im-und-lang"

func told(t *testing.T, p *dewpoint.Platform, host string) map[string]any {
	t.Helper()
	code, body := get(p, host, "/")
	require.Equal(t, http.StatusOK, code)
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &m))
	return m
}

func TestPushAnImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	images := shop()
	p, stop := w.startWith(dewpoint.Config{Images: images})
	var steps []dewpoint.Step
	req := dewpoint.PushRequest{Name: "cart", Env: []string{"B=mine"}, Health: &cell.Health{Type: "process"}, Progress: func(e dewpoint.Progress) {
		if e.Done {
			steps = append(steps, e.Step)
		}
	}}
	res, err := p.PushImage(t.Context(), cart, req)
	require.NoError(t, err)
	assert.Equal(t, []dewpoint.Step{"record", "stage", "run", "healthy"}, steps)
	assert.Equal(t, dewpoint.BuildStaged, res.Build.State)
	st := status(t, p, "cart")
	require.NotNil(t, st.App.Image)
	i := *st.App.Image
	assert.Equal(t, cart, i.Name)
	assert.Equal(t, cart+"@"+i.Digest, i.Ref)
	assert.Equal(t, res.Build.ID, i.Build)
	assert.Equal(t, map[string]any{"args": []any{"", "/serve", "-x", "a b"}, "dir": "/srv", "port": 9090., "a": "image", "b": "mine"}, told(t, p, "cart.localhost"))
	spec := w.spec(string(st.Web().LRP))
	assert.Equal(t, "reg.example:5000/shop/cart@"+i.Digest, spec.Image)
	assert.Equal(t, "app", spec.User)
	assert.Equal(t, []int{9090, 9091}, spec.Ports)
	assert.Empty(t, spec.Stack)

	// A moved tag does not change what runs: nobody asks until somebody says so.
	images.Put(staging.Image{Ref: cart, Cmd: []string{"/new"}, User: "app"}, "", "")
	require.NoError(t, p.Restart(t.Context(), "cart"))
	require.NoError(t, p.Scale(t.Context(), "cart", "", 2))
	require.NoError(t, p.Start(t.Context(), "cart"))
	assert.EqualValues(t, 1, images.n.Load())
	assert.Equal(t, "-x", told(t, p, "cart.localhost")["args"].([]any)[2])
	stop()
	p, _ = w.startWith(dewpoint.Config{Images: images})
	require.NoError(t, p.Start(t.Context(), "cart"))
	assert.EqualValues(t, 1, images.n.Load(), "nor when the platform is started again")
	assert.Equal(t, i.Digest, status(t, p, "cart").App.Image.Digest)

	_, err = p.Stage(t.Context(), "cart", nil)
	require.NoError(t, err)
	assert.EqualValues(t, 2, images.n.Load())
	require.Len(t, images.last.Load().Known, 1)
	assert.Equal(t, i.Digest, images.last.Load().Known[0].Digest, "what is known need not be told again")
	assert.Equal(t, "-x", told(t, p, "cart.localhost")["args"].([]any)[2], "what runs goes on")
	require.NoError(t, p.Restart(t.Context(), "cart"))
	assert.Equal(t, []any{"", "/new"}, told(t, p, "cart.localhost")["args"])

	task, err := p.RunTask(t.Context(), "cart", dewpoint.TaskRequest{Command: "once"})
	require.NoError(t, err)
	assert.Equal(t, spec.User, task.Work.Spec.User)
	require.NoError(t, p.Delete(t.Context(), "cart"))
}

// spec is that of a container in which an instance of a process runs.
func (w *world) spec(lrp string) cell.Spec {
	w.t.Helper()
	all, err := w.runtime.Containers(w.t.Context())
	require.NoError(w.t, err)
	for _, c := range all {
		if strings.Contains(string(c.Info().Note), lrp) {
			return c.Info().Spec
		}
	}
	require.Fail(w.t, "no instance", lrp)
	return cell.Spec{}
}

func TestWhatAPushSaysStandsBeforeWhatTheImageSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.startWith(dewpoint.Config{Images: shop()})
	one := 1
	_, err := p.Push(t.Context(), dewpoint.PushRequest{Name: "app", Image: cart, Command: "run $A", User: "2000:3000", Ports: []int{7070},
		Processes: []dewpoint.ProcessRequest{{Type: "worker", Command: "work", Instances: &one}}})
	require.NoError(t, err)
	got := told(t, p, "app.localhost")
	assert.Equal(t, []any{"run $A"}, got["args"])
	assert.EqualValues(t, 7070, got["port"])
	st := status(t, p, "app")
	assert.Equal(t, "2000:3000", w.spec(string(st.Web().LRP)).User)
	assert.Empty(t, w.spec(string(st.Processes[1].LRP)).Ports)
	_, err = p.Push(t.Context(), dewpoint.PushRequest{Name: "plain", Image: "plain"})
	require.NoError(t, err)
	assert.EqualValues(t, 8080, told(t, p, "plain.localhost")["port"], "an image without ports has Cloud Foundry's")
}

func TestSourceAndImageTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, stop := w.start()
	_, err := p.Push(t.Context(), request("app", site("files")))
	require.NoError(t, err)
	_, err = p.Push(t.Context(), dewpoint.PushRequest{Name: "app", Image: cart})
	e, ok := errors.AsType[*staging.Error](err)
	require.True(t, ok, err)
	assert.Contains(t, e.Error(), "Config.Images")
	_, body := get(p, "app.localhost", "/")
	assert.Equal(t, "files", body, "what ran goes on")
	stop()
	p, stop = w.startWith(dewpoint.Config{Images: shop()})
	_, err = p.Push(t.Context(), dewpoint.PushRequest{Name: "app", Image: "plain"})
	require.NoError(t, err)
	assert.Equal(t, []any{"", "run"}, told(t, p, "app.localhost")["args"])
	st := status(t, p, "app")
	assert.Empty(t, st.App.Droplet)
	stop()
	p, _ = w.start()
	_, err = p.Push(t.Context(), request("app", site("again")))
	require.NoError(t, err)
	_, body = get(p, "app.localhost", "/")
	assert.Equal(t, "again", body)
	assert.Nil(t, status(t, p, "app").App.Image)
}

func TestImagesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, stop := w.startWith(dewpoint.Config{Images: shop()})
	push := func(r dewpoint.PushRequest) error {
		r.Name = "app"
		_, err := p.Push(t.Context(), r)
		return err
	}
	for _, user := range []string{"", "root", "0", "0:0", "root:staff", "00"} {
		err := push(dewpoint.PushRequest{Image: "rooted", User: user})
		require.ErrorIs(t, err, dewpoint.ErrRoot, user)
	}
	require.ErrorContains(t, push(dewpoint.PushRequest{Image: "rooted", Replace: true}), "not permitted: image rooted names no user")
	require.NoError(t, push(dewpoint.PushRequest{Image: "rooted", User: "nobody"}))
	require.ErrorIs(t, push(dewpoint.PushRequest{Image: "mute", Replace: true}), dewpoint.ErrNoCommand)
	require.ErrorContains(t, push(dewpoint.PushRequest{Image: "mute"}), "image mute has neither entrypoint nor cmd; give a command")
	err := push(dewpoint.PushRequest{Image: "none:1"})
	e, ok := errors.AsType[*staging.Error](err)
	require.True(t, ok)
	assert.Equal(t, staging.ImageInvalid, e.Reason)
	for want, r := range map[string]dewpoint.PushRequest{
		"set one of":            {Image: "x", Path: "."},
		"without PushRequest":   {Path: ".", ImageUsername: "me"},
		"no use for buildpacks": {Image: "x", Buildpacks: []string{"b"}},
		"use 1024 to 65535":     {Image: "x", Ports: []int{80}},
		"is there twice":        {Image: "x", Ports: []int{8080, 8080}},
		"10 are the most":       {Image: "x", Ports: make([]int, 11)},
	} {
		require.ErrorContains(t, push(r), want)
	}
	stop()
	_, err = dewpoint.New(dewpoint.Config{SecretKey: []byte("short")})
	require.ErrorContains(t, err, "32 random")
}

func TestACellThatRunsNoImages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.startWith(dewpoint.Config{Images: shop(), Runtime: noImages{w.runtime}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for e, err := range p.Watch(t.Context(), 0) {
			if err != nil || e.Instance.PlacementError != "" {
				cancel()
				return
			}
		}
	}()
	_, err := p.Push(ctx, dewpoint.PushRequest{Name: "other", Image: "plain"})
	require.Error(t, err)
	st := status(t, p, "other")
	require.NotEmpty(t, st.Processes[0].Now)
	assert.Contains(t, st.Processes[0].Now[0].PlacementError, "runs no images")
}

// noImages is a cell without.
type noImages struct{ *cell.Memory }

func (n noImages) Capacity(ctx context.Context) (cell.Resources, error) {
	r, err := n.Memory.Capacity(ctx)
	r.Images = false
	return r, err
}

func TestRootIsAllowedWhereTheOperatorSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.startWith(dewpoint.Config{Images: shop(), RootImages: true})
	_, err := p.Push(t.Context(), dewpoint.PushRequest{Name: "app", Image: "rooted"})
	require.NoError(t, err)
	assert.Equal(t, "root", w.spec(string(status(t, p, "app").Web().LRP)).User)
}

// watching notes what a container's login was asked for.
type watching struct {
	*cell.Memory
	got *atomic.Value // the last answer
}

func (r watching) Create(ctx context.Context, c cell.Creation) (cell.Container, error) {
	if c.Login != nil {
		user, password, err := c.Login(ctx)
		r.got.Store(fmt.Sprint(user, " ", password, " ", err))
	}
	return r.Memory.Create(ctx, c)
}

func TestCredentialsAreGivenToTheCellAndShownToNobody(t *testing.T) {
	t.Parallel()
	key := []byte(strings.Repeat("k", 32))
	for _, key := range [][]byte{nil, key} {
		w := newWorld(t)
		images := shop()
		c := dewpoint.Config{Images: images, SecretKey: key, Runtime: watching{w.runtime, &atomic.Value{}}}
		got := c.Runtime.(watching).got
		p, stop := w.startWith(c)
		var lines []string
		_, err := p.Push(t.Context(), dewpoint.PushRequest{Name: "app", Image: "reg.example/private:1", ImageUsername: "me", ImagePassword: imageSecret,
			Progress: func(e dewpoint.Progress) {
				lines = append(lines, e.Text)
				if e.Line != nil {
					lines = append(lines, e.Line.Text)
				}
			}})
		require.NoError(t, err)
		require.Equal(t, "me "+imageSecret+" <nil>", got.Load())
		// A push that gives none goes on with those, for the same registry only.
		_, err = p.Push(t.Context(), dewpoint.PushRequest{Name: "app", Image: "reg.example/private:1"})
		require.NoError(t, err)
		require.Equal(t, "me "+imageSecret+" <nil>", got.Load())
		st := status(t, p, "app")
		for l, err := range p.Logs(t.Context(), "app", logs.Position(0), false) {
			require.NoError(t, err)
			lines = append(lines, l.Text)
		}
		notes := ""
		all, err := w.runtime.Containers(t.Context())
		require.NoError(t, err)
		for _, con := range all {
			notes += string(con.Info().Note)
		}
		shown := fmt.Sprintf("%+v %+v %s", st, lines, notes) + w.journalText()
		assert.NotContains(t, shown, imageSecret)
		assert.Contains(t, shown, "reg.example/private")
		stop()

		p, stop = w.startWith(c)
		require.NoError(t, p.Restart(t.Context(), "app"))
		want := "  <nil>"
		if key != nil {
			want = "me " + imageSecret + " <nil>"
		}
		assert.Equal(t, want, got.Load(), "what was sealed is there after a restart")
		stop()
		if key != nil {
			c.SecretKey = []byte(strings.Repeat("x", 32))
			p, _ = w.startWith(c)
			require.NoError(t, p.Restart(t.Context(), "app"))
			assert.Equal(t, "  <nil>", got.Load(), "with another key it is of no use")
		} else {
			p, _ = w.startWith(c)
		}
		images.Put(staging.Image{Ref: "else.example/x", Cmd: []string{"run"}, User: "1"}, "", "")
		_, err = p.Push(t.Context(), dewpoint.PushRequest{Name: "app", Image: "else.example/x"})
		require.NoError(t, err)
		assert.Equal(t, "  <nil>", got.Load())
		assert.Empty(t, images.last.Load().Password)
	}
}

// journalText is all that the journal has.
func (w *world) journalText() string {
	_, rows, err := w.journal.Load(w.t.Context())
	require.NoError(w.t, err)
	var b strings.Builder
	for r, err := range rows {
		require.NoError(w.t, err)
		fmt.Fprintf(&b, "%s %s %s\n", r.Table, r.Key, r.Value)
	}
	return b.String()
}
