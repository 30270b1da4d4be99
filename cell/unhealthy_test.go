package cell_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
)

// An instance that is not healthy any more gets no requests while it is given its time to end; a
// cell that has ended says nothing more of itself.
func TestAnUnhealthyInstanceIsNotReadyWhileItEnds(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	release := make(chan struct{})
	rt := cell.NewMemory(cell.MemoryConfig{Programs: map[string]func(context.Context, cell.MemoryProcess) int{
		"stubborn": func(ctx context.Context, p cell.MemoryProcess) int {
			l, err := p.Listen(8080)
			if err != nil {
				return 1
			}
			srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if sick.Load() {
					w.WriteHeader(http.StatusInternalServerError)
				}
			})}
			go func() { _ = srv.Serve(l) }()
			<-ctx.Done()
			<-release
			_ = srv.Close()
			return 0
		},
	}})
	a, err := cell.New(cell.AgentConfig{ID: "c", Runtime: rt})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	require.NoError(t, a.Start(ctx, cell.Work{ID: "w", LRP: "l", Spec: cell.Spec{Ports: []int{8080}},
		Process: cell.Process{Path: "stubborn", Grace: time.Minute}, Health: &cell.Health{Type: "http", Endpoint: "/", Interval: 10 * time.Millisecond}}))
	released := false
	for e, err := range a.Watch(ctx) {
		require.NoError(t, err)
		s := e.Status
		switch {
		case s.ID != "w":
		case s.Phase == cell.PhaseRunning && !s.NotReady:
			sick.Store(true)
		case s.NotReady && !released:
			assert.NotEqual(t, cell.PhaseDone, s.Phase)
			released = true
			close(release)
		}
		if s.Phase == cell.PhaseDone {
			break
		}
	}
	assert.True(t, released)
	cancel()
	require.NoError(t, <-ended)
	_, err = a.State(t.Context())
	require.ErrorContains(t, err, "has ended")
}
