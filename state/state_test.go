package state_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type user struct {
	ID    string   `json:"id"`
	Mail  string   `json:"mail"`
	Roles []string `json:"roles,omitempty"`
}

func newUsers() *state.Table[user] {
	return state.NewTable("users", func(u user) string { return u.ID },
		state.Index[user]{Name: "mail", Unique: true, Keys: func(u user) []string {
			if u.Mail == "" {
				return nil
			}
			return []string{u.Mail}
		}},
		state.Index[user]{Name: "role", Keys: func(u user) []string { return u.Roles }})
}

var (
	users = newUsers()
	notes = state.NewTable("notes", func(s string) string { return s })
)

func open(t testing.TB, j state.Journal) *state.DB {
	t.Helper()
	db, err := state.Open(context.Background(), state.Config{Journal: j}, users, notes)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

func put(t testing.TB, db *state.DB, us ...user) {
	t.Helper()
	require.NoError(t, db.Update(context.Background(), putting(us...)))
}

func putting(us ...user) func(tx *state.Tx) error {
	return func(tx *state.Tx) error {
		for _, u := range us {
			if err := users.Put(tx, u); err != nil {
				return err
			}
		}
		return nil
	}
}

func ids(seq func(func(user) bool)) []string {
	var all []string
	for u := range seq {
		all = append(all, u.ID)
	}
	return all
}

func TestReading(t *testing.T) {
	t.Parallel()
	db := open(t, state.NewMemory())
	put(t, db, user{ID: "b", Mail: "b@x", Roles: []string{"dev", "admin"}}, user{ID: "ab", Roles: []string{"dev"}},
		user{ID: "a", Mail: "a@x", Roles: []string{"de", "dev\x00"}}, user{ID: "B"})
	v := db.View()
	assert.Equal(t, uint64(1), v.Rev())
	assert.Equal(t, []string{"B", "a", "ab", "b"}, ids(users.All(v)))
	assert.Equal(t, []string{"a", "ab"}, ids(users.Prefix(v, "a")))
	assert.Equal(t, []string{"ab", "b"}, ids(users.By(v, "role", "dev")))
	assert.Equal(t, []string{"a"}, ids(users.By(v, "role", "dev\x00")))
	assert.Equal(t, []string{"a"}, ids(users.By(v, "role", "de")))
	assert.Equal(t, []string{"b"}, ids(users.By(v, "mail", "b@x")))
	assert.Empty(t, ids(users.By(v, "mail", "")))
	u, ok := users.Get(v, "a")
	assert.True(t, ok)
	assert.Equal(t, "a@x", u.Mail)
	_, ok = users.Get(v, "")
	assert.False(t, ok)

	put(t, db, user{ID: "b", Mail: "new@x", Roles: []string{"admin", "ops"}})
	assert.Equal(t, []string{"ab"}, ids(users.By(db.View(), "role", "dev")))
	assert.Equal(t, []string{"b"}, ids(users.By(db.View(), "role", "admin")))
	assert.Empty(t, ids(users.By(db.View(), "mail", "b@x")))
	assert.Equal(t, []string{"ab", "b"}, ids(users.By(v, "role", "dev")), "a view stays as it is")
}

func TestUniqueIndex(t *testing.T) {
	t.Parallel()
	db := open(t, state.NewMemory())
	put(t, db, user{ID: "1", Mail: "m"})
	err := db.Update(context.Background(), putting(user{ID: "2", Mail: "m"}))
	var conflict *state.ConflictError
	require.ErrorAs(t, err, &conflict)
	assert.Equal(t, state.ConflictError{Table: "users", Index: "mail", Value: "m", Key: "1"}, *conflict)
	require.NoError(t, db.Update(context.Background(), func(tx *state.Tx) error {
		require.Error(t, users.Put(tx, user{ID: "2", Mail: "m"}))
		assert.True(t, users.Delete(tx, "1"))
		assert.False(t, users.Delete(tx, "1"))
		return users.Put(tx, user{ID: "2", Mail: "m"})
	}), "after a conflict the update may go on")
	assert.Equal(t, []string{"2"}, ids(users.All(db.View())))
	put(t, db, user{ID: "2", Mail: "m", Roles: []string{"a row may keep its value"}})
}

func TestUpdateSeesItsWritesAndFailingOneChangesNothing(t *testing.T) {
	t.Parallel()
	db := open(t, state.NewMemory())
	put(t, db, user{ID: "1"})
	no := errors.New("no")
	err := db.Update(context.Background(), func(tx *state.Tx) error {
		require.NoError(t, users.Put(tx, user{ID: "2"}))
		assert.True(t, users.Delete(tx, "1"))
		assert.Equal(t, []string{"2"}, ids(users.All(tx)))
		assert.Equal(t, []string{"1"}, ids(users.All(db.View())))
		for u := range users.All(tx) { // changing while reading
			users.Delete(tx, u.ID)
		}
		assert.Empty(t, ids(users.All(tx)))
		return no
	})
	assert.Same(t, no, err)
	assert.Equal(t, []string{"1"}, ids(users.All(db.View())))
	assert.Panics(t, func() {
		_ = db.Update(context.Background(), func(tx *state.Tx) error {
			require.NoError(t, users.Put(tx, user{ID: "3"}))
			panic("oops")
		})
	})
	put(t, db, user{ID: "4"})
	assert.Equal(t, []string{"1", "4"}, ids(users.All(db.View())))
	assert.ErrorContains(t, db.Update(context.Background(), putting(user{})), "empty key")
}

func TestMistakesPanic(t *testing.T) {
	t.Parallel()
	db := open(t, nil)
	var kept *state.Tx
	require.NoError(t, db.Update(context.Background(), func(tx *state.Tx) error { kept = tx; return nil }))
	assert.Panics(t, func() { users.Get(kept, "1") })
	assert.Panics(t, func() { state.NewTable("else", func(s string) string { return s }).Get(db.View(), "1") })
	assert.Panics(t, func() { ids(users.By(db.View(), "no such index", "1")) })
	_, err := state.Open(context.Background(), state.Config{}, users, newUsers())
	assert.ErrorContains(t, err, "two tables")
	_, err = state.Open(context.Background(), state.Config{})
	assert.Error(t, err)
}

// TestJoinedUpdates holds that those who wait for the journal share a commit, that one of
// them can fail alone, and that nothing is visible before it is durable.
func TestJoinedUpdates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := state.NewMemory()
		db := open(t, m)
		gate := make(chan struct{})
		m.Inject(state.Fault{Wait: gate})
		var wg sync.WaitGroup
		errs := make([]error, 21)
		for i := range errs {
			wg.Go(func() {
				errs[i] = db.Update(context.Background(), func(tx *state.Tx) error {
					if err := users.Put(tx, user{ID: fmt.Sprint(i)}); err != nil || i == 7 {
						return errors.Join(err, errors.New("seven"))
					}
					return nil
				})
			})
			synctest.Wait() // 0 is at the journal, the others queue in order
		}
		assert.Empty(t, ids(users.All(db.View())))
		close(gate)
		wg.Wait()
		for i, err := range errs {
			assert.Equal(t, i == 7, err != nil, "update %d: %v", i, err)
		}
		assert.Equal(t, 2, m.Commits())
		assert.Len(t, ids(users.All(db.View())), 20)
		assert.Equal(t, uint64(2), db.View().Rev())
	})
}

