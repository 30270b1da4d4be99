package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/state"
	"github.com/dewpoint-go/dewpoint/state/sqlite"
)

// What somebody does to the files under a running program is told by the next commit, which is not
// acknowledged, and by Check.
func TestALostFileIsTold(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be taken away there")
	}
	for name, c := range map[string]struct {
		do   func(path string) error
		want string
	}{
		"deleted": {os.Remove, "state.db is lost while it is in use: it was deleted or moved away; nothing can be kept"},
		"moved":   {func(p string) error { return os.Rename(p, p+".old") }, "moved away"},
		"cut":     {func(p string) error { return os.Truncate(p, 0) }, "state.db is lost while it is in use: it was cut from "},
		"replaced": {func(p string) error {
			if err := os.Rename(p, p+".old"); err != nil {
				return err
			}
			return os.WriteFile(p, make([]byte, 1<<20), 0o600)
		}, "another file stands in its place"},
		"log deleted": {func(p string) error { return os.Remove(p + "-wal") }, "state.db-wal is lost while it is in use: it was deleted"},
		"log cut":     {func(p string) error { return os.Truncate(p+"-wal", 100) }, "state.db-wal is lost while it is in use: it was cut from "},
		"folder":      {func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, "it was deleted"},
	} {
		path := filepath.Join(t.TempDir(), "in", "state.db")
		require.NoError(t, os.Mkdir(filepath.Dir(path), 0o700))
		j, err := sqlite.Open(t.Context(), path)
		require.NoError(t, err)
		db, err := state.Open(t.Context(), state.Config{Journal: j}, left)
		require.NoError(t, err)
		put := func(id string) error {
			return db.Update(t.Context(), func(tx *state.Tx) error { return left.Put(tx, entry{ID: id}) })
		}
		for i := range 3 {
			require.NoError(t, put(fmt.Sprint(i)))
		}
		require.NoError(t, db.Check(t.Context()))
		require.NoError(t, c.do(path), name)
		require.ErrorIs(t, db.Check(t.Context()), state.ErrFenced, name)
		err = put("lost")
		require.ErrorIs(t, err, state.ErrFenced, name)
		require.ErrorContains(t, err, c.want, name)
		_, ok := left.Get(db.View(), "lost")
		assert.False(t, ok, name)
		require.ErrorIs(t, put("more"), state.ErrFenced, name)
		_ = db.Close()
	}
}
