//go:build unix && !linux

package lifecycle

import (
	"context"
	"errors"
	"os"
)

// A Line is not supported here: files are passed on Linux only.
type Line struct{ In, Out, Err *os.File }

// OpenLine is not supported here.
func OpenLine(*[2]uint16) (*Line, *os.File, error) { return nil, nil, errors.ErrUnsupported }

// Begin is not supported here.
func (*Line) Begin(context.Context) error { return errors.ErrUnsupported }

// Resize is not supported here.
func (*Line) Resize(uint16, uint16) error { return errors.ErrUnsupported }

// Close is not supported here.
func (*Line) Close() error { return errors.ErrUnsupported }

type farLine struct {
	files []*os.File
	size  string
}

func openFarLine() (*farLine, error) { return nil, errors.ErrUnsupported }

func (*farLine) hold(chan<- os.Signal) {}

func (*farLine) terminal() (*os.File, error) { return nil, errors.ErrUnsupported }
