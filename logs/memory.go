package logs

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
)

// MemoryConfig bounds what a Memory keeps. Zero fields mean the defaults.
type MemoryConfig struct {
	// LinesPerApp is how many lines of an app are kept; 0: 20,000.
	LinesPerApp int
	// BytesPerApp is how many bytes the lines of an app may take, with 160 for each line
	// beside its text; 0: 8 MiB. The text of a single line that is longer is cut.
	BytesPerApp int64
	// TotalBytes is the same for all apps together; 0: 256 MiB. Where it is exceeded, the
	// app that keeps most loses the oldest quarter of its lines: a noisy app doesn't push
	// out the lines of a quiet one.
	TotalBytes int64
}

// Memory is a Store that keeps a bounded number of lines for each app, and loses them with
// the process. NewMemory makes one.
type Memory struct {
	conf MemoryConfig

	mu    sync.Mutex
	apps  map[string]*stream
	total int64
	// high is the greatest Position of streams that were dropped: those that come after
	// begin there, so that an old Position still means "before all of this".
	high Position
}

var _ Store = (*Memory)(nil)

// stream is what is kept of one app; guarded by Memory.mu.
type stream struct {
	lines   []Line // lines[:start] are gone; the array moves up when half of it is
	start   int
	bytes   int64
	base    Position // before the first line that ever was
	newest  Position
	waiting int           // readers that wait for more
	more    chan struct{} // closed at the next line or at Drop; nil if nobody waits
}

// NewMemory returns an empty store.
func NewMemory(c MemoryConfig) *Memory {
	if c.LinesPerApp <= 0 {
		c.LinesPerApp = 20_000
	}
	if c.BytesPerApp <= 0 {
		c.BytesPerApp = 8 << 20
	}
	if c.TotalBytes <= 0 {
		c.TotalBytes = 256 << 20
	}
	return &Memory{conf: c, apps: map[string]*stream{}}
}

// lineBytes is what a Line takes beside its text, about.
const lineBytes = 160

func sizeOf(l Line) int64 { return lineBytes + int64(len(l.Text)) }

// Append takes a line in. It never waits for a reader.
func (m *Memory) Append(l Line) {
	if most := min(m.conf.BytesPerApp, m.conf.TotalBytes); sizeOf(l) > most {
		l.Text = strings.Clone(l.Text[:max(0, most-lineBytes)])
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stream(l.App)
	s.newest++
	l.Pos = s.newest
	s.lines = append(s.lines, l)
	m.count(s, sizeOf(l))
	for len(s.lines)-s.start > m.conf.LinesPerApp || s.bytes > m.conf.BytesPerApp && len(s.lines)-s.start > 1 {
		m.lose(s)
	}
	for m.total > m.conf.TotalBytes {
		m.shrink()
	}
	s.wake()
}

func (m *Memory) stream(app string) *stream {
	s := m.apps[app]
	if s == nil {
		s = &stream{base: m.high, newest: m.high}
		m.apps[app] = s
	}
	return s
}

func (m *Memory) count(s *stream, n int64) {
	s.bytes += n
	m.total += n
}

// lose forgets the oldest line.
func (m *Memory) lose(s *stream) {
	m.count(s, -sizeOf(s.lines[s.start]))
	s.lines[s.start] = Line{} // lets go of the text
	s.start++
	if s.start > 64 && s.start > len(s.lines)/2 {
		s.lines = slices.Clone(s.lines[s.start:])
		s.start = 0
	}
}

// shrink takes the oldest quarter from the app that keeps most; as much as that at once, so
// that looking for it costs little for each line.
func (m *Memory) shrink() {
	var most *stream
	for _, s := range m.apps {
		if most == nil || s.bytes > most.bytes {
			most = s
		}
	}
	for goal := most.bytes * 3 / 4; most.bytes > goal && most.start < len(most.lines); {
		m.lose(most)
	}
}

func (s *stream) wake() {
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
}

// after returns some lines after a position, with a line for a gap before them. The slice is
// a copy.
func (s *stream) after(app string, from Position) []Line {
	from = max(from, s.base)
	if from >= s.newest {
		return nil
	}
	kept := s.lines[s.start:]
	first := s.newest - Position(len(kept)) // the newest line that is gone
	var out []Line
	if from < first {
		gap := Line{App: app, Source: "LOGS", Pos: first, Text: "1 line is missing here: it is no longer kept"}
		if n := first - from; n > 1 {
			gap.Text = fmt.Sprintf("%d lines are missing here: they are no longer kept", n)
		}
		if len(kept) > 0 {
			gap.Time = kept[0].Time
		}
		out, from = append(out, gap), first
	}
	kept = kept[from-first:]
	return append(out, kept[:min(len(kept), 256)]...)
}

// Read yields the lines of an app. A reader that is slower than the app finds a gap.
func (m *Memory) Read(ctx context.Context, app string, from Position, follow bool) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		from, end := from, Position(math.MaxUint64)
		if !follow {
			end = m.newest(app)
		}
		for ctx.Err() == nil && from < end {
			lines, s, more := m.next(app, from, follow)
			for _, l := range lines {
				if from >= end || ctx.Err() != nil || !yield(l, nil) {
					return
				}
				from = l.Pos
			}
			if len(lines) > 0 {
				continue
			}
			if s == nil {
				return
			}
			select {
			case <-more:
			case <-ctx.Done():
			}
			m.leave(app, s)
		}
	}
}

func (m *Memory) newest(app string) Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.apps[app]; s != nil {
		return s.newest
	}
	return 0
}

// next returns lines, or else, with follow, the stream to wait for and a channel that closes
// when there are more.
func (m *Memory) next(app string, from Position, follow bool) ([]Line, *stream, chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.apps[app]
	if s != nil {
		if lines := s.after(app, from); len(lines) > 0 {
			return lines, nil, nil
		}
	}
	if !follow {
		return nil, nil, nil
	}
	if s == nil {
		s = m.stream(app)
	}
	if s.more == nil {
		s.more = make(chan struct{})
	}
	s.waiting++
	return nil, s, s.more
}

// leave ends the waiting that next began, and forgets an app that never said anything.
func (m *Memory) leave(app string, s *stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.waiting--
	if s.waiting == 0 && s.newest == s.base && m.apps[app] == s {
		delete(m.apps, app)
	}
}

// Tail returns the newest lines that are kept.
func (m *Memory) Tail(app string, n int) []Line {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.apps[app]
	if s == nil || n <= 0 {
		return nil
	}
	kept := s.lines[s.start:]
	return slices.Clone(kept[len(kept)-min(n, len(kept)):])
}

// Drop forgets the lines of an app. Readers that follow go on with the lines that come.
func (m *Memory) Drop(app string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.apps[app]
	if s == nil {
		return
	}
	m.count(s, -s.bytes)
	m.high = max(m.high, s.newest)
	delete(m.apps, app)
	s.wake()
}
