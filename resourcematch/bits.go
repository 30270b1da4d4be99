package resourcematch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"

	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/internal/stream"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

// pack stores files one after the other in one blob.
func (a *assembly) pack(ctx context.Context, files []work, size int64) error {
	r := &packReader{ctx: ctx, parts: a.parts, files: files}
	defer r.close()
	if size == 0 { // nothing to keep, but all to check
		_, err := io.Copy(io.Discard, r)
		return err
	}
	ref, err := a.c.catalog.PutParts(ctx, KindFiles, a.u.Lease, r, func() (all []catalog.Part) {
		for _, w := range files {
			all = a.found(all, &a.parts[w.part])
		}
		return all
	})
	if err != nil {
		if r.err != nil && !errors.Is(r.err, io.EOF) {
			err = r.err
		}
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.blob(ref.Key)
	for _, w := range files {
		if p := &a.parts[w.part]; p.stored() {
			p.Blob = n
		}
	}
	return nil
}

// packReader yields the contents of files and notes in their parts where each is and what
// it is.
type packReader struct {
	ctx   context.Context
	parts []Part
	files []work
	off   int64
	cur   *checked
	body  io.Closer
	err   error
}

func (r *packReader) Read(p []byte) (int, error) {
	for r.err == nil {
		if r.cur == nil {
			r.err = r.next()
			continue
		}
		n, err := r.cur.Read(p)
		r.off += int64(n)
		if errors.Is(err, io.EOF) {
			r.cur.sums.into(&r.parts[r.files[0].part].Fingerprint)
			r.close()
			r.files = r.files[1:]
			err = nil
		}
		r.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

func (r *packReader) next() error {
	if len(r.files) == 0 {
		return io.EOF
	}
	w := &r.files[0]
	f, err := w.open()
	if err != nil {
		return fmt.Errorf("store %s: %w", w.Path, err)
	}
	if w.Size > 0 {
		r.parts[w.part].Offset = r.off
	}
	take := bothSums
	if w.SHA1 != "" && w.SHA256 != "" {
		take = onlySHA256 // it proves both
	}
	r.cur, r.body = newChecked(r.ctx, f, &w.Fingerprint, take), f
	return nil
}

func (r *packReader) close() {
	if r.body != nil {
		r.body.Close()
	}
	r.cur, r.body = nil, nil
}

// upload stores a stream, whatever archive it is.
func (a *assembly) upload(ctx context.Context) error {
	if f, ok := a.u.Bits.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		if done, err := a.inPlace(ctx, f); done {
			return err
		}
	}
	br := bufio.NewReaderSize(a.u.Bits, chunk)
	head, err := br.Peek(4)
	switch {
	case len(head) == 0 && errors.Is(err, io.EOF):
		a.nothing = true
		return nil
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("read the upload: %w", err)
	case len(head) >= 2 && string(head[:2]) == "\x1f\x8b":
		z, err := gzip.NewReader(br)
		if err != nil {
			return badTar(err)
		}
		return a.tar(ctx, z)
	case isZip(head):
		most := a.c.archiveLimit()
		r := &io.LimitedReader{R: br, N: most}
		return a.spool(ctx, r, func(f *os.File, size int64) error {
			if r.N <= 0 {
				return &Error{Reason: TooLarge, Limit: a.c.cfg.MaxPackage, Detail: "the archive alone is larger"}
			}
			return a.zip(ctx, f, size)
		})
	}
	return a.tar(ctx, br)
}

// archiveLimit is more than any archive has that holds a package within its limit: a zip as it
// is, a tar once it is unpacked.
func (c *Cache) archiveLimit() int64 {
	if c.cfg.MaxPackage == limitOf(-1) {
		return c.cfg.MaxPackage
	}
	return tarfs.Limits{Bytes: c.cfg.MaxPackage, Entries: c.entries}.MaxZip() + 1536*int64(c.entries)
}

func isZip(head []byte) bool {
	return string(head) == "PK\x03\x04" || string(head) == "PK\x05\x06"
}

// inPlace reads a zip where it is; done is false if it is something else.
func (a *assembly) inPlace(ctx context.Context, f interface {
	io.ReaderAt
	io.Seeker
}) (done bool, err error) {
	// From where the reader stands: what came before it is not the upload.
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return false, nil //nolint:nilerr // a pipe is an *os.File too, and is read as a stream
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return true, fmt.Errorf("read the upload: %w", err)
	}
	head := make([]byte, 4)
	if n, _ := f.ReadAt(head, at); n < 4 || !isZip(head) {
		_, err = f.Seek(at, io.SeekStart)
		return err != nil, err
	}
	return true, a.zip(ctx, io.NewSectionReader(f, at, end-at), end-at)
}

func (a *assembly) zip(ctx context.Context, r io.ReaderAt, size int64) error {
	items, err := openZip(r, size, a.c.entries)
	if err != nil {
		return err
	}
	return a.items(ctx, items)
}

// spool runs use on a temporary copy of r, which is gone afterwards.
func (a *assembly) spool(ctx context.Context, r io.Reader, use func(*os.File, int64) error) error {
	f, err := os.CreateTemp(a.c.cfg.TempDir, "dewpoint-upload-*")
	if err != nil {
		return fmt.Errorf("keep the upload for a moment: %w", err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // nothing can be done; the system cleans its temporary directory
	defer f.Close()
	n, err := io.CopyBuffer(onlyWriter{f}, &stream.Reader{Ctx: ctx, R: r}, make([]byte, chunk))
	if err != nil {
		return fmt.Errorf("keep the upload for a moment: %w", err)
	}
	return use(f, n)
}
