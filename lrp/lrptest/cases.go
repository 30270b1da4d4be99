package lrptest

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
)

func testApply(t *testing.T, open Open) {
	b := start(t, open, two...)
	if got := b.list("a"); len(got) != 0 {
		t.Fatalf("an unknown process has instances: %+v", got)
	}
	d := process("a", 4)
	b.apply(d)
	all := b.running("a", 4)
	where := map[string]int{}
	for _, i := range all {
		where[i.Cell]++
	}
	if where["c1"] != 2 || where["c2"] != 2 {
		t.Errorf("instances are not spread: %v", where)
	}
	w := b.live("a")[3].Work
	if w.LRP != "a" || w.Index != 3 || w.Log.Index != 3 || w.Health == nil || w.Process.Grace == 0 {
		t.Errorf("the work is not that of WorkFor: %+v", w)
	}
	b.apply(d)
	b.settle()
	if again := b.running("a", 4); again[0].GUID != all[0].GUID || again[3].GUID != all[3].GUID {
		t.Error("applied again without a change, instances were replaced")
	}
}

func testScale(t *testing.T, open Open) {
	b := start(t, open, two...)
	b.apply(process("a", 0))
	b.settle()
	if got := b.list("a"); len(got) != 0 {
		t.Fatalf("0 instances are wanted, there are %+v", got)
	}
	b.apply(process("a", 3))
	first := b.running("a", 3)
	b.apply(process("a", 1))
	if got := b.running("a", 1); got[0].GUID != first[0].GUID {
		t.Error("scaled down, the instance that stays was replaced")
	}
	b.apply(process("a", 3))
	again := b.running("a", 3)
	if again[0].GUID != first[0].GUID || again[2].GUID == first[2].GUID {
		t.Error("a GUID must stay with its work, and never be used again")
	}
	b.apply(process("a", 0))
	b.running("a", 0)
}

func testImmutable(t *testing.T, open Open) {
	b := start(t, open, one...)
	d := process("a", 1)
	b.apply(d)
	b.running("a", 1)
	d.Work.Process.Path = "other"
	d.Instances = 2
	if err := b.s.Apply(b.ctx, d); !errors.Is(err, lrp.ErrImmutable) {
		t.Fatalf("another work was applied: %v", err)
	}
	b.running("a", 1)
	d = process("a", 1)
	d.Annotation = "new"
	b.apply(d)
}

func testNonsense(t *testing.T, open Open) {
	b := start(t, open, one...)
	for _, d := range []lrp.Desired{process("", 1), process("a/b", 1), process("a", -1)} {
		if err := b.s.Apply(b.ctx, d); err == nil {
			t.Errorf("%q with %d instances was taken", d.ID, d.Instances)
		}
	}
	b.settle()
	if n := len(b.cells[0].Works()); n != 0 {
		t.Errorf("%d works run", n)
	}
}

