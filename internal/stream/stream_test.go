package stream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/internal/stream"
)

func TestReader(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := &stream.Reader{Ctx: ctx, R: strings.NewReader("ab")}
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Equal(t, "ab", string(b))
	require.NoError(t, r.Err, "the end is no failure")
	broken := errors.New("broken")
	r.R = iotest.ErrReader(broken)
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, r.Err, broken)
	r.R = strings.NewReader("more")
	cancel()
	n, err := r.Read(make([]byte, 1))
	assert.Zero(t, n)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, r.Err, context.Canceled)
}

func TestWriter(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var b bytes.Buffer
	c := &stream.Counter{W: stream.Writer{Ctx: ctx, W: &b}}
	_, err := io.WriteString(c, "abc")
	require.NoError(t, err)
	cancel()
	_, err = io.WriteString(c, "d")
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, "abc", b.String())
	assert.EqualValues(t, 3, c.N)
}

func TestLimit(t *testing.T) {
	t.Parallel()
	much := errors.New("too much")
	for limit, fits := range map[int64]bool{0: false, 2: false, 3: true, 4: true, math.MaxInt64: true} {
		l := &stream.Limit{R: iotest.OneByteReader(strings.NewReader("abc")), Left: limit, Err: much}
		_, err := io.ReadAll(l)
		assert.Equal(t, fits, err == nil, "%d: %v", limit, err)
		rest := strings.NewReader("abcdefgh")
		l = &stream.Limit{R: rest, Left: limit, Err: much}
		_, err = io.ReadAll(l)
		if limit < 8 {
			require.ErrorIs(t, err, much)
			assert.EqualValues(t, 8-limit-1, rest.Len(), "one more is asked for")
			_, err = l.Read(make([]byte, 1))
			require.ErrorIs(t, err, much, "and it stays so")
		}
	}
}
