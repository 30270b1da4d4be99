// Package stream has what readers and writers are wrapped in, in several packages alike.
package stream

import (
	"context"
	"errors"
	"io"
)

// Reader reads from R until Ctx ends, remembers why that failed, and hides all other methods of R.
type Reader struct {
	Ctx context.Context
	R   io.Reader
	// Err is the last failure, also of Ctx; nil, or nil yet: none. The end is no failure.
	Err error
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.Ctx.Err(); err != nil {
		r.Err = err
		return 0, err
	}
	n, err := r.R.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.Err = err
	}
	return n, err
}

// Writer writes to W until Ctx ends, and hides all other methods of W.
type Writer struct {
	Ctx context.Context
	W   io.Writer
}

// Write implements io.Writer.
func (w Writer) Write(p []byte) (int, error) {
	if err := w.Ctx.Err(); err != nil {
		return 0, err
	}
	return w.W.Write(p)
}

// Counter counts the bytes that W took.
type Counter struct {
	W io.Writer
	N int64
}

// Write implements io.Writer.
func (c *Counter) Write(p []byte) (int, error) {
	n, err := c.W.Write(p)
	c.N += int64(n)
	return n, err
}

// Limit fails with Err where more than Left bytes come of R, of which it asks for one more at most.
type Limit struct {
	R    io.Reader
	Left int64
	Err  error
}

// Read implements io.Reader.
func (l *Limit) Read(p []byte) (int, error) {
	if l.Left < 0 {
		return 0, l.Err
	}
	if int64(len(p))-1 > l.Left {
		p = p[:l.Left+1]
	}
	n, err := l.R.Read(p)
	if l.Left -= int64(n); l.Left < 0 {
		return 0, l.Err
	}
	return n, err
}
