//go:build unix

package lifecycle_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

func TestMain(m *testing.M) {
	code := m.Run()
	removeBuilds()
	if programDir != "" {
		_ = os.RemoveAll(programDir)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var programDir string

var prepare = sync.OnceValues(func() (*lifecycle.Program, error) {
	dir, err := os.MkdirTemp("", "lifecycle-test-")
	if err != nil {
		return nil, err
	}
	programDir = dir
	return lifecycle.Prepare(context.Background(), lifecycle.Config{Dir: dir})
})

// program is the test binary, prepared.
func program(t testing.TB) *lifecycle.Program {
	t.Helper()
	p, err := prepare()
	require.NoError(t, err)
	return p
}
