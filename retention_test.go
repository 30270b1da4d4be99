package dewpoint_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
)

// rows counts the journal's rows of each table.
func (w *world) rows() map[string]int {
	w.t.Helper()
	_, all, err := w.journal.Load(w.t.Context())
	require.NoError(w.t, err)
	n := map[string]int{}
	for r, err := range all {
		require.NoError(w.t, err)
		n[r.Table]++
	}
	return n
}

// Of an app the current package and droplet are kept, those of what runs, and the newest five others,
// whether the pushes succeeded or not; the bytes of the others go with them.
func TestTheNewestFiveAreKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, stop := w.start()
	push := func(i int, extra ...string) *dewpoint.PushResult {
		res, err := p.Push(t.Context(), request("app", site(fmt.Sprint("x", i), extra...)))
		assert.Equal(t, len(extra) > 0, err != nil)
		return res
	}
	var droplets []string
	for i := range 8 {
		droplets = append(droplets, push(i).Droplet.Key)
		n := w.rows()
		assert.Equal(t, min(i+1, 7), n["droplets"])
		assert.Equal(t, min(i+1, 7), n["packages"])
	}
	for i := range 8 { // the droplets' packages stay, and five whose staging failed
		push(8+i, "fail")
		n := w.rows()
		assert.Equal(t, 6, n["droplets"], "what ran before the current one is an old one now")
		assert.LessOrEqual(t, n["packages"], 12, "the newest, those of six droplets, and five others")
	}
	stop()
	p, _ = w.start() // which sweeps
	for i, key := range droplets {
		_, err := w.blobs.Stat(t.Context(), key)
		assert.Equal(t, i >= 2, err == nil, "droplet %d: %v", i, err)
	}
	require.NoError(t, p.Restart(t.Context(), "app"))
	_, body := get(p, "app.localhost", "/")
	assert.Equal(t, "x7", body)
}

// Whenever an app is deleted while it is pushed, the push ends, and nothing of the app stays.
func TestAnAppThatIsDeletedWhileItIsPushed(t *testing.T) {
	t.Parallel()
	steps := []dewpoint.Step{
		dewpoint.StepRecord, dewpoint.StepMatch, dewpoint.StepUpload, dewpoint.StepPackage,
		dewpoint.StepStage, dewpoint.StepDroplet, dewpoint.StepRun, dewpoint.StepHealthy,
	}
	for _, at := range steps {
		w := newWorld(t)
		p, _ := w.start()
		_, err := p.Push(t.Context(), request("app", site("before")))
		require.NoError(t, err)
		var deleted sync.WaitGroup
		begun := false
		req := request("app", site("x"))
		req.Progress = func(e dewpoint.Progress) {
			if e.Step == at && !begun {
				begun = true
				deleted.Go(func() { assert.NoError(t, p.Delete(t.Context(), "app")) })
			}
		}
		_, err = p.Push(t.Context(), req)
		deleted.Wait()
		if err != nil && !errors.Is(err, dewpoint.ErrStopped) {
			t.Errorf("%s: %v", at, err)
		}
		assert.Empty(t, p.Apps())
		assert.Eventually(t, func() bool { return w.launched() == 0 }, 20*time.Second, time.Millisecond, "%s", at)
		left := w.rows()
		for _, table := range slices.Sorted(maps.Keys(left)) {
			switch table {
			case "apps", "routes", "packages", "builds", "droplets", "buildcaches", "launched", "catalog_leases":
				t.Errorf("%s: %d rows of %s are left", at, left[table], table)
			}
		}
		code, _ := get(p, "app.localhost", "/")
		assert.Equal(t, 404, code)
	}
}
