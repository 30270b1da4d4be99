package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// TestLinesOfADeletedAppAreNotKept holds that what an instance says while it ends, after its
// app was deleted, is not kept: nobody would ever drop it.
func TestLinesOfADeletedAppAreNotKept(t *testing.T) {
	t.Parallel()
	kept := logs.NewMemory(logs.MemoryConfig{})
	p, err := New(Config{Logs: kept})
	require.NoError(t, err)
	defer p.db.Close()
	require.NoError(t, p.db.Update(t.Context(), func(tx *state.Tx) error { return apps.Put(tx, App{ID: "a", Name: "app"}) }))
	p.say(logs.Line{App: "a", Text: "listening"})
	assert.Len(t, kept.Tail("a", 10), 1)
	require.NoError(t, p.Delete(t.Context(), "app"))
	p.say(logs.Line{App: "a", Text: "stopping instance"})
	assert.Empty(t, kept.Tail("a", 10))
}

// What takes the place of something needs room beside it, which is said where there is none.
func TestAReplacementWithoutRoomSaysWhatToDo(t *testing.T) {
	t.Parallel()
	cramped := &UnhealthyError{App: "shop", Process: Web, Instance: lrp.Instance{State: lrp.Unclaimed, PlacementError: "insufficient resources: memory"}}
	for strategy, want := range map[Strategy]string{
		Rolling:   "what ran before goes on; a further instance needs room until it serves: add a cell, scale something down, or use the strategy recreate, which stops the old ones first",
		BlueGreen: "what ran before goes on; until the new instances serve, both need room: add a cell, scale something down, or use the strategy rolling",
		Recreate:  "what ran before goes on",
	} {
		over := &takeover{strategy: strategy}
		require.EqualError(t, over.goesOn(cramped, false), "instance 0 of shop found no place: insufficient resources: memory\n("+want+")")
	}
	over := &takeover{strategy: Recreate}
	err := over.goesOn(&UnhealthyError{App: "shop", Process: Web, Instance: lrp.Instance{State: lrp.Running}}, true)
	require.ErrorContains(t, err, "readiness check does not pass")
	require.ErrorContains(t, err, "\n(what ran before is whole again as soon as its instances have started)")
}

func TestStrategySteps(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		s        Strategy
		r        roll
		inFlight int
		old, new int
	}{
		"first":                  {Rolling, roll{was: 3, want: 3, old: 3, left: 3}, 1, 3, 1},
		"one serves":             {Rolling, roll{was: 3, want: 3, old: 3, new: 1, left: 3, serving: 1}, 1, 2, 2},
		"a third of them":        {Rolling, roll{was: 30, want: 30, old: 30, left: 30}, 0, 30, 3},
		"at least one":           {Rolling, roll{was: 3, want: 3, old: 3, left: 3}, 0, 3, 1},
		"never more than wanted": {Rolling, roll{was: 3, want: 3, old: 2, new: 2, serving: 2}, 5, 1, 3},
		"the last stays":         {Rolling, roll{was: 3, want: 3, old: 1, new: 3, serving: 3}, 1, 1, 3},
		"nothing comes back":     {Rolling, roll{was: 3, want: 3, old: 1, new: 3, serving: 1}, 1, 1, 3},
		"to more":                {Rolling, roll{was: 2, want: 10, old: 2, new: 5, serving: 5}, 2, 2, 7},
		"to fewer":               {Rolling, roll{was: 10, want: 2, old: 10, new: 1, serving: 1}, 1, 1, 2},
		"to none":                {Rolling, roll{was: 2, old: 2}, 1, 2, 0},
		"from none":              {Rolling, roll{want: 2}, 1, 0, 1},
		"both":                   {BlueGreen, roll{was: 3, want: 4, old: 3, new: 4, serving: 4}, 1, 3, 4},
		"the old ones first":     {Recreate, roll{was: 3, want: 3, old: 3, left: 3}, 1, 0, 0},
		"then all at once":       {Recreate, roll{was: 3, want: 3}, 1, 0, 3},
	} {
		old, made := c.s.step(c.r, c.inFlight)
		assert.Equal(t, []int{c.old, c.new}, []int{old, made}, name)
	}
}

// losing is a journal that loses what was committed, unasked.
type losing struct {
	*state.Memory
	lost atomic.Pointer[error]
}

func (l *losing) lose(err error) { l.lost.Store(&err) }

func (l *losing) Check(context.Context) error { return *l.lost.Load() }

func TestALostJournalEndsThePlatformThoughNothingIsWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &losing{Memory: state.NewMemory()}
		j.lose(errors.New("it cannot be told now"))
		p, err := New(Config{Journal: j})
		require.NoError(t, err)
		defer p.db.Close()
		ended := make(chan error, 1)
		go func() { ended <- p.guardState(t.Context()) }()
		synctest.Wait()
		assert.Empty(t, ended)
		j.lose(fmt.Errorf("state.db was deleted: %w", state.ErrFenced))
		require.ErrorContains(t, <-ended, "state.db was deleted")
	})
}
