//go:build linux || darwin

package folder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAccount(t *testing.T) {
	bare, full := t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(full, "etc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(full, "etc/passwd"), []byte("toor:x:0:7::/:\nweb:x:33:34::/:\nbad:x:-1:0::/:\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(full, "etc/group"), []byte("staff:x:50:\n"), 0o644))
	for _, c := range []struct {
		dir, user string
		uid, gid  int
		err       string
	}{
		{bare, "", 0, 0, ""},
		{bare, "root", 0, 0, ""},
		{bare, "5", 5, 0, ""},
		{bare, "5:6", 5, 6, ""},
		{bare, "web", 0, 0, `its user "web" is not in its /etc/passwd`},
		{bare, "5:staff", 0, 0, `its group "staff" is not in its /etc/group`},
		{bare, "4294967295", 0, 0, "is not in its /etc/passwd"},
		{full, "", 0, 0, ""}, // root by another name only
		{full, "0", 0, 7, ""},
		{full, "web", 33, 34, ""},
		{full, "33", 33, 34, ""},
		{full, "web:staff", 33, 50, ""},
		{full, "web:", 33, 34, ""},
		{full, "bad", 0, 0, `the number "-1"`},
	} {
		uid, gid, err := account(c.dir, c.user)
		if c.err != "" {
			assert.ErrorContains(t, err, c.err, "user %q", c.user)
			continue
		}
		require.NoError(t, err, "user %q", c.user)
		assert.Equal(t, [2]int{c.uid, c.gid}, [2]int{uid, gid}, "user %q", c.user)
	}
}
