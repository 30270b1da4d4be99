package local_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell/local"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpen(t *testing.T) {
	t.Parallel()
	c, err := local.Open(t.Context(), local.Config{Dir: t.TempDir(), Isolation: local.None, Path: "/home/me/go/bin:/usr/bin"})
	require.NoError(t, err)
	assert.Equal(t, local.None, c.Level)
	assert.Equal(t, "/home/me/go/bin:/usr/bin", c.Path)
	assert.Empty(t, c.Hidden)
	assert.Empty(t, c.Why)
	require.NoError(t, c.Close())

	_, err = local.Open(t.Context(), local.Config{Dir: t.TempDir(), Isolation: "strong"})
	require.ErrorContains(t, err, `Config.Isolation is "strong": use "namespaces", "landlock" or "none"`)
	for _, level := range []string{"", local.None} {
		_, err = local.Open(t.Context(), local.Config{Isolation: level})
		require.ErrorContains(t, err, "Config.Dir is empty", "not a reason to isolate less")
	}
}

func TestOpenTakesTheStrongest(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		c, err := local.Open(t.Context(), local.Config{Dir: t.TempDir()})
		require.NoError(t, err)
		assert.Equal(t, local.None, c.Level)
		assert.Contains(t, c.Why, "use Linux")
		require.NoError(t, c.Close())
		_, err = local.Open(t.Context(), local.Config{Dir: t.TempDir(), Isolation: sandbox.Landlock})
		require.ErrorIs(t, err, errors.ErrUnsupported)
		return
	}
	c, err := local.Open(t.Context(), local.Config{Dir: t.TempDir(), Path: "/home/me/go/bin:/usr/bin", Isolation: sandbox.Namespaces})
	if errors.Is(err, errors.ErrUnsupported) {
		needs.Missing(t, err.Error())
	}
	require.NoError(t, err)
	assert.Equal(t, sandbox.Namespaces, c.Level)
	assert.Equal(t, "/usr/bin", c.Path)
	assert.Equal(t, []string{"/home/me/go/bin"}, c.Hidden)
	assert.Empty(t, c.Why)
	require.NoError(t, c.Close())
	c, err = local.Open(t.Context(), local.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	assert.Equal(t, sandbox.Namespaces, c.Level)
	require.NoError(t, c.Close())
}
