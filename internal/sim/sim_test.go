package sim

import (
	"flag"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

var (
	seedFlag = flag.Uint64("sim.seed", 0, "play this one seed and show its last events")
	number   = flag.Int("sim.n", 1000, "how many seeds TestSeeds plays")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSeeds plays many histories. A seed that breaks a promise is shown with its last events.
func TestSeeds(t *testing.T) {
	t.Parallel()
	if *seedFlag != 0 {
		show(t, Run(*seedFlag))
		return
	}
	n := *number
	if testing.Short() {
		n = min(n, 100)
	}
	var next, broken atomic.Int64
	var wg sync.WaitGroup
	var events, starts atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				if seed > int64(n) || broken.Load() >= 3 {
					return
				}
				r := Run(uint64(seed))
				events.Add(int64(r.Events))
				starts.Add(int64(r.Starts))
				if len(r.Problems) > 0 {
					broken.Add(1)
					show(t, r)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d seeds, %d events, %d works sent", n, events.Load(), starts.Load())
}

func show(t *testing.T, r Result) {
	t.Helper()
	text := strings.Join(r.Last, "\n")
	if len(r.Problems) == 0 {
		t.Logf("seed %d: all promises held; %d events, %d works sent, %d lives, hash %x\n%s", r.Seed, r.Events, r.Starts, r.Lives, r.Hash, text)
		return
	}
	t.Errorf("seed %d broke a promise; replay it with: go test ./internal/sim -run TestSeeds -sim.seed %d -v\n%s\nlast events:\n%s",
		r.Seed, r.Seed, strings.Join(r.Problems, "\n"), text)
}

// The same seed is the same history, to the last event.
func TestReplay(t *testing.T) {
	t.Parallel()
	hashes := map[uint64]bool{}
	for seed := uint64(1); seed <= 10; seed++ {
		a, b := Run(seed), Run(seed)
		assert.Equal(t, a, b, "seed %d", seed)
		assert.False(t, hashes[a.Hash], "seed %d is another's history", seed)
		hashes[a.Hash] = true
		assert.Greater(t, a.Events, 100)
	}
}
