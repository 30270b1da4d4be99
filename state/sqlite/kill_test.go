package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/state"
	"github.com/dewpoint-go/dewpoint/state/sqlite"
)

// childFile makes this program the writer that TestKilledWriter kills.
const childFile = "DEWPOINT_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(childFile); path != "" {
		fmt.Println("failed:", write(path)) // it writes until it is killed
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// entry is written in pairs, one in each table: both must be there, or none.
type entry struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

var (
	left  = state.NewTable("left", func(e entry) string { return e.ID })
	right = state.NewTable("right", func(e entry) string { return e.ID })
)

const writers = 8

// write counts up in a row for each writer, and says each number when it is acknowledged.
func write(path string) error {
	ctx := context.Background()
	j, err := sqlite.Open(ctx, path)
	if err != nil {
		return err
	}
	db, err := state.Open(ctx, state.Config{Journal: j}, left, right)
	if err != nil {
		return err
	}
	failed := make(chan error, writers)
	for w := range writers {
		go func() {
			id := fmt.Sprint("writer-", w)
			for {
				var e entry
				err := db.Update(ctx, func(tx *state.Tx) error {
					e, _ = left.Get(tx, id)
					e.ID = id
					e.N++
					// Each number also has a row of its own, so that a lost one is seen for ever.
					own := entry{ID: fmt.Sprintf("%s/%d", id, e.N), N: e.N}
					return errors.Join(left.Put(tx, e), right.Put(tx, e), left.Put(tx, own), right.Put(tx, own))
				})
				if err != nil {
					failed <- err
					return
				}
				fmt.Printf("%s %d\n", id, e.N) // one write, which the kernel keeps
			}
		}()
	}
	return <-failed
}

// TestKilledWriter kills a program that writes, again and again, at random moments: every
// row that it was told to be durable is there, and nothing half-written.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "state.db")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	told := map[string]int{}
	for round := range 20 {
		kill(t, exe, path, r.IntN(120), told)
		checkKilled(t, path, told)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// TestSecondProcessIsRefused holds that a file which another program has open can't be opened,
// and that its end, however sudden, sets the file free.
func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "state.db")
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childFile+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	first := bufio.NewScanner(out)
	assert.True(t, first.Scan())
	_, err = sqlite.Open(t.Context(), path)
	assert.ErrorContains(t, err, "is another program using it")
	assert.NoError(t, cmd.Process.Kill())
	for first.Scan() { // to the end of the program
	}
	_ = cmd.Wait()
	j, err := sqlite.Open(t.Context(), path)
	require.NoError(t, err)
	require.NoError(t, j.Close())
}

// kill starts a writer, kills it after some acknowledgements and notes them all in told.
func kill(t *testing.T, exe, path string, after int, told map[string]int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childFile+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var once sync.Once
	stop := func() { once.Do(func() { assert.NoError(t, cmd.Process.Kill()) }) } // SIGKILL
	defer func() {
		stop()
		_ = cmd.Wait()
	}()
	n := 0
	for sc := bufio.NewScanner(out); sc.Scan(); n++ {
		id, number, ok := strings.Cut(sc.Text(), " ")
		k, err := strconv.Atoi(number)
		if !ok || err != nil {
			t.Fatalf("the writer says %q", sc.Text())
		}
		assert.Equal(t, told[id]+1, k, "%s goes on where it was", id)
		told[id] = k
		if n == after {
			stop()
		}
	}
	assert.GreaterOrEqual(t, n, after)
}

func checkKilled(t *testing.T, path string, told map[string]int) {
	t.Helper()
	j, err := sqlite.Open(t.Context(), path)
	require.NoError(t, err)
	db, err := state.Open(t.Context(), state.Config{Journal: j}, left, right)
	require.NoError(t, err)
	defer func() { assert.NoError(t, db.Close()) }()
	v := db.View()
	n := 0
	for w := range writers {
		id := fmt.Sprint("writer-", w)
		e, _ := left.Get(v, id)
		assert.GreaterOrEqual(t, e.N, told[id], "%s: what was acknowledged is there", id)
		for k := range e.N {
			own, ok := left.Get(v, fmt.Sprintf("%s/%d", id, k+1))
			assert.True(t, ok && own.N == k+1, "%s/%d", id, k+1)
			n++
		}
		if e.N > 0 {
			n++
		}
		told[id] = e.N // an answer that was lost on its way is durable, too
	}
	var ls, rs []entry
	for e := range left.All(v) {
		ls = append(ls, e)
	}
	for e := range right.All(v) {
		rs = append(rs, e)
	}
	assert.Len(t, ls, n)
	assert.Equal(t, ls, rs, "an update is there whole or not at all")
}
