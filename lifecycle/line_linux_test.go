package lifecycle_test

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

const fewFilesEnv = "LIFECYCLE_TEST_FEW_FILES"

// Where descriptors run out there is an error, and none is kept. In a program of its own, as the limit is that of all.
func TestALineWithoutFiles(t *testing.T) {
	if os.Getenv(fewFilesEnv) == "" {
		t.Parallel()
		exe, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command(exe, "-test.run=^TestALineWithoutFiles$")
		cmd.Env = append(os.Environ(), fewFilesEnv+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(all)
	}
	l, theirs, err := lifecycle.OpenLine(nil) // the runtime's own are open from here on
	require.NoError(t, err)
	require.NoError(t, errors.Join(theirs.Close(), l.Close()))
	before := open()
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	failed := 0
	for free := range 12 {
		few := limit
		few.Cur = uint64(before + free)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
		l, theirs, err := lifecycle.OpenLine(nil)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		if err != nil {
			failed++
			require.ErrorIs(t, err, syscall.EMFILE)
		} else {
			require.NoError(t, theirs.Close())
			require.NoError(t, l.Close())
		}
		require.Equal(t, before, open(), "with %d free", free)
	}
	assert.Greater(t, failed, 4)
	assert.Less(t, failed, 12)
}
