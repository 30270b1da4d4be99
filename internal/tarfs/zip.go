package tarfs

import (
	"context"
	"errors"
	"io"
	"os"
)

// Zip is an open zip archive.
type Zip struct{}

// OpenZip is not there yet: errors.ErrUnsupported.
func OpenZip(r io.ReaderAt, size int64, l Limits) (*Zip, error) { return nil, errors.ErrUnsupported }

func (t *tree) zip(z *Zip) error { return errors.ErrUnsupported }

func spoolZip(ctx context.Context, root *os.Root, dir string, src *source, r io.Reader, l Limits) (Stats, error) {
	return Stats{}, errors.ErrUnsupported
}