// TestUncertainCommits is the table of faults, in pairs: not done, and done.
func TestUncertainCommits(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection lost")
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprintf("done=%v/repeated", done), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := state.NewMemory()
				db := open(t, m)
				m.Inject(state.Fault{Err: broken, Done: done}, state.Fault{Err: broken, Done: done})
				put(t, db, user{ID: "1"})
				put(t, db, user{ID: "2"})
				assert.Equal(t, 4, m.Commits())
				assert.Equal(t, []string{"1", "2"}, ids(users.All(open(t, m).View())))
			})
		})
		t.Run(fmt.Sprintf("done=%v/caller leaves", done), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := state.NewMemory()
				db := open(t, m)
				m.Inject(slices.Repeat([]state.Fault{{Err: broken, Done: done}}, 3)...)
				ctx, cancel := context.WithTimeout(context.Background(), 15*time.Millisecond)
				defer cancel()
				err := db.Update(ctx, putting(user{ID: "1"}))
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.ErrorIs(t, err, state.ErrUncertain)
				assert.ErrorIs(t, err, broken)
				assert.Empty(t, ids(users.All(db.View())))
				put(t, db, user{ID: "2"})
				assert.Equal(t, []string{"1", "2"}, ids(users.All(db.View())), "the batch is settled before the next")
				assert.Equal(t, []string{"1", "2"}, ids(users.All(open(t, m).View())))
			})
		})
		t.Run(fmt.Sprintf("done=%v/close settles", done), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := state.NewMemory()
				db := open(t, m)
				m.Inject(state.Fault{Err: broken, Done: done})
				result := make(chan error)
				go func() { result <- db.Update(context.Background(), putting(user{ID: "1"})) }()
				synctest.Wait() // it pauses after the fault
				require.NoError(t, db.Close())
				assert.NoError(t, <-result)
				assert.Equal(t, []string{"1"}, ids(users.All(db.View())))
				assert.ErrorIs(t, db.Update(context.Background(), putting(user{ID: "2"})), state.ErrClosed)
			})
		})
		t.Run(fmt.Sprintf("done=%v/close gives up", done), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := state.NewMemory()
				db, err := state.Open(context.Background(), state.Config{Journal: m}, users)
				require.NoError(t, err)
				m.Inject(state.Fault{Err: broken, Done: done}, state.Fault{Err: broken, Done: done})
				result := make(chan error)
				go func() { result <- db.Update(context.Background(), putting(user{ID: "1"})) }()
				synctest.Wait()
				require.ErrorIs(t, db.Close(), broken)
				err = <-result
				assert.ErrorIs(t, err, state.ErrClosed)
				assert.ErrorIs(t, err, state.ErrUncertain)
				assert.Equal(t, done, len(ids(users.All(open(t, m).View()))) == 1)
			})
		})
	}
}

