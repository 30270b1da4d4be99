//go:build unix

package lifecycle_test

import (
	"errors"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

func TestUsageBelowAnInit(t *testing.T) {
	t.Parallel()
	// One child that works and ends, one that stays, one that has left.
	dir, cmd := startInit(t, "--", "sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1000 & (setsid sleep 1000 &); echo up; wait")
	if _, err := lifecycle.InitUsage(dir); runtime.GOOS != "linux" {
		require.ErrorIs(t, err, errors.ErrUnsupported)
		return
	}
	o, err := lifecycle.OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	readUntil(t, o, "up")
	var u lifecycle.Usage
	require.Eventually(t, func() bool { // the one that leaves does so while the others are up
		u, err = lifecycle.InitUsage(dir)
		require.NoError(t, err)
		return u.Processes == 3
	}, 30*time.Second, 5*time.Millisecond)
	assert.Greater(t, u.Memory, int64(3*100_000))
	assert.Less(t, u.Memory, int64(50<<20), "init itself does not count")
	assert.Greater(t, u.CPU, 10*time.Millisecond)
	ports, err := lifecycle.InitListening(dir)
	require.NoError(t, err)
	assert.Empty(t, ports)
	require.NoError(t, lifecycle.SignalInit(dir, syscall.SIGKILL))
	_ = cmd.Wait()
	u, err = lifecycle.InitUsage(dir)
	require.NoError(t, err)
	assert.Zero(t, u)
	_, err = lifecycle.InitUsage(t.TempDir())
	assert.Error(t, err)
}
