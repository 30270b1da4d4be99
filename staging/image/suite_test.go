package image_test

import (
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

// put publishes an image in a yard.
func (y *yard) put(t *testing.T, name string, i staging.Image, username, password string) string {
	t.Helper()
	c := v1.Config{Entrypoint: i.Entrypoint, Cmd: i.Cmd, WorkingDir: i.WorkingDir, User: i.User, Env: i.Env, ExposedPorts: map[string]struct{}{}}
	for _, p := range i.Ports {
		c.ExposedPorts[strconv.Itoa(p)+"/tcp"] = struct{}{}
	}
	y.push(name, made(t, runtime.GOARCH, c))
	if username != "" {
		y.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if u, p, _ := r.BasicAuth(); u == username && p == password {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
	}
	return y.host + "/" + name
}

func TestFetcherIsAnImageFetcher(t *testing.T) {
	t.Parallel()
	stagingtest.RunImageFetcher(t, func(t *testing.T) stagingtest.ImageSubject {
		return stagingtest.ImageSubject{Fetcher: fetcher(t, image.Config{}), Put: open(t).put}
	})
}

func TestOnCellIsAnImageFetcher(t *testing.T) {
	t.Parallel()
	stagingtest.RunImageFetcher(t, func(t *testing.T) stagingtest.ImageSubject {
		r, err := process.New(t.Context(), process.Config{Dir: t.TempDir()}) // this test is its own lifecycle program
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, r.Close()) })
		o, err := image.NewOnCell(image.Config{Tries: 1}, nil)
		require.NoError(t, err)
		t.Cleanup(o.Close)
		o.UseTasks(cell.Tasks{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: r, Open: o.Open})})
		return stagingtest.ImageSubject{Fetcher: o, Put: open(t).put}
	})
}

func TestMemoryIsAnImageFetcher(t *testing.T) {
	t.Parallel()
	stagingtest.RunImageFetcher(t, func(*testing.T) stagingtest.ImageSubject {
		m := &image.Memory{}
		return stagingtest.ImageSubject{Fetcher: m, Put: func(_ *testing.T, name string, i staging.Image, username, password string) string {
			i.Ref = "registry.example/" + name
			m.Put(i, username, password)
			return strings.TrimSpace(i.Ref)
		}}
	})
}
