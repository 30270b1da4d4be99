//go:build linux || darwin

package image_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
)

// noting keeps what containers are made of.
type noting struct {
	*process.Runtime
	notes chan string
}

func (n noting) Create(ctx context.Context, c cell.Creation) (cell.Container, error) {
	n.notes <- string(c.Note)
	return n.Runtime.Create(ctx, c)
}

// The stock lifecycle program can do it, too.
func TestOnACellWithTheStockProgram(t *testing.T) {
	t.Parallel()
	y := open(t)
	y.push("shop/cart:v1", made(t, runtime.GOARCH, v1.Config{Entrypoint: []string{"/serve"}}))
	stock := filepath.Join(t.TempDir(), "stock")
	cmd := exec.Command("go", "build", "-o", stock, "github.com/dewpoint-go/dewpoint/lifecycle/cmd/dewpoint-lifecycle")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	r, err := process.New(t.Context(), process.Config{Dir: t.TempDir(), Source: stock})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	o, err := image.NewOnCell(image.Config{Tries: 1}, nil)
	require.NoError(t, err)
	defer o.Close()
	o.UseTasks(cell.Tasks{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: r, Open: o.Open})})
	got, err := o.Fetch(t.Context(), staging.ImageRequest{ID: "f", Ref: y.host + "/shop/cart:v1"})
	require.NoError(t, err)
	assert.Equal(t, []string{"/serve"}, got.Entrypoint)
}

func TestOnCell(t *testing.T) {
	t.Parallel()
	y := open(t)
	ref := y.host + "/shop/cart:v1"
	y.push("shop/cart:v1", made(t, runtime.GOARCH, v1.Config{Entrypoint: []string{"/serve"}, User: "app", Env: []string{"A=b"}}))
	r, err := process.New(t.Context(), process.Config{Dir: t.TempDir()}) // this test is its own lifecycle program
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	o, err := image.NewOnCell(image.Config{Tries: 1}, nil)
	require.NoError(t, err)
	defer o.Close()
	notes := make(chan string, 100)
	agent := celltest.Agent(t, cell.AgentConfig{Runtime: noting{r, notes}, Open: o.Open})
	_, err = o.Fetch(t.Context(), staging.ImageRequest{ID: "f0", Ref: ref})
	require.ErrorContains(t, err, "give NewOnCell a staging.TaskRunner")
	o.UseTasks(cell.Tasks{Cell: agent})
	direct, err := image.New(image.Config{Tries: 1})
	require.NoError(t, err)
	defer direct.Close()

	var said []string
	req := staging.ImageRequest{ID: "f1", App: "a", Ref: ref, Out: func(l logs.Line) { said = append(said, l.Source+" "+l.Text) }}
	got, err := o.Fetch(t.Context(), req)
	require.NoError(t, err)
	want, err := direct.Fetch(t.Context(), staging.ImageRequest{Ref: ref})
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.Subset(t, said, []string{"STG Staging process started ...", "STG Fetched metadata of " + got.Ref, "STG Staging process finished", "STG Exit status 0"})

	// What is wrong is told as by one who asks from here.
	for id, bad := range map[string]string{"absent": y.host + "/shop/none:v1", "bad": "b a d"} {
		_, err := o.Fetch(t.Context(), staging.ImageRequest{ID: id, Ref: bad})
		_, same := direct.Fetch(t.Context(), staging.ImageRequest{ID: id, Ref: bad})
		e, ok := errors.AsType[*staging.Error](err)
		require.True(t, ok, err)
		assert.Equal(t, staging.ImageInvalid, e.Reason)
		assert.EqualError(t, err, same.Error())
	}
	_, err = o.Fetch(t.Context(), staging.ImageRequest{Ref: ref})
	require.ErrorContains(t, err, "no ID")

	// Credentials come to the cell, and to nothing that is kept.
	const secret = "Geh3im"
	y.answer(func(w http.ResponseWriter, r *http.Request) bool {
		if _, p, _ := r.BasicAuth(); p == secret {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	said = nil
	req.ID, req.Username, req.Password = "f2", "me", secret
	_, err = o.Fetch(t.Context(), req)
	require.NoError(t, err)
	assert.NotContains(t, said, secret)
	req.ID, req.Password = "f3", "wrong"
	_, err = o.Fetch(t.Context(), req)
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "wrong")
	close(notes)
	for n := range notes {
		assert.NotContains(t, n, secret)
	}
	_, err = o.Open(t.Context(), "image-request:f2")
	require.ErrorIs(t, err, fs.ErrNotExist, "nothing stays after a fetch")
}

// A Platform gives its own scheduler, opens what the task is to ask, and keeps the answer.
func TestAPlatformAsksFromACell(t *testing.T) {
	t.Parallel()
	y := open(t)
	y.push("shop/cart:v1", made(t, runtime.GOARCH, v1.Config{Entrypoint: []string{"/serve"}, User: "app"}))
	r, err := process.New(t.Context(), process.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	o, err := image.NewOnCell(image.Config{}, nil)
	require.NoError(t, err)
	defer o.Close()
	p, err := dewpoint.New(dewpoint.Config{Runtime: r, Images: o})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	<-p.Ready()
	res, err := p.PushImage(ctx, y.host+"/shop/cart:v1", dewpoint.PushRequest{Name: "cart", NoStart: true})
	require.NoError(t, err)
	st, err := p.Status(ctx, "cart")
	require.NoError(t, err)
	assert.Equal(t, []string{"/serve"}, st.App.Image.Entrypoint)
	assert.Equal(t, st.App.Image.Ref, res.Build.Image)
	cancel()
	require.NoError(t, <-ended)
}

func TestOnCellIsGivenUp(t *testing.T) {
	t.Parallel()
	y := open(t)
	ref := y.host + "/shop/cart:v1"
	y.push("shop/cart:v1", made(t, runtime.GOARCH, v1.Config{Entrypoint: []string{"/serve"}, User: "app", Env: []string{"A=b"}}))
	r, err := process.New(t.Context(), process.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	y.answer(func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done() // the registry hangs
		return true
	})
	o, err := image.NewOnCell(image.Config{}, nil)
	require.NoError(t, err)
	defer o.Close()
	o.UseTasks(cell.Tasks{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: r, Open: o.Open})})
	_, err = o.Fetch(ctx, staging.ImageRequest{ID: "f1", Ref: ref})
	e, ok := errors.AsType[*staging.Error](err)
	require.True(t, ok, err)
	assert.Equal(t, staging.Canceled, e.Reason)
}