// TestLeaderLeaves holds that the one who talks to the journal for all may leave, and that
// somebody else goes on.
func TestLeaderLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := state.NewMemory()
		db := open(t, m)
		m.Inject(state.Fault{Wait: make(chan struct{})})
		ctx, cancel := context.WithCancel(context.Background())
		first := make(chan error)
		go func() { first <- db.Update(ctx, putting(user{ID: "1"})) }()
		synctest.Wait()
		second := make(chan error)
		go func() { second <- db.Update(context.Background(), putting(user{ID: "2"})) }()
		synctest.Wait()
		cancel()
		assert.ErrorIs(t, <-first, state.ErrUncertain)
		require.NoError(t, <-second)
		assert.Equal(t, []string{"1", "2"}, ids(users.All(db.View())))
	})
}

func TestReadOfStagedRowIsDurableOnReturn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := state.NewMemory()
		db := open(t, m)
		gate := make(chan struct{})
		m.Inject(state.Fault{Wait: gate})
		var wg sync.WaitGroup
		wg.Go(func() { put(t, db, user{ID: "1"}) })
		synctest.Wait()
		wg.Go(func() {
			var seen bool
			assert.NoError(t, db.Update(context.Background(), func(tx *state.Tx) error {
				_, seen = users.Get(tx, "1")
				return nil
			}))
			_, durable := users.Get(db.View(), "1")
			assert.True(t, seen && durable)
		})
		synctest.Wait()
		close(gate)
		wg.Wait()
	})
}

func TestFencedForEver(t *testing.T) {
	t.Parallel()
	m := state.NewMemory()
	db := open(t, m)
	put(t, db, user{ID: "1"})
	m.Fence()
	assert.ErrorIs(t, db.Update(context.Background(), putting(user{ID: "2"})), state.ErrFenced)
	next := open(t, m) // takes over
	put(t, next, user{ID: "3"})
	assert.ErrorIs(t, db.Update(context.Background(), putting(user{ID: "4"})), state.ErrFenced)
	assert.Equal(t, []string{"1"}, ids(users.All(db.View())))
	assert.Equal(t, []string{"1", "3"}, ids(users.All(next.View())))
}

func TestEndedContextDoesNothing(t *testing.T) {
	t.Parallel()
	db := open(t, state.NewMemory())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := db.Update(ctx, func(*state.Tx) error { t.Error("fn ran"); return nil })
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, state.ErrUncertain)
}

