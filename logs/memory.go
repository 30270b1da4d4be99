package logs

import (
	"container/list"
	"context"
	"fmt"
	"iter"
	"math"
	"sync"
	"time"
)

// MemoryConfig bounds what a Memory keeps. Zero fields mean the defaults.
//
// Of each bound a quarter is set aside for the lines of staging (Source "STG") and an eighth
// for what the platform says ("API", "CELL", "HEALTH"): an app that floods its log pushes out
// neither, so that a staging can be read as long as its app is there. What one kind leaves
// free is for the others.
type MemoryConfig struct {
	// LinesPerApp is how many lines of an app are kept; 0: 20,000.
	LinesPerApp int
	// BytesPerApp is how much memory the lines of an app may take: their texts and names,
	// and 120 bytes for each line. 0: 8 MiB, or an eighth of TotalBytes if that is less. A text that
	// alone is longer is cut.
	BytesPerApp int64
	// TotalBytes is the same for all apps together; 0: 256 MiB. Where it is exceeded, the
	// app that has said nothing for the longest time loses its oldest lines. Beside it each app
	// takes about 1 KiB until Drop, and each reader holds at most 32 KiB, or one longer line.
	TotalBytes int64
	// Fault, if set, is asked before "append" and "read" of an app, to try what becomes of a
	// program whose logs are broken. An error loses the line, or is what Read yields.
	Fault func(op, app string) error
}

// Memory is a Store that keeps a bounded number of lines for each app, and loses them with
// the process. NewMemory makes one.
//
// It keeps the strings of a Line as they are given: who cuts them out of a larger text that
// shall not stay clones them.
type Memory struct {
	conf  MemoryConfig
	chunk int64 // bytes of text in a chunk

	// mu guards what follows. It is taken with a stream's mu held, not the other way round, and
	// never for long.
	mu    sync.Mutex
	apps  map[string]*stream
	total [kinds]int64
	old   [kinds]*list.List // rings with lines, that written last in front
	// high is the greatest Position of streams that were dropped: those that come after
	// begin there, so that an old Position still means "before all of this".
	high Position
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory(c MemoryConfig) *Memory {
	if c.LinesPerApp <= 0 {
		c.LinesPerApp = 20_000
	}
	if c.TotalBytes <= 0 {
		c.TotalBytes = 256 << 20
	}
	if c.BytesPerApp <= 0 {
		c.BytesPerApp = min(8<<20, c.TotalBytes/8)
	}
	m := &Memory{conf: c, apps: map[string]*stream{}, chunk: min(16<<10, c.BytesPerApp/16, c.TotalBytes/16)}
	for k := range m.old {
		m.old[k] = list.New()
	}
	return m
}

func (m *Memory) fault(op, app string) error {
	if m.conf.Fault == nil {
		return nil
	}
	return m.conf.Fault(op, app)
}

// Append takes a line in. It never waits for a reader.
func (m *Memory) Append(l Line) {
	lost := m.fault("append", l.App) != nil
	s := m.lock(l.App, true)
	s.newest++
	s.last = l.Time
	l.Pos, l.App = s.newest, s.app
	var r *ring
	if !lost {
		r = &s.rings[kindOf(l.Source)]
		s.add(r, l, min(m.conf.BytesPerApp, m.conf.TotalBytes), m.chunk)
		s.bound(r, m.conf.LinesPerApp, m.conf.BytesPerApp)
	}
	over := m.account(s, r)
	more := s.more
	s.more = nil
	s.mu.Unlock()
	if more != nil { // outside: waking a thousand readers takes a while
		close(more)
	}
	if over {
		m.shrink(r)
	}
}

// lock returns the stream of an app with its mu held; nil if there is none and none shall be made.
func (m *Memory) lock(app string, create bool) *stream {
	for {
		m.mu.Lock()
		s := m.apps[app]
		if s == nil && create {
			s = newStream(app, m.high)
			m.apps[app] = s
		}
		m.mu.Unlock()
		if s == nil {
			return nil
		}
		s.mu.Lock()
		if !s.dropped {
			return s
		}
		s.mu.Unlock()
	}
}

// account brings the totals up to date with a stream whose mu is held, and makes r, if not
// nil, the ring that was written last. It tells whether too much is kept.
func (m *Memory) account(s *stream, r *ring) (over bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all int64
	for k := range s.rings {
		q := &s.rings[k]
		m.total[k] += q.bytes - q.counted
		q.counted = q.bytes
		all += m.total[k]
		switch {
		case len(q.chunks) == 0 && q.at != nil:
			m.old[k].Remove(q.at)
			q.at = nil
		case len(q.chunks) > 0 && q.at == nil:
			q.at = m.old[k].PushFront(q)
		case q == r:
			m.old[k].MoveToFront(q.at)
		}
	}
	return all > m.conf.TotalBytes
}

// shrink drops lines until the total holds, but not the newest line of keep.
func (m *Memory) shrink(keep *ring) {
	var spare [kinds]bool
	for {
		r := m.victim(&spare)
		if r == nil {
			return
		}
		r.s.mu.Lock()
		switch {
		case r.s.dropped:
		case r == keep && len(r.chunks) == 1:
			spare[r.kind] = true
		default:
			r.dropChunk()
			m.account(r.s, nil)
		}
		r.s.mu.Unlock()
	}
}

// victim returns the ring that must lose lines next; nil: none must.
func (m *Memory) victim(spare *[kinds]bool) *ring {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all int64
	worst, most := -1, int64(math.MinInt64)
	for k := range kinds {
		all += m.total[k]
		if over := m.total[k] - share(k, m.conf.TotalBytes); over > most && !spare[k] && m.old[k].Len() > 0 {
			worst, most = k, over
		}
	}
	if all <= m.conf.TotalBytes || worst < 0 {
		return nil
	}
	return m.old[worst].Back().Value.(*ring)
}

// Read yields the lines of an app. A reader that is slower than the app finds a gap.
func (m *Memory) Read(ctx context.Context, app string, from Position, follow bool) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		from, end := from, m.newest(app)
		if from > end {
			from = 0
		}
		if follow {
			end = math.MaxUint64
		}
		for from < end && ctx.Err() == nil {
			if err := m.fault("read", app); err != nil {
				yield(Line{}, fmt.Errorf("read the lines of app %q: %w", app, err))
				return
			}
			v := m.next(app, from, follow)
			from = v.from
			for _, l := range v.lines {
				if n := l.Pos - 1 - from; n > 0 {
					from = l.Pos - 1
					if !yield(Gap(app, uint64(n), from, l.Time), nil) {
						return
					}
				}
				if from >= end || ctx.Err() != nil || !yield(l, nil) {
					return
				}
				from = l.Pos
			}
			switch {
			case v.lost > 0:
				from += v.lost
				if !yield(Gap(app, uint64(v.lost), from, v.last), nil) {
					return
				}
			case v.s != nil:
				select {
				case <-v.more:
				case <-ctx.Done():
				}
				m.leave(v.s)
			case len(v.lines) == 0:
				return
			}
		}
	}
}

