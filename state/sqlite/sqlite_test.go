package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/state"
	"github.com/dewpoint-go/dewpoint/state/sqlite"
	"github.com/dewpoint-go/dewpoint/state/statetest"
)

func TestJournal(t *testing.T) {
	t.Parallel()
	statetest.Run(t, func(t *testing.T) (state.Journal, func() state.Journal) {
		path := filepath.Join(t.TempDir(), "state.db")
		open := func() state.Journal {
			j, err := sqlite.Open(t.Context(), path)
			require.NoError(t, err)
			return j
		}
		return open(), open
	})
}

func TestSecondProgramIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	j, err := sqlite.Open(t.Context(), path)
	require.NoError(t, err)
	defer j.Close()
	_, err = sqlite.Open(t.Context(), path)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "another program")
}

func TestNotAJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	require.NoError(t, os.WriteFile(path, []byte("this is a text, not a database, and long enough to be one"), 0o600))
	_, err := sqlite.Open(t.Context(), path)
	require.ErrorContains(t, err, path)
}
