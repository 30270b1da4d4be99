package state

import (
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
