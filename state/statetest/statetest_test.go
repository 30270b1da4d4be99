package statetest_test

import (
	"testing"

	"github.com/dewpoint-go/dewpoint/state"
	"github.com/dewpoint-go/dewpoint/state/statetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	statetest.Run(t, func(*testing.T) (state.Journal, func() state.Journal) {
		m := state.NewMemory()
		return m, func() state.Journal { return m }
	})
}
