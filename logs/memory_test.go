package logs_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/logs/logstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	t.Parallel()
	logstest.Run(t, func(*testing.T) logs.Store { return logs.NewMemory(logs.MemoryConfig{}) })
	t.Run("Small", func(t *testing.T) {
		logstest.Run(t, func(*testing.T) logs.Store { return logs.NewMemory(logs.MemoryConfig{LinesPerApp: 1000}) })
	})
}

func TestMemoryFaults(t *testing.T) {
	t.Parallel()
	logstest.RunFaults(t, func(_ *testing.T, fault func(op, app string) error) logs.Store {
		return logs.NewMemory(logs.MemoryConfig{Fault: fault})
	})
}

func say(m *logs.Memory, app string, n int, text string) {
	for i := range n {
		m.Append(logs.Line{App: app, Text: fmt.Sprint(i, text)})
	}
}

func lines(m *logs.Memory, app string, from logs.Position) []string {
	var all []string
	for l := range m.Read(context.Background(), app, from, false) {
		all = append(all, l.Source+":"+l.Text)
	}
	return all
}

func TestGap(t *testing.T) {
	t.Parallel()
	m := logs.NewMemory(logs.MemoryConfig{LinesPerApp: 2})
	say(m, "a", 3, "")
	assert.Equal(t, []string{"LOGS:1 line is missing here: it is no longer kept", ":1", ":2"}, lines(m, "a", 0))
	say(m, "a", 200, "")
	assert.Equal(t, []string{"LOGS:199 lines are missing here: they are no longer kept", ":198", ":199"}, lines(m, "a", 2))
	var gap logs.Line
	for l := range m.Read(context.Background(), "a", 0, false) {
		gap = l
		break
	}
	assert.Equal(t, "a", gap.App)
	assert.Equal(t, []string{":198", ":199"}, lines(m, "a", gap.Pos), "reading goes on after the gap")
	m.Drop("a")
	say(m, "a", 1, "")
	assert.Equal(t, []string{":0"}, lines(m, "a", 2), "what was dropped is not missing")
}

func TestBytesPerApp(t *testing.T) {
	t.Parallel()
	m := logs.NewMemory(logs.MemoryConfig{BytesPerApp: 1000})
	say(m, "a", 50, strings.Repeat("x", 300))
	assert.Len(t, m.Tail("a", 50), 2)
	m.Append(logs.Line{App: "a", Text: strings.Repeat("y", 5000)})
	if tail := m.Tail("a", 50); assert.Len(t, tail, 1) {
		assert.Len(t, tail[0].Text, 816)
	}
}

// The app that has been silent for the longest time pays, and the newest line is always kept.
func TestTotalBytesAreTakenFromTheSilent(t *testing.T) {
	t.Parallel()
	m := logs.NewMemory(logs.MemoryConfig{TotalBytes: 100_000, BytesPerApp: 40_000})
	for _, app := range []string{"a", "b", "c"} {
		say(m, app, 100, "")
	}
	say(m, "a", 1, " again")
	say(m, "noisy", 5000, "")
	kept := len(m.Tail("noisy", 5000))
	assert.Greater(t, kept, 220)
	assert.Less(t, kept, 300)
	assert.Len(t, m.Tail("a", 1000), 101, "it spoke after b and c")
	say(m, "d", 100, "")
	say(m, "e", 100, "")
	assert.Empty(t, m.Tail("b", 1000))
	assert.Equal(t, []string{"LOGS:100 lines are missing here: they are no longer kept"}, lines(m, "b", 0))
	assert.Len(t, m.Tail("e", 1000), 100)
}

// What staging said is read back after any flood of the app's own lines, of its crashes, and of other apps.
func TestStagingIsNotPushedOut(t *testing.T) {
	t.Parallel()
	m := logs.NewMemory(logs.MemoryConfig{LinesPerApp: 1000, BytesPerApp: 400_000, TotalBytes: 2_000_000})
	for i := range 200 {
		m.Append(logs.Line{App: "a", Source: "STG", Text: fmt.Sprint("stage ", i)})
	}
	m.Append(logs.Line{App: "a", Source: "API", Text: "Creating build"})
	for i := range 20_000 {
		m.Append(logs.Line{App: "a", Source: "APP/PROC/WEB", Text: fmt.Sprint("flood ", i)})
	}
	all := lines(m, "a", 0)
	assert.Equal(t, "STG:stage 0", all[0])
	assert.Equal(t, "STG:stage 199", all[199])
	assert.Equal(t, "API:Creating build", all[200])
	assert.Contains(t, all[201], "LOGS:")
	assert.Equal(t, "APP/PROC/WEB:flood 19999", all[len(all)-1])
	assert.Len(t, all, 1001)
	for i := range 5000 {
		m.Append(logs.Line{App: "a", Source: "CELL", Text: fmt.Sprint("crash ", i)})
	}
	for i := range 20_000 {
		m.Append(logs.Line{App: fmt.Sprint("other-", i%40), Source: "APP/PROC/WEB", Text: strings.Repeat("x", 500)})
	}
	all = lines(m, "a", 0)
	assert.Equal(t, "STG:stage 0", all[0])
	assert.Equal(t, "STG:stage 199", all[199])
}

func TestFollowAcrossDrop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := logs.NewMemory(logs.MemoryConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for l := range m.Read(ctx, "a", 0, true) {
				got = append(got, l.Text)
			}
		}()
		synctest.Wait()
		say(m, "a", 2, "")
		synctest.Wait()
		m.Drop("a")
		synctest.Wait()
		say(m, "a", 1, " after")
		synctest.Wait()
		cancel()
		<-done
		assert.Equal(t, []string{"0", "1", "0 after"}, got)
	})
}

func ExampleMemory() {
	m := logs.NewMemory(logs.MemoryConfig{})
	m.Append(logs.Line{App: "shop", Source: "STG", Text: "Downloading buildpack"})
	m.Append(logs.Line{App: "shop", Source: "APP/PROC/WEB", Text: "listening"})
	var last logs.Position
	for l := range m.Read(context.Background(), "shop", 0, false) {
		fmt.Println(l.Source, l.Text)
		last = l.Pos
	}
	m.Append(logs.Line{App: "shop", Source: "RTR", Text: "GET / 200"})
	for l := range m.Read(context.Background(), "shop", last, false) {
		fmt.Println(l.Source, l.Text)
	}
	// Output:
	// STG Downloading buildpack
	// APP/PROC/WEB listening
	// RTR GET / 200
}
