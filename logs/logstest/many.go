package logstest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/dewpoint-go/dewpoint/logs"
)

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

// testFollowers holds that a thousand who follow one app each get all of it in order, or are told
// what they lost: quick ones, slow ones, which wait for others before each line, and some that
// hang until all is over.
func testFollowers(t *testing.T, s logs.Store) {
	const followers, lines = 1000, 300
	over, release := make(chan struct{}), make(chan struct{})
	var quick, slow sync.WaitGroup
	turn := make(chan struct{}, 1)
	for i := range followers {
		wg := &quick
		if i%10 == 0 {
			wg = &slow
		}
		wg.Go(func() {
			next := 0
			for l, err := range s.Read(t.Context(), "a", 0, true) {
				if err != nil {
					t.Errorf("Read: %v", err)
				}
				switch {
				case l.Source == "LOGS":
					next += int(l.Missing)
				case l.Text != fmt.Sprint(next):
					t.Errorf("follower %d: line %q comes where %d was next", i, l.Text, next)
					return
				default:
					next++
				}
				if next == lines {
					return
				}
				switch {
				case i%100 == 0: // hangs
					<-over
				case i%10 == 0:
					turn <- struct{}{}
					<-turn
				case i%10 == 1 && next == lines/2:
					return // leaves early
				}
			}
		})
	}
	quick.Go(func() {
		<-release
		say(s, "a", 0, lines)
		say(s, "b", 0, lines)
	})
	close(release)
	quick.Wait() // though some hang
	if n := len(read(t, s, "b", 0)); n != lines {
		t.Errorf("%d lines of another app, want %d", n, lines)
	}
	close(over)
	slow.Wait()
}

// testDropMeanwhile holds that nobody gets stuck, or reads backwards, where apps are dropped while
// they are written and read.
func testDropMeanwhile(t *testing.T, s logs.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var readers, writers sync.WaitGroup
	for g := range 4 {
		app := fmt.Sprint("app-", g%2)
		writers.Go(func() {
			for i := range 2000 {
				s.Append(logs.Line{App: app, Text: fmt.Sprint(i)})
				if i%50 == 25 {
					s.Drop(app)
				}
			}
			s.Append(logs.Line{App: app, Text: "end"})
		})
		readers.Go(func() {
			var last logs.Position
			for l, err := range s.Read(ctx, app, 0, true) {
				if err != nil {
					t.Errorf("Read: %v", err)
				}
				if l.Pos <= last {
					t.Errorf("position %d comes after %d", l.Pos, last)
				}
				last = l.Pos
			}
		})
	}
	writers.Wait()
	for _, app := range []string{"app-0", "app-1"} {
		wantTexts(t, s.Tail(app, 1), "end")
	}
	cancel()
	readers.Wait()
}
