package logs

import (
	"container/list"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// The kinds of lines that don't push each other out.
const (
	kindApp = iota
	kindPlatform
	kindStaging
	kinds
)

func kindOf(source string) int {
	switch source {
	case "STG":
		return kindStaging
	case "API", "CELL", "HEALTH":
		return kindPlatform
	}
	return kindApp
}

// share is what a kind may have of a bound though the others want more.
func share(kind int, of int64) int64 {
	switch kind {
	case kindStaging:
		return of / 4
	case kindPlatform:
		return of / 8
	}
	return of - of/4 - of/8
}

// What is counted, in bytes: slotBytes for each line that a chunk has room for, and chunkBytes for
// the chunk; nameBytes for the place of a name beside its bytes.
const (
	nameBytes  = 64
	slotBytes  = 120
	chunkBytes = 64
	chunkLines = 68 // fill 8 KiB
	mostNames  = 256
)

// stream is what is kept of one app.
type stream struct {
	app string

	mu      sync.Mutex // guards what follows, but for what ring says
	rings   [kinds]ring
	names   map[string]string // Sources and Instances, so that each is kept once
	base    Position          // before the first line that ever was
	newest  Position
	last    time.Time // of the newest line
	dropped bool      // it is no longer in Memory.apps
	waiting int       // readers that wait for more
	more    chan struct{}
}

// ring keeps lines of one kind, oldest first.
type ring struct {
	s       *stream
	kind    int
	chunks  []*chunk
	skip    int // lines of chunks[0] that are gone
	n       int // lines kept
	bytes   int64
	counted int64         // of bytes, what Memory.total holds; guarded by Memory.mu, too
	at      *list.Element // in Memory.old, guarded by Memory.mu
}

// chunk is a piece of a ring, and the unit in which memory is given back.
type chunk struct {
	lines []Line // below its length it never changes: readers hold parts of it
	text  int64
	bytes int64
	named bool // new names are counted here
}

func newStream(app string, base Position) *stream {
	s := &stream{app: strings.Clone(app), base: base, newest: base}
	for k := range s.rings {
		s.rings[k].s, s.rings[k].kind = s, k
	}
	return s
}

func (s *stream) lines() int {
	n := 0
	for k := range s.rings {
		n += s.rings[k].n
	}
	return n
}

func (s *stream) bytes() int64 {
	var n int64
	for k := range s.rings {
		n += s.rings[k].bytes
	}
	return n
}

// roundUp is what a string of n bytes takes, about.
func roundUp(n int) int64 { return int64(n+15) &^ 15 }

// name returns the one copy of a string, and what it takes if it is new.
func (s *stream) name(v string) (string, int64) {
	if v == "" {
		return v, 0
	}
	if have, ok := s.names[v]; ok {
		return have, 0
	}
	if s.names == nil || len(s.names) >= mostNames {
		s.names = map[string]string{}
	}
	v = strings.Clone(v)
	s.names[v] = v
	return v, nameBytes + roundUp(len(v))
}

// add puts a line into a ring. It takes at most so many bytes.
func (s *stream) add(r *ring, l Line, most, chunkText int64) {
	var source, instance int64
	l.Source, source = s.name(l.Source)
	l.Instance, instance = s.name(l.Instance)
	if room := max(0, most-chunkBytes-slotBytes-source-instance) &^ 15; int64(len(l.Text)) > room {
		l.Text = strings.Clone(l.Text[:room])
	}
	size := source + instance + roundUp(len(l.Text))
	var c *chunk
	if len(r.chunks) > 0 {
		c = r.chunks[len(r.chunks)-1]
	}
	if c == nil || len(c.lines) == cap(c.lines) || c.text+size > chunkText {
		n := min(chunkLines, max(4, r.n), max(1, int(chunkText/slotBytes)))
		if size > chunkText {
			n = 1
		}
		c = &chunk{lines: make([]Line, 0, n), bytes: chunkBytes + int64(n)*slotBytes}
		r.chunks = append(r.chunks, c)
		r.bytes += c.bytes
	}
	c.lines = append(c.lines, l)
	c.named = c.named || source+instance > 0
	c.text += size
	c.bytes += size
	r.bytes += size
	r.n++
}

// bound drops lines until the app's bounds hold, but not the one that latest just got.
func (s *stream) bound(latest *ring, lines int, bytes int64) {
	for s.lines() > lines {
		var worst *ring
		var most int64
		for k := range s.rings {
			r := &s.rings[k]
			if over := int64(r.n) - share(k, int64(lines)); r.n > 0 && (r != latest || r.n > 1) && (worst == nil || over > most) {
				worst, most = r, over
			}
		}
		worst.dropLine()
	}
	for s.bytes() > bytes {
		var worst *ring
		var most int64
		for k := range s.rings {
			r := &s.rings[k]
			if over := r.bytes - share(k, bytes); len(r.chunks) > 0 && (r != latest || len(r.chunks) > 1) && (worst == nil || over > most) {
				worst, most = r, over
			}
		}
		if worst == nil {
			return
		}
		worst.dropChunk()
	}
}

// dropLine forgets the oldest line. Its memory is free when its chunk is.
func (r *ring) dropLine() {
	r.skip++
	r.n--
	if r.skip == len(r.chunks[0].lines) {
		r.dropChunk()
	}
}

// dropChunk forgets the oldest chunk, if there is one.
func (r *ring) dropChunk() {
	if len(r.chunks) == 0 {
		return
	}
	c := r.chunks[0]
	r.n -= len(c.lines) - r.skip
	r.bytes -= c.bytes
	r.skip = 0
	if c.named { // they are counted anew where they come again
		r.s.names = nil
	}
	r.chunks[0] = nil
	r.chunks = r.chunks[1:]
	if len(r.chunks) == 0 {
		r.chunks = nil
	}
}

// kept returns the lines of a chunk that are not gone; they may be read without a lock.
func (r *ring) kept(i int) []Line {
	lines := r.chunks[i].lines
	if i == 0 {
		lines = lines[r.skip:]
	}
	return slices.Clip(lines)
}

// after returns lines after a position, of one chunk; nil: there are none.
func (r *ring) after(from Position) []Line {
	i := sort.Search(len(r.chunks), func(i int) bool {
		lines := r.chunks[i].lines
		return lines[len(lines)-1].Pos > from
	})
	if i == len(r.chunks) {
		return nil
	}
	lines := r.kept(i)
	return lines[sort.Search(len(lines), func(j int) bool { return lines[j].Pos > from }):]
}

// after returns the lines that come next after a position, as far as they stand together;
// nil: there are none. What is missing among them is missing for good.
func (s *stream) after(from Position) []Line {
	if from >= s.newest {
		return nil
	}
	var next []Line
	var others Position // where a line of another kind comes
	for k := range s.rings {
		lines := s.rings[k].after(from)
		if len(lines) == 0 {
			continue
		}
		if next != nil && lines[0].Pos > next[0].Pos {
			lines, next = next, lines
		}
		if next != nil && (others == 0 || next[0].Pos < others) {
			others = next[0].Pos
		}
		next = lines
	}
	if others > 0 {
		next = next[:sort.Search(len(next), func(j int) bool { return next[j].Pos > others })]
	}
	return next
}

// newestParts returns the newest lines, n or all, as parts of chunks, the newest first.
func (r *ring) newestParts(n int) [][]Line {
	var parts [][]Line
	for i := len(r.chunks) - 1; i >= 0 && n > 0; i-- {
		lines := r.kept(i)
		lines = lines[max(0, len(lines)-n):]
		parts, n = append(parts, lines), n-len(lines)
	}
	return parts
}

// newestOf merges parts into the n newest lines, oldest first. There are as many.
func newestOf(parts [kinds][][]Line, n int) []Line {
	out := make([]Line, n)
	for i := n - 1; i >= 0; i-- {
		best := -1
		var pos Position
		for k := range parts {
			if p := parts[k]; len(p) > 0 && p[0][len(p[0])-1].Pos > pos {
				best, pos = k, p[0][len(p[0])-1].Pos
			}
		}
		p := parts[best]
		last := len(p[0]) - 1
		out[i] = p[0][last]
		if p[0] = p[0][:last]; last == 0 {
			parts[best] = p[1:]
		}
	}
	return out
}
