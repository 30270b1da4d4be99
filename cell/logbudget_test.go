package cell

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/logs"
)

// texts reads what is kept of a buffer: the lines, and how many are missing before them.
func texts(t *testing.T, b *logBuffer) (all []logs.Line, missing uint64) {
	t.Helper()
	b.close()
	b.read(t.Context(), 0, func(l logs.Line, err error) bool {
		require.NoError(t, err)
		if l.Missing > 0 {
			missing += l.Missing
		} else {
			all = append(all, l)
		}
		return true
	})
	return all, missing
}

// One work floods its log though it alone is within its own bound; the others keep theirs.
func TestTheFullestWorkPaysForAll(t *testing.T) {
	t.Parallel()
	g := &logBudget{most: 100 << 10}
	open := func() *logBuffer {
		b := &logBuffer{maxLines: 1000, maxBytes: 1 << 20, budget: g}
		g.join(b)
		return b
	}
	quiet, flood := make([]*logBuffer, 5), open()
	for i := range quiet {
		quiet[i] = open()
	}
	const lines = 2000
	line := logs.Line{Text: strings.Repeat("x", 72)} // 200 bytes with what it costs
	for i := range lines {
		flood.add(line)
		if i%40 == 0 {
			for _, b := range quiet {
				b.add(line)
			}
		}
		assert.LessOrEqual(t, g.used.Load(), g.most)
	}
	for _, b := range quiet {
		all, missing := texts(t, b)
		assert.Len(t, all, lines/40)
		assert.Zero(t, missing)
	}
	all, missing := texts(t, flood)
	assert.Equal(t, uint64(lines), missing+uint64(len(all)), "what is missing is told")
	assert.NotEmpty(t, all)
	assert.Equal(t, logs.Position(lines), all[len(all)-1].Pos)

	g.leave(flood)
	for _, b := range quiet {
		g.leave(b)
	}
	assert.Zero(t, g.used.Load(), "who leaves is no longer counted")
	assert.Empty(t, g.all)
}

// Even the newest lines alone may be too much: they stay.
func TestTheNewestLineStays(t *testing.T) {
	t.Parallel()
	g := &logBudget{most: 1}
	b := &logBuffer{maxLines: 10, maxBytes: 1 << 20, budget: g}
	g.join(b)
	b.add(logs.Line{Text: "one"})
	b.add(logs.Line{Text: "two"})
	all, missing := texts(t, b)
	require.Len(t, all, 1)
	assert.Equal(t, "two", all[0].Text)
	assert.EqualValues(t, 1, missing)
}

func TestABudgetHoldsForAllAtOnce(t *testing.T) {
	t.Parallel()
	g := &logBudget{most: 50 << 10}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				b := &logBuffer{maxLines: 1000, maxBytes: 1 << 20, budget: g}
				g.join(b)
				for range 200 {
					b.add(logs.Line{Text: "a line that many write"})
				}
				g.leave(b)
			}
		})
	}
	wg.Wait()
	assert.Zero(t, g.used.Load())
}
