package logs

import (
	"context"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestBoundsHold holds, over random lines and drops, that what is kept stays within the
// bounds, is counted rightly, and that readers see each line or a gap.
func TestBoundsHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := NewMemory(MemoryConfig{LinesPerApp: 5, BytesPerApp: 1500, TotalBytes: 3000})
		app := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		read := map[string]Position{}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			a := app.Draw(t, "app")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				m.Drop(a)
			case 1:
				for l := range m.Read(context.Background(), a, read[a], false) {
					if l.Pos <= read[a] {
						t.Fatalf("position %d after %d", l.Pos, read[a])
					}
					read[a] = l.Pos
				}
			default:
				m.Append(Line{App: a, Text: strings.Repeat("x", rapid.IntRange(0, 2000).Draw(t, "length"))})
			}
			var total int64
			for name, s := range m.apps {
				var bytes int64
				for _, l := range s.lines[s.start:] {
					bytes += sizeOf(l)
				}
				n := len(s.lines) - s.start
				if bytes != s.bytes || n > 5 || bytes > 1500 {
					t.Fatalf("%s: %d lines, %d bytes, counted %d", name, n, bytes, s.bytes)
				}
				if n > 0 && s.lines[len(s.lines)-1].Pos != s.newest {
					t.Fatalf("%s: newest is %d, last line %d", name, s.newest, s.lines[len(s.lines)-1].Pos)
				}
				total += bytes
			}
			if total != m.total || total > 3000 {
				t.Fatalf("%d bytes, counted %d", total, m.total)
			}
		}
	})
}
