package dewpoint_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
)

// shellInMemory says where it is, and then what is typed.
func shellInMemory(_ context.Context, p cell.MemoryProcess) int {
	fmt.Fprintln(p.Stdout, p.Getenv("CF_INSTANCE_INDEX"), p.Getenv("WHO"), p.Getenv("TERM"), strings.Join(p.Args, "|"))
	_, _ = io.Copy(p.Stdout, p.Stdin)
	return 7
}

func TestShell(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	ctx := t.Context()
	_, err := p.Shell(ctx, "app", dewpoint.ShellRequest{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	req := request("app", site("one", "worker"))
	two := 2
	req.Instances, req.Env = &two, []string{"WHO=app"}
	_, err = p.Push(ctx, req)
	require.NoError(t, err)

	s, err := p.Shell(ctx, "app", dewpoint.ShellRequest{Index: 1, Command: "ls -l", Env: []string{"TERM=dumb"}})
	require.NoError(t, err)
	_, err = io.WriteString(s.Stdin(), "typed\n")
	require.NoError(t, err)
	require.NoError(t, s.Stdin().Close())
	said, err := io.ReadAll(s.Stdout())
	require.NoError(t, err)
	assert.Equal(t, "1 app dumb /home/vcap/app|ls -l\ntyped\n", string(said))
	e, err := s.Wait(ctx)
	require.NoError(t, err)
	assert.Equal(t, 7, e.Code)
	require.NoError(t, s.Close())

	for says, r := range map[string]dewpoint.ShellRequest{
		"there is no instance 2 of web, which has 2":    {Index: 2},
		"there is no instance 0 of worker, which has 0": {Process: "worker"},
		`it has no process "none"`:                      {Process: "none"},
	} {
		_, err := p.Shell(ctx, "app", r)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, says)
	}
	_, err = p.Shell(ctx, "app", dewpoint.ShellRequest{Size: &cell.TerminalSize{}})
	require.ErrorIs(t, err, errors.ErrUnsupported, "there are no terminals in memory")

	// It ends with its instance.
	s, err = p.Shell(ctx, "app", dewpoint.ShellRequest{})
	require.NoError(t, err)
	require.NoError(t, p.Stop(ctx, "app"))
	e, err = s.Wait(ctx)
	require.NoError(t, err)
	assert.Equal(t, "KILL", e.Signal)
	require.NoError(t, s.Close())
	_, err = p.Shell(ctx, "app", dewpoint.ShellRequest{})
	require.ErrorContains(t, err, "the app is stopped")
}
