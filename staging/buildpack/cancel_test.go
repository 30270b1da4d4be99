//go:build linux || darwin

package buildpack_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// stuck is a body that gives some bytes and then nothing until it is closed, whoever's context
// has ended: a connection that hangs.
type stuck struct {
	io.Reader
	hangs  func()
	closed chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	if n, err := s.Reader.Read(p); n > 0 {
		return n, err
	}
	s.hangs()
	<-s.closed
	return 0, os.ErrClosed
}

func (s *stuck) Close() error {
	close(s.closed)
	return nil
}

// A staging can be cancelled, and ends at its limit, whatever it is doing, and leaves nothing.
func TestEndAtEachPhase(t *testing.T) {
	t.Parallel()
	stubborn := "trap '' TERM HUP INT; (trap '' TERM HUP INT; while :; do sleep 1; done) & echo ready >&2; while :; do sleep 1; done"
	hangAt := func(name string, read bool) func(*yard, *staging.Request, func()) {
		return func(y *yard, r *staging.Request, hangs func()) {
			y.open = func(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
				if !strings.HasPrefix(string(s), name) {
					return nil, nil
				}
				if read {
					return &stuck{Reader: bytes.NewReader(make([]byte, 512)), hangs: hangs, closed: make(chan struct{})}, nil
				}
				hangs()
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}
	}
	for name, c := range map[string]struct {
		phase   string
		files   map[string]string
		arrange func(y *yard, r *staging.Request, hangs func())
	}{
		"zip that does not come": {phase: staging.PhasePlan, arrange: func(y *yard, r *staging.Request, hangs func()) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write([]byte("PK"))
				w.(http.Flusher).Flush()
				hangs()
				<-r.Context().Done()
			}))
			y.t.Cleanup(srv.Close)
			r.Buildpacks = []string{srv.URL + "/x.zip"}
		}},
		"buildpack not opened": {phase: staging.PhaseFetch, arrange: hangAt("dir:", false)},
		"buildpack not read":   {phase: staging.PhaseFetch, arrange: hangAt("dir:", true)},
		"package not opened":   {phase: staging.PhaseFetch, arrange: hangAt("package:", false)},
		"package not read":     {phase: staging.PhaseFetch, arrange: hangAt("package:", true)},
		"detect":               {phase: staging.PhaseBuild, files: map[string]string{"detect": stubborn}},
		"compile":              {phase: staging.PhaseBuild, files: map[string]string{"compile": stubborn}},
		"supply":               {phase: staging.PhaseBuild, files: map[string]string{"supply": stubborn, "finalize": ""}},
		"release":              {phase: staging.PhaseBuild, files: map[string]string{"release": stubborn}},
		"droplet not taken": {phase: staging.PhaseSave, arrange: func(y *yard, _ *staging.Request, hangs func()) {
			y.save = func(ctx context.Context, _ string) error {
				hangs()
				<-ctx.Done()
				return ctx.Err()
			}
		}},
	} {
		for _, how := range []staging.Reason{staging.Canceled, staging.Timeout} {
			t.Run(name+"/"+string(how), func(t *testing.T) {
				t.Parallel()
				y := newYard(t, buildpack.Config{}, scripts(t, "bad", c.files))
				r := request("s")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var at time.Time
				hangs := func() {}
				if how == staging.Canceled {
					hangs = func() { at = time.Now(); cancel() }
				} else {
					r.Timeout = 700 * time.Millisecond
				}
				if c.arrange != nil {
					c.arrange(y, &r, func() {
						y.mu.Lock()
						defer y.mu.Unlock()
						hangs()
					})
				}
				_, err := y.stage(ctx, r, func(l string) {
					if l == "ready" {
						hangs()
					}
				})
				e := reason(t, err)
				assert.Equal(t, how, e.Reason, "%v", e)
				if how == staging.Canceled {
					t.Logf("ended %s after it was cancelled", time.Since(at).Round(time.Millisecond))
					assert.ErrorIs(t, err, context.Canceled)
					// A limit may come earlier than the phase, on a busy machine; and so may what the cell is made to do
					// before the lines that tell of the phase.
					order := []string{staging.PhasePlan, staging.PhasePlace, staging.PhaseCreate, staging.PhaseFetch, staging.PhaseBuild, staging.PhaseSave}
					if assert.Contains(t, order, e.Phase); c.arrange == nil {
						assert.Equal(t, c.phase, e.Phase)
					} else {
						assert.LessOrEqual(t, slices.Index(order, e.Phase), slices.Index(order, c.phase), e.Phase)
					}
				}
				y.clean(r)
				y.mu.Lock()
				defer y.mu.Unlock()
				for key := range y.blobs {
					assert.False(t, strings.HasPrefix(key, "blob:"), "saved: %s", key)
				}
			})
		}
	}
}