func testRemove(t *testing.T, open Open) {
	b := start(t, open, two...)
	if err := b.s.Remove(b.ctx, "unknown"); err != nil {
		t.Errorf("Remove of an unknown process: %v", err)
	}
	b.apply(process("a", 2))
	b.apply(process("ab", 1)) // a name that begins alike
	b.running("a", 2)
	b.running("ab", 1)
	if err := b.s.Remove(b.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	b.running("a", 0)
	b.running("ab", 1)
	b.apply(process("a", 1))
	b.running("a", 1)
}

func testRemoveClaimed(t *testing.T, open Open) {
	b := start(t, open, schedulertest.Config{ID: "c1", Hold: true})
	b.apply(process("a", 1))
	b.await("the cell has it", func() bool { return len(b.live("a")) == 1 })
	if got := b.list("a"); len(got) != 1 || got[0].State != lrp.Claimed || got[0].Cell != "c1" {
		t.Fatalf("while its container is made: %+v", got)
	}
	if err := b.s.Remove(b.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	b.running("a", 0)
}

// testRemoveAndApply: under the same id another work may follow a Remove, and nothing of the
// old one stays, however soon it comes.
func testRemoveAndApply(t *testing.T, open Open) {
	b := start(t, open, two...)
	b.apply(process("a", 3))
	b.running("a", 3)
	if err := b.s.Remove(b.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	d := process("a", 2)
	d.Work.Process.Path = "other"
	b.apply(d)
	b.settle()
	b.running("a", 2)
	for _, s := range b.live("a") {
		if s.Work.Process.Path != "other" {
			t.Errorf("index %d still runs the work that was removed", s.Work.Index)
		}
	}
}

func testRefused(t *testing.T, open Open) {
	b := start(t, open, two...)
	b.cells[0].Refuse(func(cell.Work) string { return "insufficient resources: memory" })
	b.apply(process("a", 3))
	for _, i := range b.running("a", 3) {
		if i.Cell != "c2" || i.Crashes != 0 {
			t.Errorf("refused by c1: %+v", i)
		}
	}
}

func testNoPlace(t *testing.T, open Open) {
	b := start(t, open, schedulertest.Config{ID: "c1", Memory: 100 << 20})
	b.apply(process("a", 2))
	b.await("one has no place", func() bool {
		all := b.list("a")
		return len(all) == 2 && all[0].State == lrp.Running && all[1].PlacementError != ""
	})
	i := b.list("a")[1]
	if i.State != lrp.Unclaimed || !strings.HasPrefix(i.PlacementError, "insufficient resources: memory") || i.Crashes != 0 {
		t.Errorf("without a place: %+v", i)
	}
	// Room for it: it is placed when that happens, and not 30 seconds later.
	b.apply(process("b", 0))
	b.apply(process("a", 1))
	b.running("a", 1)
	b.apply(process("b", 1))
	b.await("b waits", func() bool { all := b.list("b"); return len(all) == 1 && all[0].PlacementError != "" })
	from := time.Now()
	b.apply(process("a", 0))
	got := b.running("b", 1)[0]
	if took := time.Since(from); took >= 30*time.Second || got.PlacementError != "" {
		t.Errorf("placed %v after there was room: %+v", took, got)
	}
	// Nothing that can be seen changes, and yet it is tried again within 30 seconds.
	b.cells[0].Refuse(func(w cell.Work) string { return "no" })
	b.apply(process("b", 0))
	b.running("b", 0)
	b.apply(process("c", 1))
	b.settle()
	b.cells[0].Refuse(nil)
	from = time.Now()
	b.running("c", 1)
	if took := time.Since(from); took > 31*time.Second {
		t.Errorf("tried again only after %v", took)
	}
}

// testFailedStart has the pair: failed and not done, failed but done.
func testFailedStart(t *testing.T, open Open) {
	for _, done := range []bool{false, true} {
		b := start(t, open, one...)
		left := 2
		b.cells[0].FailStart(func(cell.Work) (bool, error) {
			if left--; left >= 0 {
				return done, errors.New("the connection broke")
			}
			return false, nil
		})
		b.apply(process("a", 1))
		if i := b.running("a", 1)[0]; i.Crashes != 0 {
			t.Errorf("done %v: %+v", done, i)
		}
		if n := len(b.cells[0].Works()); n != 1 {
			t.Errorf("done %v: the cell knows %d works", done, n)
		}
	}
}

// testFailedStop has the same pair for the end of an instance.
func testFailedStop(t *testing.T, open Open) {
	for _, done := range []bool{false, true} {
		b := start(t, open, one...)
		b.apply(process("a", 3))
		first := b.running("a", 3)
		left := 3
		b.cells[0].FailStop(func(string) (bool, error) {
			if left--; left >= 0 {
				return done, errors.New("the connection broke")
			}
			return false, nil
		})
		b.apply(process("a", 1))
		b.await("what is not wanted any more is stopped", func() bool { return len(b.cells[0].Works()) == 1 })
		if got := b.running("a", 1)[0]; got.GUID != first[0].GUID || got.Crashes != 0 {
			t.Errorf("done %v: %+v became %+v", done, first[0], got)
		}
		if left == 3 {
			t.Errorf("done %v: Stop was never called", done)
		}
	}
}

func testForgotten(t *testing.T, open Open) {
	b := start(t, open, one...)
	b.apply(process("a", 2))
	before := b.running("a", 2)
	b.cells[0].Forget(before[0].GUID)
	after := b.running("a", 2)
	if after[0].GUID == before[0].GUID || after[1].GUID != before[1].GUID {
		t.Errorf("%+v became %+v", before, after)
	}
}

func testCut(t *testing.T, open Open) {
	b := start(t, open, two...)
	b.apply(process("a", 4))
	before := b.running("a", 4)
	for range 5 {
		for _, c := range b.cells {
			c.Cut()
		}
		time.Sleep(time.Second)
	}
	after := b.running("a", 4)
	for i := range after {
		if after[i].GUID != before[i].GUID {
			t.Errorf("index %d was replaced", i)
		}
	}
	b.cells[0].Cut()
	b.finish(after[0], 1)
	if got := b.running("a", 4)[0]; got.Crashes != 1 {
		t.Errorf("a crash while the stream was broken: %+v", got)
	}
}

func testUnwanted(t *testing.T, open Open) {
	b := start(t, open, one...)
	d := process("a", 1)
	b.apply(d)
	b.running("a", 1)
	for _, w := range []cell.Work{d.WorkFor(0, "twin"), d.WorkFor(5, "beyond"), {ID: "orphan-task", Process: cell.Process{Path: "x"}}} {
		if err := b.cells[0].Start(b.ctx, w); err != nil {
			t.Fatal(err)
		}
	}
	b.await("they are stopped", func() bool { return len(b.cells[0].Works()) == 1 })
	b.running("a", 1)
}

func testWatch(t *testing.T, open Open) {
	b := start(t, open, one...)
	b.apply(process("a", 2))
	b.running("a", 2)
	ctx, cancel := context.WithCancel(b.ctx)
	seen := map[int]lrp.State{}
	var synced, ended bool
	var last uint64
	go func() {
		defer func() { ended = true }()
		for e, err := range b.s.Watch(ctx, 0) {
			switch {
			case err != nil:
				t.Errorf("Watch: %v", err)
			case e.Synced:
				synced = true
				if len(seen) != 2 {
					t.Errorf("synced after %d of 2 instances", len(seen))
				}
			case e.Gone:
				delete(seen, e.Instance.Index)
			default:
				seen[e.Instance.Index] = e.Instance.State
			}
			if e.Rev < last {
				t.Errorf("revision %d after %d", e.Rev, last)
			}
			last = e.Rev
		}
	}()
	synctest.Wait()
	if !synced || seen[0] != lrp.Running {
		t.Fatalf("synced %v, seen %v", synced, seen)
	}
	b.apply(process("a", 3))
	b.running("a", 3)
	b.settle()
	if len(seen) != 3 || seen[2] != lrp.Running {
		t.Errorf("after scaling up: %v", seen)
	}
	b.apply(process("a", 1))
	b.running("a", 1)
	b.settle()
	if len(seen) != 1 {
		t.Errorf("after scaling down: %v", seen)
	}
	cancel()
	b.settle()
	if !ended {
		t.Error("Watch did not end with its context")
	}
}

func testWatchAfter(t *testing.T, open Open) {
	b := start(t, open, one...)
	b.apply(process("a", 1))
	b.running("a", 1)
	var rev uint64
	for e, err := range b.s.Watch(b.ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Synced {
			rev = e.Rev
			break
		}
	}
	b.apply(process("a", 3))
	b.running("a", 3)
	// Each time only the first event is read, and Watch begins anew after it.
	var runs []int
	for range 50 {
		ctx, cancel := context.WithTimeout(b.ctx, time.Second)
		more := false
		n := 0
		for e, err := range b.s.Watch(ctx, rev) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Synced {
				t.Fatal("Synced after a revision")
			}
			if e.Instance.State == lrp.Running && !slices.Contains(runs, e.Instance.Index) {
				runs = append(runs, e.Instance.Index)
			}
			n++
			if e.Rev != rev { // the revision is complete
				rev, more = e.Rev, true
				break
			}
		}
		cancel()
		if !more {
			break
		}
	}
	slices.Sort(runs)
	if !slices.Equal(runs, []int{1, 2}) {
		t.Errorf("resumed again and again, instances %v were seen to run, not 1 and 2", runs)
	}
	for _, err := range b.s.Watch(b.ctx, 1<<60) {
		if !errors.Is(err, lrp.ErrCompacted) {
			t.Errorf("after a revision that never was: %v", err)
		}
		break
	}
}

func testExec(t *testing.T, open Open) {
	b := start(t, open, two...)
	x, ok := b.s.(lrp.Execer)
	if !ok {
		t.Skip("it is no lrp.Execer")
	}
	b.apply(process("a", 3))
	for _, i := range b.running("a", 3) {
		s, err := x.Exec(b.ctx, "a", i.Index, cell.Process{Path: "/bin/sh"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.(*schedulertest.Session); got.Work != i.GUID || got.Process.Path != "/bin/sh" {
			t.Errorf("beside instance %d, which is %s, it asked for %+v", i.Index, i.GUID, got)
		}
	}
	for _, none := range []struct {
		id    lrp.ID
		index int
	}{{"a", 3}, {"a", -1}, {"b", 0}} {
		if _, err := x.Exec(b.ctx, none.id, none.index, cell.Process{Path: "/bin/sh"}, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("beside instance %d of %s: %v, want fs.ErrNotExist", none.index, none.id, err)
		}
	}
}
