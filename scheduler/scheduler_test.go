package scheduler_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/lrp/lrptest"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSchedulerIsAnLRPScheduler(t *testing.T) {
	t.Parallel()
	lrptest.Run(t, func(t *testing.T, cells ...cell.Cell) lrp.Scheduler {
		return open(t, state.NewMemory(), scheduler.Config{Cells: cells})
	})
}

// open makes a Scheduler over a journal.
func open(t *testing.T, j state.Journal, c scheduler.Config) *scheduler.Scheduler {
	t.Helper()
	db, err := state.Open(context.Background(), state.Config{Journal: j}, scheduler.Tables()...)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	c.DB = db
	s, err := scheduler.New(c)
	require.NoError(t, err)
	return s
}
