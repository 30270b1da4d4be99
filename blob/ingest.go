package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"sync"
)

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// ingest copies r to w until io.EOF and tells size and digest. It looks at ctx before
// each read and once after the last, so that nothing is kept of a Put that was given up.
func ingest(ctx context.Context, w io.Writer, r io.Reader) (size int64, digest string, err error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	sum := sha256.New()
	for empty := 0; ; {
		if err := context.Cause(ctx); err != nil {
			return size, "", withCtx(ctx, err)
		}
		n, err := r.Read(*buf)
		if n > 0 {
			empty = 0
			sum.Write((*buf)[:n])
			if _, err := w.Write((*buf)[:n]); err != nil {
				return size, "", err
			}
			size += int64(n)
		} else if empty++; empty > 100 && err == nil {
			return size, "", io.ErrNoProgress
		}
		if err == io.EOF { // exactly: a wrapped EOF is a reader that broke
			break
		}
		if err != nil {
			return size, "", err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return size, "", withCtx(ctx, err)
	}
	return size, hex.EncodeToString(sum.Sum(nil)), nil
}

// withCtx keeps the promise that an error wraps the context's own, whatever its cause is.
func withCtx(ctx context.Context, cause error) error {
	if errors.Is(cause, ctx.Err()) {
		return cause
	}
	return errors.Join(ctx.Err(), cause)
}

func absent(op, key string) error {
	return &fs.PathError{Op: "blob: " + op, Path: key, Err: fs.ErrNotExist}
}
