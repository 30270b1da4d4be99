package ports

import (
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTwoPoolsNeverShareAPort(t *testing.T) {
	t.Parallel()
	var a Pool
	one, err := a.Take(t.Context(), 20)
	require.NoError(t, err)
	two, err := a.Take(t.Context(), 20)
	require.NoError(t, err)
	for _, p := range one {
		assert.NotContains(t, two, p)
	}
	a.Release(one)
	a.Release(two)
	three, err := a.Take(t.Context(), 40)
	require.NoError(t, err)
	a.Release(three)
}

func TestAPortWhereSomebodyListensIsPassedOver(t *testing.T) {
	t.Parallel()
	var p Pool
	got, err := p.Take(t.Context(), 1)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(got[0]))
	require.NoError(t, err)
	defer l.Close()
	p.Release(got)
	p.mu.Lock()
	defer p.mu.Unlock()
	assert.False(t, p.take(t.Context(), got[0]))
}
