package droplet

import (
	"context"
	"fmt"
	"io"
	"runtime"
)

// Compress gzips what fill writes, as [Write] does with a tar: in parallel, and with the
// same bytes for the same input and Level on every machine. Only Level and Parallel of o are
// used. When fill fails, so does Compress, and w has received a useless part.
func Compress(ctx context.Context, w io.Writer, o Options, fill func(io.Writer) error) error {
	if err := o.compression(); err != nil {
		return err
	}
	return compress(ctx, w, o.Level, o.Parallel, fill)
}

// compression fills in the defaults of Level and Parallel.
func (o *Options) compression() error {
	if o.Level == 0 {
		o.Level = 6
	}
	if o.Level < 1 || o.Level > 9 {
		return fmt.Errorf("compression level %d is not one of 1 to 9", o.Level)
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	return nil
}
