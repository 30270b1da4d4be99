package cell

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// cutLines gives data to a lineWriter in parts of n bytes.
func cutLines(data []byte, n int) []string {
	var got []string
	w := &lineWriter{add: func(_ time.Time, text string) { got = append(got, text) }}
	for part := range slices.Chunk(data, n) {
		_, _ = w.Write(part)
	}
	w.flush()
	return got
}

func TestLineEnds(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxLine)
	euro := strings.Repeat("€", maxLine/3) // fills a piece exactly
	torn := "\xf0\x9f\x98" + strings.Repeat("y", 10)
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"lines", "a\nb\n", []string{"a", "b"}},
		{"no final newline", "a\nb", []string{"a", "b"}},
		{"blank lines", "\n\na\n", []string{"", "", "a"}},
		{"CRLF", "a\r\nb\r\n\r\nc", []string{"a", "b", "", "c"}},
		{"progress bar", "\r10%\r20%\rdone\n", []string{"10%", "20%", "done"}},
		{"binary", "\x00\xff\xfe\n\x80", []string{"\x00\xff\xfe", "\x80"}},
		{"as long as it may be", long + "\n", []string{long}},
		{"a byte too long", long + "y\n", []string{long, "y"}},
		{"two pieces", long + long + "\n", []string{long, long}},
		{"two pieces, CRLF", long + long + "\r\nb\n", []string{long, long, "b"}},
		{"a blank line after a long one", long + "y\n\nb\n", []string{long, "y", "", "b"}},
		{"characters are whole", "a" + euro + "\n", []string{"a" + euro[:maxLine-3], "€"}},
		{"characters that fit", euro + euro, []string{euro, euro}},
		{"torn characters are bytes", long[:maxLine-3] + torn, []string{long[:maxLine-3] + torn[:3], torn[3:]}},
		{"bytes that look like the middle of one", strings.Repeat("\x80", maxLine+5), []string{strings.Repeat("\x80", maxLine), strings.Repeat("\x80", 5)}},
	} {
		for _, n := range []int{1, 2, 1000, 1 << 20} {
			if got := cutLines([]byte(c.in), n); !slices.Equal(got, c.want) {
				t.Errorf("%s, %d at a time: %d lines, want %d", c.name, n, len(got), len(c.want))
				for i := range min(len(got), len(c.want)) {
					if got[i] != c.want[i] {
						t.Errorf("line %d has %d bytes and ends with %q, want %d and %q", i, len(got[i]), end(got[i]), len(c.want[i]), end(c.want[i]))
					}
				}
			}
		}
	}
}

func end(s string) string { return s[max(0, len(s)-20):] }

// reference cuts what has no long lines.
func reference(data string) []string {
	var all []string
	lines := strings.Split(strings.ReplaceAll(data, "\r\n", "\n"), "\n")
	for i, line := range lines {
		parts := strings.Split(line, "\r")
		for j, part := range parts {
			ended := i < len(lines)-1 && j == len(parts)-1
			if part != "" || ended {
				all = append(all, part)
			}
		}
	}
	return all
}

// FuzzLines holds that no byte is lost, that it does not matter in which parts they come, and
// that characters stay whole.
func FuzzLines(f *testing.F) {
	for _, s := range []string{"", "a\nb", "a\r\n\r\r\n", "\xff\x00\n", "€€€\r"} {
		f.Add([]byte(s), uint(3), uint(0))
		f.Add([]byte(s), uint(1), uint(20_001))
	}
	f.Fuzz(func(t *testing.T, data []byte, n, repeat uint) {
		data = bytes.Repeat(data, 1+int(repeat%(200_000/uint(len(data)+1))))
		got := cutLines(data, 1+int(n%5000))
		if again := cutLines(data, len(data)+1); !slices.Equal(got, again) {
			t.Fatalf("%d lines in parts, %d at once", len(got), len(again))
		}
		long := false
		for _, l := range got {
			long = long || len(l) > maxLine-utf8.UTFMax
			if len(l) > maxLine {
				t.Fatalf("a line of %d bytes", len(l))
			}
			if utf8.Valid(data) && !utf8.ValidString(l) {
				t.Fatal("a character is torn")
			}
		}
		if !long && !slices.Equal(got, reference(string(data))) {
			t.Fatalf("lines are %q, want %q", got, reference(string(data)))
		}
		text := strings.NewReplacer("\r", "", "\n", "").Replace(string(data))
		if strings.Join(got, "") != text {
			t.Fatal("bytes are lost")
		}
	})
}

func BenchmarkLineWriter(b *testing.B) {
	n := 0
	w := &lineWriter{add: func(time.Time, string) { n++ }}
	p := bytes.Repeat([]byte("GET /some/path HTTP/1.1 200 12 ms from 10.0.0.1 in the middle of the night\n"), 400)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = w.Write(p)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "lines/s")
}
