// Package logstest is the conformance suite of logs.Store.
package logstest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// Run holds a logs.Store to its contract. open returns an empty Store that keeps at least
// 1,000 lines of 100 bytes for each of 10 apps; it registers its own clean-up.
func Run(t *testing.T, open func(t *testing.T) logs.Store) {
	cases := []struct {
		name string
		test func(*testing.T, logs.Store)
	}{
		{"NothingYet", testNothing},
		{"LinesComeBackAsTheyAre", testFields},
		{"OrderAndPositions", testOrder},
		{"GoesOnAfterAPosition", testResume},
		{"AppsAreApart", testApart},
		{"FollowWaitsForMore", testFollow},
		{"FollowOfAnAppThatIsSilentYet", testFollowSilent},
		{"EndedContextIsTheEnd", testEnded},
		{"ReaderMayStop", testStop},
		{"ReadEndsThoughTheAppGoesOn", testReadEnds},
		{"Tail", testTail},
		{"Drop", testDrop},
		{"HangingReaderLosesLinesNobodyElse", testHanging},
		{"ManyCallers", testMany},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func say(s logs.Store, app string, from, to int) {
	for i := from; i < to; i++ {
		s.Append(logs.Line{App: app, Text: fmt.Sprint(i)})
	}
}

func read(t *testing.T, s logs.Store, app string, from logs.Position) []logs.Line {
	t.Helper()
	var all []logs.Line
	for l, err := range s.Read(t.Context(), app, from, false) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		all = append(all, l)
	}
	return all
}

func texts(ls []logs.Line) []string {
	var all []string
	for _, l := range ls {
		all = append(all, l.Text)
	}
	return all
}

func wantTexts(t *testing.T, got []logs.Line, want ...string) {
	t.Helper()
	if !slices.Equal(texts(got), want) {
		t.Errorf("lines are %q, want %q", texts(got), want)
	}
}

func testNothing(t *testing.T, s logs.Store) {
	wantTexts(t, read(t, s, "a", 0))
	wantTexts(t, s.Tail("a", 10))
	s.Drop("a")
}

func testFields(t *testing.T, s logs.Store) {
	want := logs.Line{
		App: "a", Source: "APP/PROC/WEB", Index: 3, Instance: "i", Stderr: true,
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Text: "any\x00bytes\xff and \u00e9",
	}
	s.Append(want)
	s.Append(logs.Line{App: "a"})
	got := read(t, s, "a", 0)
	if len(got) != 2 {
		t.Fatalf("%d lines, want 2", len(got))
	}
	if got[0].Pos == 0 {
		t.Error("the Store did not set Pos")
	}
	got[0].Pos = 0
	if !got[0].Time.Equal(want.Time) {
		t.Errorf("Time is %v, want %v", got[0].Time, want.Time)
	}
	got[0].Time = want.Time
	if got[0] != want {
		t.Errorf("line is %+v, want %+v", got[0], want)
	}
}

func testOrder(t *testing.T, s logs.Store) {
	say(s, "a", 0, 1000)
	all := read(t, s, "a", 0)
	if len(all) != 1000 {
		t.Fatalf("%d lines, want 1000", len(all))
	}
	for i, l := range all {
		if l.Text != fmt.Sprint(i) {
			t.Fatalf("line %d is %q", i, l.Text)
		}
		if i > 0 && l.Pos <= all[i-1].Pos {
			t.Fatalf("Pos of line %d is %d, after %d: positions must grow", i, l.Pos, all[i-1].Pos)
		}
	}
}

func testResume(t *testing.T, s logs.Store) {
	say(s, "a", 0, 10)
	all := read(t, s, "a", 0)
	for i, l := range all {
		if rest := read(t, s, "a", l.Pos); !slices.Equal(texts(rest), texts(all[i+1:])) {
			t.Errorf("after line %d: %q", i, texts(rest))
		}
	}
	say(s, "a", 10, 11)
	wantTexts(t, read(t, s, "a", all[9].Pos), "10")
}

func testApart(t *testing.T, s logs.Store) {
	for i := range 3 {
		say(s, "a", i, i+1)
		say(s, "b", 10+i, 11+i)
	}
	say(s, "", 5, 6)
	wantTexts(t, read(t, s, "a", 0), "0", "1", "2")
	wantTexts(t, read(t, s, "b", 0), "10", "11", "12")
	wantTexts(t, read(t, s, "", 0), "5")
}

// follow reads in a goroutine; the channel gives the texts and closes when Read has ended.
func follow(ctx context.Context, t *testing.T, s logs.Store, app string, from logs.Position) <-chan string {
	out := make(chan string)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(out)
		for l, err := range s.Read(ctx, app, from, true) {
			if err != nil {
				t.Errorf("Read: %v", err)
			}
			select {
			case out <- l.Text:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(wg.Wait)
	return out
}

func expect(t *testing.T, from <-chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := <-from; got != w {
			t.Errorf("next line is %q, want %q", got, w)
		}
	}
}

func testFollow(t *testing.T, s logs.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	say(s, "a", 0, 2)
	one, two := follow(ctx, t, s, "a", 0), follow(ctx, t, s, "a", read(t, s, "a", 0)[0].Pos)
	expect(t, one, "0", "1")
	expect(t, two, "1")
	say(s, "b", 7, 8)
	say(s, "a", 2, 4)
	expect(t, two, "2", "3")
	expect(t, one, "2", "3")
}

func testFollowSilent(t *testing.T, s logs.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := follow(ctx, t, s, "a", 0)
	say(s, "a", 0, 2)
	expect(t, lines, "0", "1")
}

func testEnded(t *testing.T, s logs.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	say(s, "a", 0, 1)
	lines := follow(ctx, t, s, "a", 0)
	expect(t, lines, "0")
	cancel()
	for range lines { // ends: the channel closes
	}
	for l, err := range s.Read(ctx, "a", 0, true) {
		t.Errorf("Read with an ended context yields %v, %v", l, err)
	}
}

func testStop(t *testing.T, s logs.Store) {
	say(s, "a", 0, 3)
	for l, err := range s.Read(t.Context(), "a", 0, true) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if l.Text == "1" {
			break
		}
	}
	seq := s.Read(t.Context(), "a", 0, false)
	for range 2 {
		for l, err := range seq {
			if err != nil {
				t.Fatalf("Read: %v", err)
			}
			if l.Text != "0" {
				t.Errorf("first line is %q: each range must begin anew", l.Text)
			}
			break
		}
	}
}

// testReadEnds holds that a Read which does not follow gives what is kept when it begins: an
// app that says lines faster than they are read must not keep it for ever.
func testReadEnds(t *testing.T, s logs.Store) {
	say(s, "a", 0, 300)
	var got []logs.Line
	for l, err := range s.Read(t.Context(), "a", 0, false) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if got = append(got, l); len(got) > 300 {
			t.Fatalf("300 lines were there; the reader is given line %q, said meanwhile", l.Text)
		}
		say(s, "a", 300+len(got), 301+len(got))
	}
	if len(got) != 300 || got[299].Text != "299" {
		t.Errorf("%d lines, want 300", len(got))
	}
	seq := s.Read(t.Context(), "a", got[299].Pos, false) // begins when it is ranged over
	say(s, "a", 900, 901)
	n, last := 0, ""
	for l, err := range seq {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		n, last = n+1, l.Text
	}
	if n != 301 || last != "900" {
		t.Errorf("%d lines, the last is %q; want 301 and 900", n, last)
	}
}

