package cell

import (
	"bytes"
	"sync"
	"time"
	"unicode/utf8"
)

// lineWriter cuts a stream into lines, as Cloud Foundry does: a line ends with a line feed, a
// carriage return (what draws progress bars is seen as it comes) or both. A line that is longer
// than 61,440 bytes goes out in pieces of at most that, cut between two characters where it is
// UTF-8. What a carriage return alone would end is left out if it is empty. All other bytes stay
// as they are.
type lineWriter struct {
	mu   sync.Mutex
	part []byte
	at   time.Time // when the newest came; zero: now
	cr   crState
	add  func(at time.Time, text string)
}

// crState is what a line feed means after a carriage return.
type crState int

const (
	crNone  crState = iota // the last byte was none
	crEnded                // it ended a line: the line feed belongs to it
	crBlank                // it was all there was: with a line feed it is a blank line
)

var _ Stamper = (*lineWriter)(nil)

func (w *lineWriter) Write(p []byte) (int, error) { return w.Stamp(time.Time{}, p) }

// Stamp takes output that came at a time; zero: now.
func (w *lineWriter) Stamp(at time.Time, p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = at
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		for cr := bytes.IndexByte(line, '\r'); cr >= 0; cr = bytes.IndexByte(line, '\r') {
			w.hold(line[:cr])
			w.end('\r')
			line = line[cr+1:]
		}
		w.hold(line)
		if ended {
			w.end('\n')
		}
		p = rest
	}
	return n, nil
}

// end ends a line at a byte, which is a line feed or a carriage return.
func (w *lineWriter) end(with byte) {
	before := w.cr
	w.cr = crNone
	empty := len(w.part) == 0
	switch {
	case with == '\n' && empty && before == crEnded:
	case with == '\r' && empty:
		w.cr = crBlank
	case with == '\r':
		w.cr = crEnded
		w.out()
	default:
		w.out()
	}
}

func (w *lineWriter) out() {
	w.add(w.at, string(w.part))
	w.part = w.part[:0]
}

// hold keeps the beginning of a line.
func (w *lineWriter) hold(p []byte) {
	if len(p) == 0 {
		return
	}
	w.cr = crNone
	for len(w.part)+len(p) > maxLine {
		n := maxLine - len(w.part)
		w.part, p = append(w.part, p[:n]...), p[n:]
		cut := whole(w.part, p[0])
		w.add(w.at, string(w.part[:cut]))
		w.part = w.part[:copy(w.part, w.part[cut:])]
	}
	w.part = append(w.part, p...)
}

// whole returns where to cut b, which goes on with next, so that no character is torn.
func whole(b []byte, next byte) int {
	if utf8.RuneStart(next) {
		return len(b)
	}
	for i := len(b) - 1; i >= max(0, len(b)-utf8.UTFMax+1); i-- {
		if !utf8.RuneStart(b[i]) {
			continue
		}
		if b[i] >= utf8.RuneSelf && !utf8.FullRune(b[i:]) {
			return i
		}
		break
	}
	return len(b)
}

// flush gives out a last line that has no line feed.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.part) > 0 {
		w.out()
	}
	w.cr = crNone
}
