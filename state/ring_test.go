package state

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestRingIsBounded holds that the newest 100,000 changes are kept, and of each revision all
// or none.
func TestRingIsBounded(t *testing.T) {
	t.Parallel()
	var r ring
	for rev := range uint64(500) {
		cs := make([]Change, 999)
		for i := range cs {
			cs[i].Rev = rev + 1
		}
		r.add(cs)
		assert.Less(t, len(r.list), 2*keptChanges)
		assert.Equal(t, uint64(len(r.list)), 999*(rev+1-r.floor))
		if rev >= 101 {
			assert.GreaterOrEqual(t, len(r.list), keptChanges-999)
		}
	}
}

// TestQuietTableStaysInReach holds that changes of other tables don't push a quiet one's out
// of reach: whoever follows it has missed nothing.
func TestQuietTableStaysInReach(t *testing.T) {
	t.Parallel()
	var r ring
	quiet := NewTable("quiet", func(s string) string { return s })
	busy := NewTable("busy", func(s string) string { return s })
	r.add([]Change{{Rev: 1, Table: "quiet"}})
	r.add([]Change{{Rev: 2, Table: "quiet"}, {Rev: 2, Table: "busy"}})
	for rev := uint64(3); len(r.gone) == 0; rev++ {
		r.add(slices.Repeat([]Change{{Rev: rev, Table: "busy"}}, 10_000))
	}
	last := r.list[len(r.list)-1].Rev
	assert.Equal(t, uint64(2), r.reach([]AnyTable{quiet}))
	assert.Greater(t, r.reach([]AnyTable{busy}), uint64(2))
	assert.Less(t, r.reach([]AnyTable{busy}), last)
	assert.Equal(t, r.reach(nil), r.reach([]AnyTable{quiet, busy}))
	assert.Equal(t, r.list[0].Rev, r.reach(nil)+1)
}
