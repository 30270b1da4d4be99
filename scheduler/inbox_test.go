package scheduler

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/state"
)

// mustOpen is a database in memory.
func mustOpen(t *testing.T) *state.DB {
	t.Helper()
	db, err := state.Open(t.Context(), state.Config{}, Tables()...)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// What one cell says waits for the Core in a bounded room: its answers by replacing the older ones,
// its events by not being taken from Watch.
func TestInboxIsBounded(t *testing.T) {
	t.Parallel()
	s, err := New(Config{DB: mustOpen(t)})
	require.NoError(t, err)
	p := &peer{m: &Member{}, events: make(chan struct{}, maxEvents)}
	var heard []int
	for i := range 1000 {
		s.postBeat(p, func(*Core) { heard = append(heard, i) })
	}
	assert.Len(t, s.inbox, 1)
	s.tellCore()
	assert.Equal(t, []int{998, 999}, heard)
	s.postBeat(p, func(*Core) { heard = append(heard, 1000) })
	s.tellCore()
	assert.Equal(t, []int{998, 999, 1000}, heard)

	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			id := fmt.Sprint(n)
			if !s.postSaid(ctx, p, func(c *Core) { c.Event(p.m, cell.Event{Status: cell.Status{ID: id}}, benchTime) }) {
				break
			}
			if n == maxEvents-1 {
				cancel() // there is no more room
			}
		}
		taken <- n
	}()
	assert.Equal(t, maxEvents, <-taken)
	assert.Len(t, s.inbox, maxEvents)
	s.core.Add(p.m, benchTime)
	s.tellCore()
	assert.Empty(t, p.events)
	assert.Len(t, p.m.works, maxEvents)
}

var update = flag.Bool("update", false, "write golden files anew")

// The JSON of an Explanation is for programs to read.
func TestExplanationIsJSON(t *testing.T) {
	t.Parallel()
	v := NewView(sized("a", "A", 100), sized("b", "A", 100), sized("c", "B", 100), sized("d", "B", 5))
	v.Cell("b").Draining = true
	runs(v, "a", "app", 10)
	v.Commit(wants("other", 0, 20), "c")
	got, err := json.MarshalIndent([]Explanation{
		Spread{BinPack: 0.5}.Explain(wants("app", 1, 10), v),
		Spread{}.Explain(wants("app", 1, 1000), v),
	}, "", "  ")
	require.NoError(t, err)
	const name = "testdata/explanation.json"
	if *update {
		require.NoError(t, os.WriteFile(name, append(got, '\n'), 0o644))
	}
	want, err := os.ReadFile(name)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got)+"\n")
}