func (m *Memory) newest(app string) Position {
	s := m.lock(app, false)
	if s == nil {
		return 0
	}
	defer s.mu.Unlock()
	return s.newest
}

// view is what a reader is given at once.
type view struct {
	from  Position // where it reads on
	lines []Line   // of one chunk: they never change
	lost  Position // how many are missing at the end of the stream, if there are no lines
	last  time.Time
	// s and more, if not nil, are the stream to wait for and what closes when there is more.
	s    *stream
	more chan struct{}
}

// next returns what follows from; the lock is held for a look-up, not for the reading.
func (m *Memory) next(app string, from Position, wait bool) view {
	s := m.lock(app, wait)
	if s == nil {
		return view{from: from}
	}
	defer s.mu.Unlock()
	v := view{from: max(from, s.base)}
	if v.lines = s.after(v.from); v.lines != nil || v.from < s.newest {
		if v.lines == nil {
			v.lost, v.last = s.newest-v.from, s.last
		}
		return v
	}
	if wait {
		if s.more == nil {
			s.more = make(chan struct{})
		}
		s.waiting++
		v.s, v.more = s, s.more
	}
	return v
}

// leave ends the waiting that next began, and forgets an app that never said anything.
func (m *Memory) leave(s *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	if s.waiting == 0 && s.newest == s.base && !s.dropped {
		m.remove(s)
	}
}

// remove forgets a stream, whose mu is held.
func (m *Memory) remove(s *stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.dropped = true
	delete(m.apps, s.app)
	m.high = max(m.high, s.newest)
	for k := range s.rings {
		r := &s.rings[k]
		m.total[k] -= r.counted
		if r.at != nil {
			m.old[k].Remove(r.at)
		}
		s.rings[k] = ring{s: s, kind: k}
	}
}

// Tail returns the newest lines that are kept.
func (m *Memory) Tail(app string, n int) []Line {
	s := m.lock(app, false)
	if s == nil {
		return nil
	}
	n = max(0, min(n, s.lines()))
	var parts [kinds][][]Line // newest first
	for k := range s.rings {
		parts[k] = s.rings[k].newestParts(n)
	}
	s.mu.Unlock()
	if n == 0 {
		return nil
	}
	return newestOf(parts, n)
}

// Drop forgets the lines of an app. Readers that follow go on with the lines that come.
func (m *Memory) Drop(app string) {
	s := m.lock(app, false)
	if s == nil {
		return
	}
	m.remove(s)
	more := s.more
	s.more = nil
	s.mu.Unlock()
	if more != nil {
		close(more)
	}
}
