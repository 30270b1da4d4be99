package cell

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// maxLine is where a line that is longer is split, in bytes.
const maxLine = 64 << 10

// lineCost is what a line takes apart from its text.
const lineCost = 128

// logBuffer keeps lines of one work: the newest maxLines, and older ones that were not read
// yet, all in all at most maxBytes. So a reader that is slow, or comes late, loses nothing to a burst. The
// Position of a line is its number, from 1.
type logBuffer struct {
	maxLines, maxBytes int

	mu      sync.Mutex // guards what follows
	lines   []logs.Line
	head    int // index of the oldest kept line: those before are dropped in bulk
	bytes   int
	last    logs.Position
	taken   logs.Position               // the furthest that was ever read
	readers map[*logs.Position]struct{} // how far those are that read now
	closed  bool
	wake    chan struct{} // not nil while a reader waits; closed at the next line
}

func (b *logBuffer) add(l logs.Line) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.last++
	l.Pos = b.last
	b.lines = append(b.lines, l)
	b.bytes += len(l.Text) + lineCost
	b.trim()
	b.signal()
}

// trim drops lines; b.mu is held.
func (b *logBuffer) trim() {
	read := b.taken
	for r := range b.readers {
		read = min(read, *r)
	}
	kept := len(b.lines) - b.head
	oldest := b.last - logs.Position(kept) + 1
	for ; kept > 1 && (b.bytes > b.maxBytes || kept > b.maxLines && oldest <= read); kept-- {
		b.bytes -= len(b.lines[b.head].Text) + lineCost
		b.lines[b.head] = logs.Line{}
		b.head++
		oldest++
	}
	if b.head > 1024 && b.head > len(b.lines)/2 {
		b.lines = append([]logs.Line(nil), b.lines[b.head:]...)
		b.head = 0
	}
}

func (b *logBuffer) signal() {
	if b.wake != nil {
		close(b.wake)
		b.wake = nil
	}
}

// close says that no line follows.
func (b *logBuffer) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.signal()
}

// tail returns up to n of the newest texts, each cut at 4 KiB.
func (b *logBuffer) tail(n int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := b.lines[b.head:]
	kept = kept[max(0, len(kept)-n):]
	all := make([]string, len(kept))
	for i, l := range kept {
		all[i] = l.Text[:min(len(l.Text), 4096)]
	}
	return all
}

// read yields what comes after from, to the end.
func (b *logBuffer) read(ctx context.Context, from logs.Position, yield func(logs.Line, error) bool) {
	reader := new(logs.Position)
	defer b.leave(reader)
	for {
		batch, lost, wake := b.after(reader, from)
		if lost > 0 {
			from += logs.Position(lost)
			at := time.Time{}
			var app string
			if len(batch) > 0 {
				at, app = batch[0].Time, batch[0].App
			}
			if !yield(logs.Line{App: app, Source: "LOGS", Time: at, Text: fmt.Sprintf("%d lines are missing here: they are no longer kept", lost), Pos: from}, nil) {
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
	first := b.last - logs.Position(len(b.lines)-b.head) // Pos before the oldest kept
	if from < first {
		lost = uint64(first - from)
		from = first
	}
	if from < b.last {
		kept := b.lines[b.head+int(from-first):]
		return append([]logs.Line(nil), kept[:min(len(kept), 512)]...), lost, nil
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

// lineWriter cuts a stream into lines.
type lineWriter struct {
	mu   sync.Mutex
	part []byte
	at   time.Time // when the newest came; zero: now
	add  func(at time.Time, text string)
}

var _ Stamper = (*lineWriter)(nil)

func (w *lineWriter) Write(p []byte) (int, error) { return w.Stamp(time.Time{}, p) }

func (w *lineWriter) Stamp(at time.Time, p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = at
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.hold(p)
			break
		}
		w.hold(p[:i])
		w.add(w.at, string(w.part))
		w.part = w.part[:0]
		p = p[i+1:]
	}
	return n, nil
}

// hold keeps the beginning of a line; what is longer than maxLine goes out in pieces.
func (w *lineWriter) hold(p []byte) {
	for len(w.part)+len(p) > maxLine {
		n := maxLine - len(w.part)
		w.add(w.at, string(append(w.part, p[:n]...)))
		w.part, p = w.part[:0], p[n:]
	}
	w.part = append(w.part, p...)
}

// flush gives out a last line that has no line feed.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.part) > 0 {
		w.add(w.at, string(w.part))
		w.part = w.part[:0]
	}
}
