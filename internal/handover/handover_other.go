//go:build !linux

package handover

import (
	"context"
	"errors"
	"os"
)

// Ask is not supported here: files are passed on Linux only.
func Ask(context.Context, string, string, ...*os.File) (*os.File, error) {
	return nil, errors.ErrUnsupported
}