func testTail(t *testing.T, s logs.Store) {
	say(s, "a", 0, 5)
	wantTexts(t, s.Tail("a", 2), "3", "4")
	wantTexts(t, s.Tail("a", 50), "0", "1", "2", "3", "4")
	wantTexts(t, s.Tail("a", 0))
	tail := s.Tail("a", 2)
	wantTexts(t, read(t, s, "a", tail[0].Pos), "4")
}

func testDrop(t *testing.T, s logs.Store) {
	say(s, "a", 0, 3)
	say(s, "b", 0, 1)
	old := s.Tail("a", 1)[0].Pos
	s.Drop("a")
	wantTexts(t, s.Tail("a", 5))
	wantTexts(t, read(t, s, "a", 0))
	wantTexts(t, read(t, s, "b", 0), "0")
	say(s, "a", 3, 5)
	wantTexts(t, read(t, s, "a", 0), "3", "4")
	wantTexts(t, read(t, s, "a", old), "3", "4") // a Position from before the Drop
}

func testHanging(t *testing.T, s logs.Store) {
	say(s, "a", 0, 1)
	const last = 40_000
	next, said := 0, false
	for l, err := range s.Read(t.Context(), "a", 0, true) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if l.Source == "LOGS" {
			next = -1
			continue
		}
		if next >= 0 && l.Text != fmt.Sprint(next) {
			t.Fatalf("line %q comes where %d was next, and no line says that some are missing", l.Text, next)
		}
		if _, err := fmt.Sscan(l.Text, &next); err != nil {
			t.Fatal(err)
		}
		next++
		if !said { // the reader hangs in here; if that held Append up, this would never end
			say(s, "a", 1, last+1)
			said = true
		}
		if next > last {
			break
		}
	}
}

func testMany(t *testing.T, s logs.Store) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				s.Append(logs.Line{App: "a", Index: g, Text: fmt.Sprint(i)})
				s.Append(logs.Line{App: fmt.Sprint("own-", g), Text: fmt.Sprint(i)})
				s.Tail("a", 3)
			}
		})
		wg.Go(func() {
			n := 0
			for _, err := range s.Read(t.Context(), "a", 0, true) {
				if err != nil {
					t.Errorf("Read: %v", err)
				}
				if n++; n == 800 {
					break
				}
			}
		})
	}
	wg.Wait()
	next := map[int]int{}
	for _, l := range read(t, s, "a", 0) {
		if l.Text != fmt.Sprint(next[l.Index]) {
			t.Fatalf("caller %d: line %q comes where %d was next", l.Index, l.Text, next[l.Index])
		}
		next[l.Index]++
	}
	for g := range 8 {
		if next[g] != 100 {
			t.Errorf("caller %d: %d lines, want 100", g, next[g])
		}
	}
}
