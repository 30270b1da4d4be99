package cell

import (
	"sync"
	"sync/atomic"
)

// logBudget bounds what the lines of all works of a cell take. Where there is too much, the work that
// has most of it loses its oldest lines: who floods its log pays for it, and nobody else. Without a bound
// the zero value.
type logBudget struct {
	most int64
	used atomic.Int64

	mu  sync.Mutex // guards what follows; taken before that of a buffer
	all map[*logBuffer]struct{}
}

// join makes a buffer count, until it leaves.
func (g *logBudget) join(b *logBuffer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil {
		g.all = map[*logBuffer]struct{}{}
	}
	g.all[b] = struct{}{}
}

// leave forgets a buffer; what it has kept is no longer counted, and will not be.
func (g *logBudget) leave(b *logBuffer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, b)
	b.mu.Lock()
	defer b.mu.Unlock()
	g.used.Add(-b.size.Swap(0))
	b.budget = nil
}

// over tells whether there is too much.
func (g *logBudget) over() bool { return g.most > 0 && g.used.Load() > g.most }

// shrink drops lines until there is not.
func (g *logBudget) shrink() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.over() {
		var fullest *logBuffer
		for b := range g.all {
			if fullest == nil || b.size.Load() > fullest.size.Load() {
				fullest = b
			}
		}
		if fullest == nil || !fullest.shed() {
			return
		}
	}
}

// shed drops the oldest lines, up to a chunk of them, but not the newest one. It tells whether it could.
func (b *logBuffer) shed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(b.kept()-1, chunkLines-b.head)
	for range n {
		b.drop()
	}
	b.count()
	return n > 0
}

// count tells the budget what there is now; b.mu is held.
func (b *logBuffer) count() {
	if b.budget != nil {
		now := int64(b.bytes)
		b.budget.used.Add(now - b.size.Swap(now))
	}
}
