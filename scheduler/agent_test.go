package scheduler_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

var programs = map[string]func(context.Context, cell.MemoryProcess) int{
	"serve": func(ctx context.Context, p cell.MemoryProcess) int {
		fmt.Fprintln(p.Stdout, "serving")
		<-ctx.Done()
		return 0
	},
	"crash": func(ctx context.Context, p cell.MemoryProcess) int {
		fmt.Fprintln(p.Stderr, "about to fail")
		return 17
	},
	"build": func(ctx context.Context, p cell.MemoryProcess) int {
		fmt.Fprintln(p.Stdout, "-----> building")
		return 0
	},
}

// agent is a real Agent; it runs until the returned function is called.
func agent(t *testing.T, id string, r cell.Runtime, leave bool) (*cell.Agent, func()) {
	t.Helper()
	a, err := cell.New(cell.AgentConfig{ID: id, Runtime: r, Leave: leave})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	return a, stop
}

func program(id lrp.ID, n int, path string) lrp.Desired {
	return lrp.Desired{ID: id, Instances: n, Work: cell.Work{Spec: cell.Spec{Memory: 64 << 20}, Process: cell.Process{Path: path},
		Log: cell.LogTag{App: "app", Source: "APP/PROC/WEB"}}}
}

// The Scheduler over real Agents: run, crash, adopt, task.
func TestWithAgents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := state.NewMemory()
		r1 := cell.NewMemory(cell.MemoryConfig{Programs: programs})
		r2 := cell.NewMemory(cell.MemoryConfig{Programs: programs})
		a1, stop1 := agent(t, "c1", r1, true)
		a2, _ := agent(t, "c2", r2, false)
		var mu sync.Mutex
		var lines []string
		sink := func(l logs.Line) { mu.Lock(); defer mu.Unlock(); lines = append(lines, l.Text) }
		s := open(t, j, scheduler.Config{Cells: []cell.Cell{a1, a2}, LogSink: sink})
		stop := run(t, s)
		require.NoError(t, s.Apply(t.Context(), program("a", 4, "serve")))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := instances(t, s, "a")
		for _, i := range before {
			require.Equal(t, lrp.Running, i.State, "%+v", i)
		}

		require.NoError(t, s.Apply(t.Context(), program("b", 1, "crash")))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		b := instances(t, s, "b")[0]
		assert.Equal(t, lrp.Crashed, b.State)
		assert.Equal(t, 3, b.Crashes)
		assert.Equal(t, "APP/PROC/WEB: Exited with status 17", b.LastCrash.Failure)
		assert.Contains(t, b.LastCrash.Last, "about to fail")
		mu.Lock()
		all := strings.Join(lines, "\n")
		mu.Unlock()
		assert.Equal(t, 4, strings.Count(all, "serving"))
		assert.Equal(t, 3, strings.Count(all, "about to fail"))
		require.NoError(t, s.Remove(t.Context(), "b"))

		var out []string
		st, err := s.RunTask(t.Context(), cell.Work{ID: "task", Process: cell.Process{Path: "build"}, Log: cell.LogTag{Source: "STG"}}, func(l logs.Line) { out = append(out, l.Text) })
		require.NoError(t, err)
		assert.Equal(t, cell.PhaseDone, st.Phase)
		assert.Zero(t, st.Exit.Code)
		assert.Contains(t, out, "-----> building")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		from := time.Now()
		_, err = s.RunTask(ctx, cell.Work{ID: "task-2", Process: cell.Process{Path: "serve"}}, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.LessOrEqual(t, time.Since(from), 6*time.Second)

		// Control plane and one agent begin anew; the containers are adopted.
		stop()
		stop1()
		a1, _ = agent(t, "c1", r1, true)
		s = open(t, j, scheduler.Config{Cells: []cell.Cell{a1, a2}})
		run(t, s)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		after := instances(t, s, "a")
		assert.Equal(t, guids(before), guids(after))
		for _, i := range after {
			assert.Equal(t, lrp.Running, i.State, "%+v", i)
			assert.Zero(t, i.Crashes)
		}
		require.NoError(t, s.Remove(t.Context(), "a"))
		time.Sleep(time.Minute)
		for _, r := range []cell.Runtime{r1, r2} {
			left, err := r.Containers(t.Context())
			require.NoError(t, err)
			assert.Empty(t, left)
		}
	})
}
