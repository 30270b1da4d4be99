package dewpoint_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever is done to an app that ends in good order, no request is lost: an instance gets none
// any more before it is told to stop.
func TestNoRequestIsLost(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	addCell(t, p, "cell-1", "z1")
	awaitCells(t, p, 2)
	_, err := p.Push(t.Context(), request("app", site("v1")))
	require.NoError(t, err)
	front := httptest.NewServer(p.Router())
	defer front.Close()

	ctx, cancel := context.WithCancel(t.Context())
	var asked, failed atomic.Int64
	var stage atomic.Value
	stage.Store("scaled")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				req, err := http.NewRequest(http.MethodPost, front.URL+"/", http.NoBody) // a POST is not tried twice
				if err != nil {
					failed.Add(1)
					return
				}
				req.Host = "app.localhost"
				resp, err := front.Client().Do(req)
				asked.Add(1)
				if err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
					what := fmt.Sprint(err)
					if err == nil {
						what = resp.Status + " " + resp.Header.Get("X-Cf-RouterError")
					}
					t.Log("while it is", stage.Load(), "a request fails:", what)
				}
				if err == nil {
					resp.Body.Close()
				}
			}
		})
	}
	for _, n := range []int{5, 1, 4, 2} {
		require.NoError(t, p.Scale(t.Context(), "app", "", n))
		require.NoError(t, p.Start(t.Context(), "app"))
	}
	stage.Store("restarted")
	require.NoError(t, p.Restart(t.Context(), "app"))
	stage.Store("restarted in part")
	require.NoError(t, p.RestartInstance(t.Context(), "app", "", 0))
	require.NoError(t, p.Start(t.Context(), "app"))
	stage.Store("pushed")
	_, err = p.Push(t.Context(), request("app", site("v2")))
	require.NoError(t, err)
	stage.Store("drained")
	require.NoError(t, p.Drain(t.Context(), "cell-1", true))
	require.NoError(t, p.Check(t.Context()))
	require.NoError(t, p.Start(t.Context(), "app"))
	cancel()
	wg.Wait()
	assert.Positive(t, asked.Load())
	assert.Zero(t, failed.Load(), "of %d", asked.Load())
}
