package scheduler_test

import (
	"testing"

	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
)

func TestSpreadIsAPolicy(t *testing.T) {
	t.Parallel()
	schedulertest.RunPolicy(t, scheduler.Spread{})
	schedulertest.RunPolicy(t, scheduler.Spread{BinPack: 0.5})
}
