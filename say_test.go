package dewpoint

import (
	"testing"

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
	err := goesOn(&UnhealthyError{App: "shop", Process: Web, Instance: lrp.Instance{State: lrp.Unclaimed, PlacementError: "insufficient resources: memory"}})
	assert.EqualError(t, err, "instance 0 of shop found no place: insufficient resources: memory\n"+
		"(what ran before goes on; until the new instances serve, both need room: add a cell, scale something down, or stop the app first)")
	err = goesOn(&UnhealthyError{App: "shop", Process: Web, Instance: lrp.Instance{State: lrp.Running}})
	assert.ErrorContains(t, err, "readiness check does not pass")
	assert.ErrorContains(t, err, "\n(what ran before goes on)")
}
