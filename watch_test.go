package dewpoint_test

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/state"
)

// forgetful is a Scheduler that soon forgets its changes.
type forgetful struct {
	*scheduler.Scheduler
	forgot atomic.Int64
}

func (f *forgetful) Watch(ctx context.Context, after uint64) iter.Seq2[lrp.Event, error] {
	return func(yield func(lrp.Event, error) bool) {
		n := 0
		for e, err := range f.Scheduler.Watch(ctx, after) {
			if !yield(e, err) {
				return
			}
			if n++; n == 2 && f.forgot.Add(1) < 20 {
				yield(lrp.Event{}, lrp.ErrCompacted)
				return
			}
		}
	}
}

func TestChangesThatAreNoLongerKept(t *testing.T) {
	t.Parallel()
	db, err := state.Open(t.Context(), state.Config{}, scheduler.Tables()...)
	require.NoError(t, err)
	defer db.Close()
	s, err := scheduler.New(scheduler.Config{DB: db})
	require.NoError(t, err)
	packs, err := buildpack.New(buildpack.Config{Catalogue: &buildpack.Catalogue{}, Local: true, Dir: t.TempDir()})
	require.NoError(t, err)
	f := &forgetful{Scheduler: s}
	p, err := dewpoint.New(dewpoint.Config{Scheduler: f, Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs}), Buildpacks: packs})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	three := 3
	req := request("app", site("x"))
	req.Instances = &three
	res, err := p.Push(ctx, req)
	require.NoError(t, err)
	assert.Equal(t, 3, res.Processes[0].Running())
	code, _ := get(p, "app.localhost", "/")
	assert.Equal(t, 200, code)
	assert.Positive(t, f.forgot.Load())
	cancel()
	require.NoError(t, <-ended)
}
