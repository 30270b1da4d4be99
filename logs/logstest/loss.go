package logstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/dewpoint-go/dewpoint/logs"
)

// RunFaults holds a Store whose keeping fails to its contract: what is lost is told to who
// reads, and a reader that failed can go on. The Store that open returns must ask fault before
// "append" and "read" of an app, and fail with what it returns.
func RunFaults(t *testing.T, open func(t *testing.T, fault func(op, app string) error) logs.Store) {
	broken := errors.New("broken")
	var failing atomic.Value
	failing.Store("")
	s := open(t, func(op, app string) error {
		if failing.Load() == op && app == "a" {
			return broken
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	say(s, "a", 0, 2)
	lines := follow(ctx, t, s, "a", 0)
	expect(t, lines, "0", "1")
	failing.Store("append")
	say(s, "a", 2, 3)
	failing.Store("")
	say(s, "a", 3, 4)
	if got := <-lines; got == "3" {
		t.Error("a line was lost, and who follows is not told so")
	}
	expect(t, lines, "3")
	all := read(t, s, "a", 0)
	if len(all) != 4 || all[2].Source != "LOGS" || all[2].Missing != 1 {
		t.Errorf("lines are %q, want a gap of one line in the middle", texts(all))
	}
	wantTexts(t, s.Tail("a", 2), "1", "3")
	failing.Store("read")
	say(s, "b", 0, 1)
	var got error
	n := 0
	for l, err := range s.Read(t.Context(), "a", 0, false) {
		if n++; err != nil {
			got = err
			continue
		}
		t.Errorf("line %q comes though reading fails", l.Text)
	}
	if !errors.Is(got, broken) || n != 1 {
		t.Errorf("%d lines, the error is %v; want one that wraps %v, and nothing after it", n, got, broken)
	}
	wantTexts(t, read(t, s, "b", 0), "0")
	failing.Store("")
	wantTexts(t, read(t, s, "a", all[2].Pos), "3")
}

// testGaps holds that, whatever is no longer kept, lines and gaps together are all that was said,
// and that reading goes on from any of them.
func testGaps(t *testing.T, s logs.Store) {
	const last = 30_000
	say(s, "a", 0, last)
	var all []logs.Line
	next := 0
	for _, l := range read(t, s, "a", 0) {
		if l.Missing > 0 {
			if l.Source != "LOGS" || l.App != "a" || l.Text == "" || l.Pos == 0 {
				t.Errorf("a gap is %+v: it wants Source LOGS, the App, a text and a Pos", l)
			}
			next += int(l.Missing)
		} else {
			if l.Text != fmt.Sprint(next) {
				t.Fatalf("line %q comes where %d is next", l.Text, next)
			}
			next++
		}
		all = append(all, l)
	}
	if next != last {
		t.Fatalf("lines and gaps make %d, %d were said", next, last)
	}
	for _, i := range []int{0, 1, len(all) / 2, len(all) - 2} {
		if rest := read(t, s, "a", all[i].Pos); !slices.Equal(texts(rest), texts(all[i+1:])) {
			t.Errorf("%d lines after line %d, want %d", len(rest), i, len(all)-i-1)
		}
	}
}

// testHanging holds that a reader that hangs holds nobody up, and is told what it lost.
func testHanging(t *testing.T, s logs.Store) {
	say(s, "a", 0, 1)
	const last = 40_000
	next, said := 0, false
	for l, err := range s.Read(t.Context(), "a", 0, true) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if l.Source == "LOGS" {
			next += int(l.Missing)
			continue
		}
		if l.Text != fmt.Sprint(next) {
			t.Fatalf("line %q comes where %d was next, and no line says that some are missing", l.Text, next)
		}
		next++
		if !said { // the reader hangs in here; if that held Append up, this would never end
			say(s, "a", 1, last+1)
			say(s, "b", 0, 1)
			wantTexts(t, read(t, s, "b", 0), "0")
			wantTexts(t, s.Tail("a", 1), fmt.Sprint(last))
			said = true
		}
		if next > last {
			break
		}
	}
}

// testStaging holds that what staging said is there after a flood of the app's own lines.
func testStaging(t *testing.T, s logs.Store) {
	const staged = 200
	for i := range staged {
		s.Append(logs.Line{App: "a", Source: "STG", Text: fmt.Sprint(i)})
	}
	for i := range 60_000 {
		s.Append(logs.Line{App: "a", Source: "APP/PROC/WEB", Text: fmt.Sprint(i)})
	}
	next := 0
	for _, l := range read(t, s, "a", 0) {
		if l.Source == "STG" && l.Text == fmt.Sprint(next) {
			next++
		}
	}
	if next != staged {
		t.Errorf("%d lines of staging are there in order, want %d", next, staged)
	}
}

// testForeign holds that who comes with a Position of a stream that is gone waits for nothing.
func testForeign(t *testing.T, s logs.Store) {
	const foreign = logs.Position(1) << 62
	wantTexts(t, read(t, s, "a", foreign))
	say(s, "a", 0, 3)
	wantTexts(t, read(t, s, "a", foreign), "0", "1", "2")
	wantTexts(t, read(t, s, "a", s.Tail("a", 1)[0].Pos))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := follow(ctx, t, s, "a", foreign)
	expect(t, lines, "0", "1", "2")
	say(s, "a", 3, 4)
	expect(t, lines, "3")
}

// testSources holds that lines of all sources come in the order in which they were said.
func testSources(t *testing.T, s logs.Store) {
	sources := []string{"API", "STG", "STG", "CELL", "APP/PROC/WEB", "RTR", "APP/PROC/WEB", "HEALTH", "LOGS", ""}
	for i := range 500 {
		s.Append(logs.Line{App: "a", Source: sources[i*i%len(sources)], Text: fmt.Sprint(i)})
	}
	all := read(t, s, "a", 0)
	if len(all) != 500 {
		t.Fatalf("%d lines, want 500", len(all))
	}
	for i, l := range all {
		if l.Text != fmt.Sprint(i) || l.Source != sources[i*i%len(sources)] {
			t.Fatalf("line %d is %q of %q", i, l.Text, l.Source)
		}
	}
	for _, n := range []int{1, 7, 499, 500} {
		if tail := s.Tail("a", n); !slices.Equal(texts(tail), texts(all[500-n:])) {
			t.Errorf("Tail(%d) is %q", n, texts(tail))
		}
	}
}

// testLong holds that a line as long as the cells make them comes back with every byte.
func testLong(t *testing.T, s logs.Store) {
	text := make([]byte, 64<<10)
	for i := range text {
		text[i] = byte(i * 7)
	}
	s.Append(logs.Line{App: "a", Text: string(text)})
	if all := read(t, s, "a", 0); len(all) != 1 || all[0].Text != string(text) {
		t.Errorf("a line of %d bytes does not come back as it was", len(text))
	}
}
