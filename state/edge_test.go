package state_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/state"
)

// TestRowsThatCouldNotBeReadAgain holds that a row is refused whose key, or unique value,
// would come back as another one from the journal: it would keep the DB from being opened.
func TestRowsThatCouldNotBeReadAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, us := range map[string][]user{
		"key":          {{ID: "caf\xe9"}},
		"unique value": {{ID: "1", Mail: "a\xe9"}, {ID: "2", Mail: "a\xe8"}},
	} {
		m := state.NewMemory()
		db := open(t, m)
		err := db.Update(ctx, putting(us...))
		require.ErrorContains(t, err, "UTF-8", name)
		put(t, db, user{ID: "café", Mail: "é", Roles: []string{"\xe9"}})
		require.NoError(t, db.Close())
		assert.Equal(t, []string{"café"}, ids(users.All(open(t, m).View())), name)
	}
}

// TestReadOfWhatWasFencedIsAnError holds that what an Update read is durable when it returns
// nil: not when the change that it saw was fenced off meanwhile.
func TestReadOfWhatWasFencedIsAnError(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	m := state.NewMemory()
	db := open(t, m)
	gate, staged := make(chan struct{}), make(chan struct{})
	m.Inject(state.Fault{Wait: gate})
	m.Fence()
	first := make(chan error, 1)
	go func() {
		first <- db.Update(ctx, func(tx *state.Tx) error {
			defer close(staged)
			return users.Put(tx, user{ID: "1"})
		})
	}()
	<-staged
	err := db.Update(ctx, func(tx *state.Tx) error {
		_, seen := users.Get(tx, "1")
		assert.True(t, seen)
		close(gate)
		assert.ErrorIs(t, <-first, state.ErrFenced)
		return nil
	})
	assert.ErrorIs(t, err, state.ErrFenced)
}
