package logs

import (
	"context"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// TestSlot holds that what is counted for a line is what it takes.
func TestSlot(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(Line{}); n != slotBytes {
		t.Errorf("a Line has %d bytes, %d are counted", n, slotBytes)
	}
	if n := unsafe.Sizeof(chunk{}); n > chunkBytes {
		t.Errorf("a chunk has %d bytes, %d are counted", n, chunkBytes)
	}
}

// TestBoundsHold holds, over random lines of all kinds and drops, that what is kept stays
// within the bounds, is counted rightly, and that readers see each line or a gap with the right number.
func TestBoundsHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory(MemoryConfig{LinesPerApp: 5, BytesPerApp: 1500, TotalBytes: 3000})
		app := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		source := rapid.SampledFrom([]string{"", "STG", "CELL", "API", "APP/PROC/WEB"})
		read := map[string]Position{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			a := app.Draw(t, "app")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				m.Drop(a)
				read[a] = m.high
			case 1:
				readAll(t, m, a, read)
			default:
				m.Append(Line{App: a, Source: source.Draw(t, "source"), Text: strings.Repeat("x", rapid.IntRange(0, 2000).Draw(t, "length"))})
				if tail := m.Tail(a, 1); len(tail) != 1 || tail[0].Pos != m.apps[a].newest {
					t.Fatalf("the newest line is not kept: %v", tail)
				}
			}
			checkCounts(t, m)
		}
	})
}

// readAll reads what came since the last time: it is whole but for what gaps count.
func readAll(t *rapid.T, m *Memory, app string, read map[string]Position) {
	s := m.apps[app]
	if s == nil {
		return
	}
	read[app] = max(read[app], s.base)
	for l := range m.Read(context.Background(), app, read[app], false) {
		if l.Pos != read[app]+1+Position(max(1, l.Missing))-1 {
			t.Fatalf("position %d after %d, %d are said to be missing", l.Pos, read[app], l.Missing)
		}
		read[app] = l.Pos
	}
	if read[app] != s.newest {
		t.Fatalf("read to %d of %d", read[app], s.newest)
	}
}

func checkCounts(t *rapid.T, m *Memory) {
	var total [kinds]int64
	listed := 0
	for name, s := range m.apps {
		var all int64
		n := 0
		for k := range s.rings {
			r := &s.rings[k]
			var bytes int64
			lines := -r.skip
			var last Position
			for _, c := range r.chunks {
				size := int64(chunkBytes + cap(c.lines)*slotBytes)
				for _, l := range c.lines {
					size += roundUp(len(l.Text))
					if l.Pos <= last || kindOf(l.Source) != k {
						t.Fatalf("%s: %+v after %d", name, l, last)
					}
					last = l.Pos
				}
				bytes += c.bytes
				lines += len(c.lines)
				if c.bytes < size {
					t.Fatalf("%s: a chunk of %d bytes is counted as %d", name, size, c.bytes)
				}
			}
			if bytes != r.bytes || bytes != r.counted || lines != r.n || (r.at != nil) != (len(r.chunks) > 0) {
				t.Fatalf("%s: %d lines, %d bytes, counted %d, %d and %d", name, lines, bytes, r.n, r.bytes, r.counted)
			}
			if r.at != nil {
				listed++
			}
			total[k] += bytes
			all += bytes
			n += lines
		}
		if n > 5 || all > 1500 {
			t.Fatalf("%s: %d lines, %d bytes", name, n, all)
		}
	}
	for k := range m.old {
		listed -= m.old[k].Len()
	}
	if total != m.total || total[0]+total[1]+total[2] > 3000 || listed != 0 {
		t.Fatalf("%d bytes, counted %d; %d rings too few are listed", total, m.total, listed)
	}
}
