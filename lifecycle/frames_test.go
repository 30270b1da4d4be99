package lifecycle

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func frame(data string) []byte { return append(make([]byte, frameHeader), data...) }

func TestFrames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := newOutputWriter(dir, 0)
	now := time.Unix(5, 6).UTC()
	w.write(frameStdout, now, frame("a"))
	w.write(frameStderr, now, frame("b"))
	o, err := OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	c, err := o.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, Chunk{Time: now, Data: []byte("a")}, c)
	c, err = o.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, Chunk{Stderr: true, Time: now, Data: []byte("b")}, c)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = o.Next(ctx)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	w.close(now)
}

// What a full disk swallowed is told when there is room again.
func TestFramesThatCouldNotBeWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	w := newOutputWriter(dir, 0)
	now := time.Unix(1, 0).UTC()
	w.write(frameStdout, now, frame("lost")) // no folder yet
	require.NoError(t, os.Mkdir(dir, 0o700))
	w.write(frameStdout, now, frame("kept"))
	w.close(now)
	o, err := OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	c, err := o.Next(t.Context())
	require.NoError(t, err)
	assert.EqualValues(t, 4, c.Lost)
	c, err = o.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "kept", string(c.Data))
}

// A reader may see a part of a frame that a full disk then takes back.
func TestAFrameThatIsTakenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := newOutputWriter(dir, 0)
	now := time.Unix(1, 0).UTC()
	w.write(frameStdout, now, frame("one"))
	o, err := OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	_, err = o.Next(t.Context())
	require.NoError(t, err)
	_, err = w.f.WriteAt([]byte("\x01\x00\x00\x09 a part"), w.size)
	require.NoError(t, err)
	_, ok, err := o.read()
	require.NoError(t, err)
	assert.False(t, ok, "it is not whole")
	require.NoError(t, w.f.Truncate(w.size))
	w.write(frameStderr, now, frame("two"))
	c, err := o.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, Chunk{Stderr: true, Time: now, Data: []byte("two")}, c)
}

func TestAFolderThatWasRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.Mkdir(dir, 0o700))
	w := newOutputWriter(dir, 0)
	w.write(frameStdout, time.Unix(1, 0), frame("one"))
	o, err := OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	_, err = o.Next(t.Context())
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(dir))
	_, err = o.Next(t.Context()) // ends, though no exit is recorded
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestWhatIsLostIsToldAtTheEnd(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	w := newOutputWriter(dir, 0)
	now := time.Unix(1, 0).UTC()
	w.write(frameStdout, now, frame("lost"))
	lost := w.close(now)
	assert.EqualValues(t, 4, lost, "there is no room to tell it")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, reserveExit(dir))
	require.NoError(t, recordStarted(dir, started{PID: os.Getpid()}))
	require.NoError(t, recordExit(dir, Exit{Code: 3}, lost))
	o, err := OpenOutput(dir)
	require.NoError(t, err)
	defer o.Close()
	c, err := o.Next(t.Context())
	require.NoError(t, err)
	assert.EqualValues(t, 4, c.Lost)
	_, err = o.Next(t.Context())
	assert.ErrorIs(t, err, io.EOF)
	s, err := InitState(dir)
	require.NoError(t, err)
	assert.Equal(t, 3, s.Exit.Code)
}

func FuzzParseFrame(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00x"))
	f.Add([]byte("\x03\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, n, err := parseFrame(b)
		if n < 0 || n > len(b) || err != nil && n != 0 || c.Lost < 0 || len(c.Data) > n {
			t.Fatalf("%v %d %v", c, n, err)
		}
	})
}
