package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/state"
)

// TestPragmas holds what makes a commit survive a power cut, which no kill can show.
func TestPragmas(t *testing.T) {
	t.Parallel()
	j, err := Open(t.Context(), filepath.Join(t.TempDir(), "a folder with ? and # in it.db"))
	require.NoError(t, err)
	defer j.Close()
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "locking_mode": "exclusive"} {
		var got string
		require.NoError(t, j.conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got))
		assert.Equal(t, want, got, pragma)
	}
}

// TestOnlyTheOwnerMayRead holds that others on the machine can't read the file, nor its
// write-ahead log: rows have passwords in them.
func TestOnlyTheOwnerMayRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	j, err := Open(t.Context(), path)
	require.NoError(t, err)
	defer j.Close()
	require.NoError(t, j.Commit(t.Context(), state.Batch{Rev: 1, Rows: []state.Row{{Table: "t", Key: "k", Value: []byte("1")}}}))
	for _, name := range []string{path, path + "-wal"} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Zero(t, info.Mode().Perm()&0o077, "%s: %v", name, info.Mode())
	}
}