func TestChanged(t *testing.T) {
	t.Parallel()
	db := open(t, nil)
	onUsers, onNotes, any := db.Changed(users), db.Changed(notes), db.Changed()
	assert.Equal(t, onUsers, db.Changed(users), "waiting again costs nothing")
	put(t, db, user{ID: "1"})
	<-onUsers
	<-any
	select {
	case <-onNotes:
		t.Error("notes did not change")
	default:
	}
	both := db.Changed(notes, users)
	require.NoError(t, db.Update(context.Background(), func(tx *state.Tx) error { return notes.Put(tx, "n") }))
	<-onNotes
	<-both
}

func TestChanges(t *testing.T) {
	t.Parallel()
	m := state.NewMemory()
	db := open(t, m)
	put(t, db, user{ID: "1"})
	require.NoError(t, db.Update(context.Background(), func(tx *state.Tx) error {
		require.NoError(t, notes.Put(tx, "n"))
		require.NoError(t, users.Put(tx, user{ID: "1", Mail: "between"}))
		require.NoError(t, users.Put(tx, user{ID: "1", Mail: "last"}))
		require.NoError(t, users.Put(tx, user{ID: "short"}))
		users.Delete(tx, "short")
		return nil
	}))
	require.NoError(t, db.Update(context.Background(), func(tx *state.Tx) error { users.Delete(tx, "1"); return nil }))
	all, err := db.Changes(0)
	require.NoError(t, err)
	var got []string
	for _, c := range all {
		assert.False(t, c.Time.IsZero())
		got = append(got, fmt.Sprint(c.Rev, c.Table, c.Key, c.Old, c.New))
	}
	assert.Equal(t, []string{
		"1users1<nil> {1  []}", "2notesn<nil>n", "2users1{1  []} {1 last []}", "3users1{1 last []} <nil>",
	}, got)
	some, err := db.Changes(1, users)
	require.NoError(t, err)
	assert.Len(t, some, 2)
	none, err := db.Changes(3)
	require.NoError(t, err)
	assert.Empty(t, none)
	_, err = db.Changes(4)
	assert.ErrorIs(t, err, state.ErrCompacted)
	again := open(t, m)
	_, err = again.Changes(2)
	assert.ErrorIs(t, err, state.ErrCompacted)
	_, err = again.Changes(3)
	assert.NoError(t, err)
}

func TestOpenRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		rows []state.Row
		say  string
	}{
		"no JSON":     {[]state.Row{{Table: "users", Key: "1", Value: []byte("{")}}, `row "1" of table users`},
		"other key":   {[]state.Row{{Table: "users", Key: "1", Value: []byte(`{"id":"2"}`)}}, `its key is "2"`},
		"not unique":  {[]state.Row{{Table: "users", Key: "1", Value: []byte(`{"id":"1","mail":"m"}`)}, {Table: "users", Key: "2", Value: []byte(`{"id":"2","mail":"m"}`)}}, `mail "m" is taken`},
		"other table": {[]state.Row{{Table: "unknown", Key: "1", Value: []byte("{")}}, ""},
	} {
		m := state.NewMemory()
		require.NoError(t, m.Commit(ctx, state.Batch{Rev: 1, Rows: c.rows}))
		db, err := state.Open(ctx, state.Config{Journal: m}, users)
		if c.say == "" {
			require.NoError(t, err, name)
			require.NoError(t, db.Close())
			continue
		}
		assert.ErrorContains(t, err, c.say, name)
	}
}

// TestManyCallers compares a crowd's updates with a plain counter.
func TestManyCallers(t *testing.T) {
	t.Parallel()
	m := state.NewMemory()
	counts := state.NewTable("counts", func(c count) string { return c.ID })
	db, err := state.Open(context.Background(), state.Config{Journal: m}, counts)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 50 {
				ctx, cancel := context.WithCancel(context.Background())
				if (g+i)%5 == 0 {
					m.Inject(state.Fault{Err: errors.New("fault"), Done: i%2 == 0})
				}
				err := db.Update(ctx, func(tx *state.Tx) error {
					c, _ := counts.Get(tx, "c")
					runtime.Gosched()
					return counts.Put(tx, count{"c", c.N + 1})
				})
				cancel()
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, db.Close())
	db, err = state.Open(context.Background(), state.Config{Journal: m}, counts)
	require.NoError(t, err)
	defer db.Close()
	c, _ := counts.Get(db.View(), "c")
	assert.Equal(t, 800, c.N)
}

type count struct {
	ID string
	N  int
}
