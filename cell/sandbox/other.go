//go:build !linux

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Runtime is not supported here.
type Runtime struct{}

var _ cell.Runtime = (*Runtime)(nil)

func unsupported() error {
	return fmt.Errorf("isolated processes on %s: %w: use Linux, a cell on another machine or, for code that you trust, cell/process", runtime.GOOS, errors.ErrUnsupported)
}

// New returns an error that wraps errors.ErrUnsupported.
func New(context.Context, Config) (*Runtime, error) { return nil, unsupported() }

// MayGiveUsers returns false.
func MayGiveUsers(int) bool { return false }

// Create implements cell.Runtime.
func (*Runtime) Create(context.Context, cell.Creation) (cell.Container, error) {
	return nil, unsupported()
}

// Containers implements cell.Runtime.
func (*Runtime) Containers(context.Context) ([]cell.Container, error) { return nil, unsupported() }

// Capacity implements cell.Runtime.
func (*Runtime) Capacity(context.Context) (cell.Resources, error) {
	return cell.Resources{}, unsupported()
}

// Lacks tells nothing.
func (*Runtime) Lacks() []string { return nil }

// Close does nothing.
func (*Runtime) Close() error { return nil }
