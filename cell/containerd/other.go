//go:build !linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Runtime is not to be had on this operating system.
type Runtime struct{ cell.Runtime }

// New says that this operating system is not supported.
func New(context.Context, Config) (*Runtime, error) {
	return nil, fmt.Errorf("containerd.New: %w on %s: containers of this kind are Linux", errors.ErrUnsupported, runtime.GOOS)
}

// Close does nothing.
func (*Runtime) Close() error { return nil }
