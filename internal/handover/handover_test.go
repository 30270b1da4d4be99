//go:build linux

package handover_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/internal/handover"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers at a socket with a long name until the test ends.
func serve(t *testing.T, answer func(string, []*os.File) (*os.File, error)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	require.NoError(t, os.Mkdir(dir, 0o755))
	file := filepath.Join(dir, "socket")
	require.NoError(t, os.WriteFile(file, []byte("one that has gone"), 0o600))
	l, err := handover.Listen(file)
	require.NoError(t, err)
	done := make(chan error)
	go func() { done <- handover.Serve(l, answer) }()
	t.Cleanup(func() {
		assert.NoError(t, l.Close())
		assert.NoError(t, <-done)
	})
	return file
}

func TestFilesArePassedBothWays(t *testing.T) {
	t.Parallel()
	socket := serve(t, func(question string, files []*os.File) (*os.File, error) {
		assert.Len(t, files, 2)
		_, err := io.WriteString(files[1], "got "+question)
		assert.NoError(t, err)
		assert.NoError(t, files[1].Close())
		return files[0], err
	})
	r, w, err := os.Pipe()
	require.NoError(t, err)
	got, err := handover.Ask(t.Context(), socket, "a question", r, w)
	require.NoError(t, err)
	require.NoError(t, errors.Join(r.Close(), w.Close()))
	b, err := io.ReadAll(got)
	require.NoError(t, err)
	assert.Equal(t, "got a question", string(b))
	require.NoError(t, got.Close())
}

func TestErrors(t *testing.T) {
	t.Parallel()
	socket := serve(t, func(question string, _ []*os.File) (*os.File, error) {
		switch question {
		case "refused":
			return nil, &net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		case "other":
			return nil, errors.New("not today")
		}
		return nil, nil
	})
	f, err := handover.Ask(t.Context(), socket, "refused")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.Nil(t, f)
	_, err = handover.Ask(t.Context(), socket, "other")
	require.EqualError(t, err, "not today")
	f, err = handover.Ask(t.Context(), socket, "")
	require.NoError(t, err)
	assert.Nil(t, f)
	_, err = handover.Ask(t.Context(), socket, strings.Repeat("x", 100<<10))
	require.Error(t, err)
	_, err = handover.Ask(t.Context(), filepath.Join(t.TempDir(), "none"), "")
	require.ErrorIs(t, err, syscall.ENOENT)
}

func TestAskEndsWithItsContext(t *testing.T) {
	t.Parallel()
	asked, end := make(chan struct{}), make(chan struct{})
	socket := serve(t, func(string, []*os.File) (*os.File, error) {
		close(asked)
		<-end
		return nil, nil
	})
	t.Cleanup(func() { close(end) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	go func() {
		<-asked
		cancel()
	}()
	_, err := handover.Ask(ctx, socket, "")
	require.ErrorIs(t, err, context.Canceled)
}
