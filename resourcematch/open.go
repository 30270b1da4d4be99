package resourcematch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// Manifest reads the manifest of a package by its key. One that is not kept:
// fs.ErrNotExist; one that is damaged: an *Error with reason Corrupt.
func (c *Cache) Manifest(ctx context.Context, key string) (*Manifest, error) {
	r, err := c.catalog.Open(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	defer r.Close()
	m, err := readManifest(r)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, errDamaged):
		err = c.corrupt(ctx, &Part{}, key, err)
	}
	return nil, fmt.Errorf("open package %s: its manifest: %w", key, err)
}

// Open streams the package whose manifest has the key, with the same bytes each time:
// directories first, then files, then links, so that unpacking it never
// goes through a link; all are of 1980-01-01.
//
// Each content is held against its digest while it passes. If one fails, the stream ends
// with an *Error of reason Corrupt instead of io.EOF, and nothing of the damaged blob is known
// any more, so that the next push brings its content anew. The caller must Close the stream; it ends with ctx, too.
func (c *Cache) Open(ctx context.Context, key string, format Format) (io.ReadCloser, error) {
	m, err := c.Manifest(ctx, key)
	if err != nil {
		return nil, err
	}
	if _, err := newSink(io.Discard, format); err != nil {
		return nil, err
	}
	return piped(ctx, func(ctx context.Context, w io.Writer) error {
		if err := c.write(ctx, m, format, w); err != nil {
			return fmt.Errorf("read package %s: %w", key, err)
		}
		return nil
	}), nil
}

// order puts files as they lie in their blobs, so that each of those is read from its
// beginning to its end.
func order(parts []Part) []*Part {
	rank := func(p *Part) int {
		switch {
		case p.Dir:
			return 0
		case p.Link == "":
			return 1
		}
		return 2
	}
	out := make([]*Part, len(parts))
	for i := range parts {
		out[i] = &parts[i]
	}
	slices.SortStableFunc(out, func(a, b *Part) int {
		return cmp.Or(rank(a)-rank(b), a.Blob-b.Blob, cmp.Compare(a.Offset, b.Offset), strings.Compare(a.Path, b.Path))
	})
	return out
}

func (c *Cache) write(ctx context.Context, m *Manifest, format Format, w io.Writer) error {
	s, err := newSink(w, format)
	if err != nil {
		return err
	}
	blobs := blobReader{c: c, ctx: ctx}
	defer blobs.close()
	for _, p := range order(m.Entries) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.stored() {
			err = c.copyPart(ctx, s, p, m.Blobs[p.Blob], &blobs)
		} else {
			err = s.add(&p.Entry, strings.NewReader(""))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.Path, err)
		}
	}
	return s.close()
}

func (c *Cache) copyPart(ctx context.Context, s sink, p *Part, key string, blobs *blobReader) error {
	r, err := blobs.at(key, p.Offset, p.Size)
	if errors.Is(err, fs.ErrNotExist) {
		return c.corrupt(ctx, p, key, err)
	}
	if err != nil {
		return err
	}
	want := Fingerprint{Path: p.Path, SHA256: p.SHA256, Size: p.Size}
	src := newChecked(ctx, r, &want, onlySHA256)
	err = src.blame(s.add(&p.Entry, src))
	var e *Error
	if errors.As(err, &e) && e.Reason == Changed {
		return c.corrupt(ctx, p, key, err)
	}
	return err
}

// corrupt gives damaged bytes up, so that the same content can be stored anew.
func (c *Cache) corrupt(ctx context.Context, p *Part, key string, cause error) error {
	e := &Error{Reason: Corrupt, Path: p.Path, Err: cause}
	if err := c.catalog.Discard(ctx, key); err != nil {
		return errors.Join(e, err)
	}
	return e
}

// skip is how much of a blob is rather read in vain than that the blob is opened again.
const skip = 1 << 20

// blobReader reads pieces of blobs, best in the order in which they lie there.
type blobReader struct {
	c   *Cache
	ctx context.Context
	key string
	r   io.ReadCloser
	off int64
}

func (b *blobReader) at(key string, off, size int64) (io.Reader, error) {
	if b.r != nil && (key != b.key || off < b.off || off > b.off+skip) {
		b.close()
	}
	if b.r == nil {
		r, err := b.c.catalog.OpenRange(b.ctx, key, off, -1)
		if err != nil {
			return nil, err
		}
		b.key, b.r, b.off = key, r, off
	}
	n, err := io.CopyN(io.Discard, b.r, off-b.off)
	b.off += n
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return &blobPart{b, size}, nil
}

func (b *blobReader) close() {
	if b.r != nil {
		b.r.Close()
	}
	b.r = nil
}

type blobPart struct {
	b    *blobReader
	left int64
}

func (p *blobPart) Read(buf []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n, err := p.b.r.Read(buf[:min(int64(len(buf)), p.left)])
	p.b.off += int64(n)
	p.left -= int64(n)
	return n, err
}
