package state_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-go/dewpoint/state"
)

// TestAgainstModel compares a DB with plain maps, over random updates, faults of the
// journal, callers that leave, and restarts.
func TestAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) { runModel(t, rt) })
	})
}

func runModel(t *testing.T, rt *rapid.T) {
	ctx := context.Background()
	m := state.NewMemory()
	var db *state.DB
	start := func() {
		var err error
		db, err = state.Open(ctx, state.Config{Journal: m}, users)
		require.NoError(t, err)
	}
	start()
	rows := map[string]user{}
	key := rapid.SampledFrom([]string{"a", "ab", "b", "\x00", "é"})
	value := rapid.SampledFrom([]string{"", "x", "x\x00", "y", "xy"})
	no := errors.New("no")
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		switch rapid.IntRange(0, 9).Draw(rt, "what") {
		case 0:
			require.NoError(t, db.Close())
			start()
		case 1, 2:
			for range rapid.IntRange(1, 3).Draw(rt, "faults") {
				m.Inject(state.Fault{Err: no, Done: rapid.Bool().Draw(rt, "done")})
			}
		default:
			ctx, cancel := ctx, context.CancelFunc(func() {})
			if rapid.IntRange(0, 4).Draw(rt, "leave") == 0 {
				ctx, cancel = context.WithTimeout(ctx, 5*time.Millisecond)
			}
			next, fail := maps.Clone(rows), rapid.IntRange(0, 4).Draw(rt, "fail") == 0
			err := db.Update(ctx, func(tx *state.Tx) error {
				for range rapid.IntRange(0, 4).Draw(rt, "writes") {
					k := key.Draw(rt, "key")
					if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
						_, had := next[k]
						require.Equal(t, had, users.Delete(tx, k))
						delete(next, k)
						continue
					}
					u := user{ID: k, Mail: value.Draw(rt, "mail"), Roles: rapid.SliceOfN(value, 0, 3).Draw(rt, "roles")}
					taken := slices.ContainsFunc(slices.Collect(maps.Values(next)), func(o user) bool {
						return o.ID != k && o.Mail == u.Mail && u.Mail != ""
					})
					err := users.Put(tx, u)
					var conflict *state.ConflictError
					require.Equal(t, taken, errors.As(err, &conflict), "%v", err)
					if err == nil {
						next[k] = u
					}
				}
				compare(t, users, tx, next)
				if fail {
					return no
				}
				return nil
			})
			cancel()
			if fail {
				require.ErrorIs(t, err, no)
			} else {
				if err != nil {
					require.ErrorIs(t, err, state.ErrUncertain)
					// Whoever comes next settles it.
					require.NoError(t, db.Update(context.Background(), func(*state.Tx) error { return nil }))
				}
				rows = next
			}
		}
		compare(t, users, db.View(), rows)
	}
	require.NoError(t, db.Close())
	start()
	compare(t, users, db.View(), rows)
	require.NoError(t, db.Close())
}

// compare holds that all ways to read give what the model has.
func compare(t *testing.T, table *state.Table[user], r state.Reader, rows map[string]user) {
	keys := slices.Sorted(maps.Keys(rows))
	require.Equal(t, fmt.Sprintf("%q", keys), fmt.Sprintf("%q", ids(table.All(r))))
	for k, want := range rows {
		got, ok := table.Get(r, k)
		require.True(t, ok)
		require.Equal(t, fmt.Sprintf("%q", want), fmt.Sprintf("%q", got))
	}
	for _, v := range []string{"", "x", "x\x00", "y", "xy"} {
		var role, mail []string
		for _, k := range keys {
			if slices.Contains(rows[k].Roles, v) {
				role = append(role, k)
			}
			if v != "" && rows[k].Mail == v {
				mail = append(mail, k)
			}
		}
		require.Equal(t, role, ids(table.By(r, "role", v)))
		require.Equal(t, mail, ids(table.By(r, "mail", v)))
	}
}
