package lrptest

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
)

// testExitsWhileScaled: an instance exits in the moment in which its process is scaled, so
// that both are found at once.
func testExitsWhileScaled(t *testing.T, open Open) {
	for _, index := range []int{0, 2} {
		for _, to := range []int{1, 5} {
			b := start(t, open, two...)
			b.apply(process("a", 3))
			before := b.running("a", 3)
			b.finish(before[index], 1)
			b.apply(process("a", to))
			after := b.running("a", to)
			for i, x := range after {
				crashed := i == index
				if (x.Crashes == 1) != crashed || i < 3 && (x.GUID != before[i].GUID) != crashed {
					t.Errorf("index %d exits, scaled to %d: %d is %+v", index, to, i, x)
				}
			}
			b.await("what has ended is forgotten", func() bool {
				n := 0
				for _, c := range b.cells {
					n += len(c.Works())
				}
				return n == to
			})
		}
	}
}

// testBackoff: crashes 1 and 2 are answered at once, then after 30 s, doubling.
func testBackoff(t *testing.T, open Open) {
	b := start(t, open, one...)
	b.apply(process("a", 1))
	for n := 1; n <= 9; n++ {
		i := b.running("a", 1)[0]
		if i.Crashes != n-1 || !i.Next.IsZero() {
			t.Fatalf("before crash %d: %+v", n, i)
		}
		b.finish(i, 17)
		crashed := time.Now()
		b.settle()
		wait, _ := lrp.Backoff(n)
		if wait > 0 {
			got := b.list("a")[0]
			if got.State != lrp.Crashed || got.Crashes != n || !got.Next.Equal(crashed.Add(wait)) || got.GUID != "" || got.Cell != "" {
				t.Fatalf("after crash %d: %+v, next must be %v", n, got, crashed.Add(wait))
			}
			b.sleep(wait - time.Nanosecond)
			b.settle()
			if got := b.list("a")[0]; got.State != lrp.Crashed {
				t.Fatalf("crash %d: started before its time: %+v", n, got)
			}
			b.sleep(time.Nanosecond)
			b.settle()
		}
		got := b.list("a")[0]
		if got.State != lrp.Running || got.Crashes != n {
			t.Fatalf("crash %d, %v later: %+v", n, time.Since(crashed), got)
		}
		c := got.LastCrash
		if c == nil || c.Exit == nil || c.Exit.Code != 17 || !strings.Contains(c.Failure, "Exited with status 17") || !c.Time.Equal(crashed) {
			t.Fatalf("crash %d is told as %+v", n, c)
		}
	}
}

func testCrashLimit(t *testing.T, open Open) {
	b := start(t, open, one...)
	b.apply(process("a", 1))
	for n := 1; n <= lrp.CrashLimit; n++ {
		b.settle()
		b.finish(b.list("a")[0], 1)
		b.settle()
		wait, _ := lrp.Backoff(n)
		b.sleep(wait)
	}
	b.sleep(24 * time.Hour)
	b.settle()
	if got := b.list("a")[0]; got.State != lrp.Crashed || got.Crashes != lrp.CrashLimit || !got.Next.IsZero() {
		t.Errorf("after %d crashes and a day: %+v", lrp.CrashLimit, got)
	}
}

func testCrashReset(t *testing.T, open Open) {
	b := start(t, open, one...)
	b.apply(process("a", 1))
	b.finish(b.running("a", 1)[0], 1)
	b.finish(b.running("a", 1)[0], 1)
	b.running("a", 1)
	b.sleep(lrp.CrashReset + time.Second)
	b.finish(b.running("a", 1)[0], 1)
	b.settle()
	if got := b.list("a")[0]; got.State != lrp.Running || got.Crashes != 1 {
		t.Errorf("crashed after five minutes of health: %+v", got)
	}
}

func testCrashedScaledDown(t *testing.T, open Open) {
	b := start(t, open, one...)
	b.apply(process("a", 2))
	for range 3 {
		b.settle()
		b.finish(b.list("a")[1], 1)
	}
	b.await("it is CRASHED", func() bool { return b.list("a")[1].State == lrp.Crashed })
	b.apply(process("a", 1))
	b.running("a", 1)
	b.sleep(time.Minute)
	b.running("a", 1)
	if n := len(b.cells[0].Works()); n != 1 {
		t.Errorf("the cell still knows %d works", n)
	}
}

func testRestart(t *testing.T, open Open) {
	b := start(t, open, one...)
	r, ok := b.s.(lrp.Restarter)
	if !ok {
		t.Skip("it is no lrp.Restarter")
	}
	b.apply(process("a", 2))
	b.finish(b.running("a", 2)[1], 1)
	before := b.running("a", 2)
	if err := r.Restart(b.ctx, "a", 1); err != nil {
		t.Fatal(err)
	}
	after := b.running("a", 2)
	if after[0].GUID != before[0].GUID || after[1].GUID == before[1].GUID || after[1].Crashes != 0 {
		t.Errorf("restarted index 1: %+v became %+v", before, after)
	}
	for range 3 {
		b.settle()
		b.finish(b.list("a")[0], 1)
	}
	b.await("it is CRASHED", func() bool { return b.list("a")[0].State == lrp.Crashed })
	due := b.list("a")[0].Next
	if err := r.Restart(b.ctx, "a", 0); err != nil {
		t.Fatal(err)
	}
	again := b.running("a", 2)[0]
	if again.Crashes != 0 || !again.Next.IsZero() {
		t.Errorf("restarted while it waited for its next try: %+v", again)
	}
	b.sleep(time.Until(due.Add(time.Second)))
	if got := b.running("a", 2)[0]; got.GUID != again.GUID {
		t.Errorf("when the next try of before was due, %+v became %+v", again, got)
	}
	if err := r.Restart(b.ctx, "a", 7); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an instance that is not was restarted: %v", err)
	}
}
