package cell

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// maxLine is where a line that is longer is split, in bytes: where Cloud Foundry splits.
const maxLine = 60 << 10

// lineCost is what a line takes apart from its text.
const lineCost = 128

// chunkLines is how many lines a chunk has.
const chunkLines = 64

// logBuffer keeps lines of one work: the newest maxLines, and older ones that were not read
// yet, all in all at most maxBytes. So a reader that is slow, or comes late, loses nothing to a burst. The
// Position of a line is its number, from 1.
type logBuffer struct {
	maxLines, maxBytes int
	rate               lineRate
	size               atomic.Int64 // what the budget has counted of it; written with mu held

	mu     sync.Mutex // guards what follows
	budget *logBudget // nil: none, or none any more
	// chunks hold chunkLines lines each, but for the newest one. What is below the length of one
	// never changes: readers hold parts of it. Its memory is free when all of its lines are gone.
	chunks  [][]logs.Line
	head    int // lines of chunks[0] that are gone
	bytes   int
	last    logs.Position
	taken   logs.Position               // the furthest that was ever read
	readers map[*logs.Position]struct{} // how far those are that read now
	closed  bool
	wake    chan struct{} // not nil while a reader waits; closed at the next line
}

func (b *logBuffer) add(l logs.Line) {
	wake, budget := b.put(l)
	if wake != nil {
		close(wake)
	}
	if budget != nil && budget.over() {
		budget.shrink()
	}
}

// put adds a line, and returns what to close, and what to ask whether that was too much.
func (b *logBuffer) put(l logs.Line) (wake chan struct{}, budget *logBudget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil
	}
	b.last++
	l.Pos = b.last
	n := len(b.chunks)
	if n == 0 || len(b.chunks[n-1]) == chunkLines {
		b.chunks = append(b.chunks, nil) // the first lines of a work make small ones
		if n++; n > 1 {
			b.chunks[n-1] = make([]logs.Line, 0, chunkLines)
		}
	}
	b.chunks[n-1] = append(b.chunks[n-1], l)
	b.bytes += len(l.Text) + lineCost
	b.trim()
	wake, b.wake = b.wake, nil
	return wake, b.budget
}

// kept is how many lines there are; b.mu is held.
func (b *logBuffer) kept() int {
	n := len(b.chunks)
	if n == 0 {
		return 0
	}
	return (n-1)*chunkLines + len(b.chunks[n-1]) - b.head
}

// from returns the kept lines from one on, as far as they are in one chunk; b.mu is held.
func (b *logBuffer) from(i int) []logs.Line {
	i += b.head
	return slices.Clip(b.chunks[i/chunkLines][i%chunkLines:])
}

// trim drops lines; b.mu is held.
func (b *logBuffer) trim() {
	read := b.taken
	for r := range b.readers {
		read = min(read, *r)
	}
	kept := b.kept()
	oldest := b.last - logs.Position(kept) + 1
	for ; kept > 1 && (b.bytes > b.maxBytes || kept > b.maxLines && oldest <= read); kept-- {
		b.drop()
		oldest++
	}
	b.count()
}

// drop drops the oldest line; b.mu is held.
func (b *logBuffer) drop() {
	b.bytes -= len(b.chunks[0][b.head].Text) + lineCost
	if b.head++; b.head == chunkLines {
		b.head, b.chunks[0] = 0, nil
		b.chunks = b.chunks[1:]
	}
}

// close says that no line follows.
func (b *logBuffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.wake != nil {
		close(b.wake)
		b.wake = nil
	}
}

// tail returns up to n of the newest texts, each cut at 4 KiB.
func (b *logBuffer) tail(n int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for i := max(0, b.kept()-n); i < b.kept(); {
		for _, l := range b.from(i) {
			all = append(all, l.Text[:min(len(l.Text), 4096)])
			i++
		}
	}
	return all
}

// read yields what comes after from, to the end.
func (b *logBuffer) read(ctx context.Context, from logs.Position, yield func(logs.Line, error) bool) {
	reader := new(logs.Position)
	defer b.leave(reader)
	if b.beyond(from) {
		from = 0 // of a stream before this one, such as that before the agent was started anew
	}
	for {
		batch, lost, wake := b.after(reader, from)
		if lost > 0 {
			from += logs.Position(lost)
			gap := logs.Gap("", lost, from, time.Time{})
			if len(batch) > 0 {
				l := batch[0]
				gap.App, gap.Index, gap.Instance, gap.Time = l.App, l.Index, l.Instance, l.Time
			}
			if ctx.Err() != nil || !yield(gap, nil) {
				return
			}
		}
		for _, l := range batch {
			if ctx.Err() != nil || !yield(l, nil) {
				return
			}
			from = l.Pos
		}
		if len(batch) > 0 {
			continue
		}
		if wake == nil {
			return
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

func (b *logBuffer) beyond(from logs.Position) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return from > b.last
}

// after returns lines that follow from, how many before them are lost, and, if there is
// none, what is closed at the next one (nil: there will be none).
func (b *logBuffer) after(reader *logs.Position, from logs.Position) (batch []logs.Line, lost uint64, wake chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers == nil {
		b.readers = map[*logs.Position]struct{}{}
	}
	b.readers[reader], *reader = struct{}{}, from
	b.taken = max(b.taken, min(from, b.last))
	b.trim()
	first := b.last - logs.Position(b.kept()) // Pos before the oldest kept
	if from < first {
		lost = uint64(first - from)
		from = first
	}
	if from < b.last {
		return b.from(int(from - first)), lost, nil
	}
	if b.closed {
		return nil, lost, nil
	}
	if b.wake == nil {
		b.wake = make(chan struct{})
	}
	return nil, lost, b.wake
}

// leave says that a reader has ended.
func (b *logBuffer) leave(reader *logs.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.readers, reader)
	b.trim()
}
