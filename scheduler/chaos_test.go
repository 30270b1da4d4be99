package scheduler_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
	"github.com/dewpoint-go/dewpoint/state"
)

var seeds = flag.Int("seeds", 40, "how many random histories TestChaos plays; replay one with -run 'TestChaos/seed=N$'")

// TestChaos plays random histories of faults. When all is well again, what runs must be
// what is wanted, exactly.
func TestChaos(t *testing.T) {
	t.Parallel()
	for seed := range *seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { chaos(t, rand.New(rand.NewPCG(uint64(seed), 1))) })
		})
	}
}

// follower keeps what Watch tells, through streams that it leaves at random and restarts.
type follower struct {
	rev  uint64
	seen map[string]lrp.Instance
}

func (f *follower) follow(ctx context.Context, t *testing.T, s *scheduler.Scheduler, r *rand.Rand) {
	for ctx.Err() == nil {
		for e, err := range s.Watch(ctx, f.rev) {
			key := lrp.RowKey(e.Instance.LRP, e.Instance.Index)
			switch {
			case errors.Is(err, lrp.ErrCompacted):
				f.rev = 0
			case err != nil:
				t.Errorf("Watch: %v", err)
			case e.Gone:
				delete(f.seen, key)
			case !e.Synced:
				f.seen[key] = e.Instance
			}
			if err != nil {
				clear(f.seen)
				break
			}
			if f.rev = e.Rev; r.IntN(5) == 0 {
				if f.rev == 0 { // it was still listing, and what it has may be old when it lists again
					clear(f.seen)
				}
				break
			}
		}
	}
}

// text is what a value says, however it was stored meanwhile.
func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

func chaos(t *testing.T, r *rand.Rand) {
	f := &follower{seen: map[string]lrp.Instance{}}
	fr := rand.New(rand.NewPCG(r.Uint64(), 3))
	j := state.NewMemory()
	var fakes []*schedulertest.Cell
	var cells []cell.Cell
	for i := range 3 {
		c := schedulertest.New(schedulertest.Config{ID: fmt.Sprint("c", i), Zone: fmt.Sprint("z", i%2), Memory: 200, Disk: 200})
		fakes = append(fakes, c)
		cells = append(cells, c)
	}
	var ids atomic.Int64
	var stop func()
	var s *scheduler.Scheduler
	begin := func() {
		db, err := state.Open(context.Background(), state.Config{Journal: j}, scheduler.Tables()...)
		require.NoError(t, err)
		s, err = scheduler.New(scheduler.Config{DB: db, Cells: cells, NewID: func() string { return fmt.Sprint("work-", ids.Add(1)) }})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		left := make(chan struct{})
		go func() {
			defer close(left)
			f.follow(ctx, t, s, fr)
		}()
		stop = func() {
			cancel()
			<-left
			require.NoError(t, <-ended)
			require.NoError(t, db.Close())
		}
	}
	begin()
	defer func() { stop() }()
	want := map[lrp.ID]int{}
	for range 60 {
		c := fakes[r.IntN(len(fakes))]
		id := lrp.ID(fmt.Sprint("app-", r.IntN(4)))
		switch r.IntN(13) {
		case 0, 1, 2:
			n := r.IntN(6)
			require.NoError(t, s.Apply(t.Context(), web(id, n)))
			want[id] = n
		case 3:
			require.NoError(t, s.Remove(t.Context(), id))
			delete(want, id)
		case 4, 5:
			if live := c.Live(); len(live) > 0 {
				c.Finish(live[r.IntN(len(live))].ID, r.IntN(2))
			}
		case 6:
			if live := c.Live(); len(live) > 0 {
				c.Forget(live[r.IntN(len(live))].ID)
			}
		case 7:
			c.Cut()
		case 8:
			c.Silence()
		case 9:
			c.Speak()
		case 10:
			odds := r.IntN(3)
			seed := r.Uint64()
			x := rand.New(rand.NewPCG(seed, 2))
			c.FailStart(func(cell.Work) (bool, error) {
				if x.IntN(3) < odds {
					return x.IntN(2) == 0, errors.New("broken")
				}
				return false, nil
			})
			c.FailStop(func(string) (bool, error) {
				if x.IntN(3) < odds {
					return x.IntN(2) == 0, errors.New("broken")
				}
				return false, nil
			})
			c.Refuse(func(cell.Work) string {
				if x.IntN(3) < odds {
					return "insufficient resources: memory"
				}
				return ""
			})
		case 12:
			require.NoError(t, s.RemoveCell(c.ID()))
			time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
			require.NoError(t, s.AddCell(c))
		case 11:
			j.Inject(state.Fault{Err: errors.New("no answer"), Done: r.IntN(2) == 0})
			if r.IntN(2) == 0 {
				stop()
				begin()
			}
		}
		time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
	}
	for _, c := range fakes {
		c.Speak()
		c.FailStart(nil)
		c.FailStop(nil)
		c.Refuse(nil)
	}
	time.Sleep(time.Hour) // every back-off is over
	synctest.Wait()
	known := 0
	for _, c := range fakes {
		for _, w := range c.Works() {
			known++
			rows := instances(t, s, lrp.ID(w.Work.LRP))
			if w.Work.Index >= len(rows) || rows[w.Work.Index].GUID != w.ID || rows[w.Work.Index].Cell != c.ID() {
				t.Errorf("%s runs %s of %s/%d, which nobody wants: %+v", c.ID(), w.ID, w.Work.LRP, w.Work.Index, rows)
			}
		}
	}
	sum := 0
	for id := range 4 {
		id := lrp.ID(fmt.Sprint("app-", id))
		rows := instances(t, s, id)
		if len(rows) != want[id] {
			t.Errorf("%s: %d rows, want %d", id, len(rows), want[id])
		}
		for _, i := range rows {
			if seen := f.seen[lrp.RowKey(id, i.Index)]; text(t, seen) != text(t, i) {
				t.Errorf("%s/%d is %+v, Watch told %+v", id, i.Index, i, seen)
			}
			sum++
			if i.State != lrp.Running {
				t.Errorf("%s/%d is %+v", id, i.Index, i)
			}
		}
	}
	if len(f.seen) != sum {
		t.Errorf("Watch told of %d instances, there are %d", len(f.seen), sum)
	}
	if known != sum {
		t.Errorf("%d works for %d instances", known, sum)
	}
	for _, problem := range s.Audit() {
		t.Error(problem)
	}
}
