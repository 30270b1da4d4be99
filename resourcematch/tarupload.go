package resourcematch

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

// tar stores a tar as it arrives.
func (a *assembly) tar(ctx context.Context, r io.Reader) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(a.c.cfg.Writers + 1)
	s := &tarUpload{a: a, ctx: gctx, g: g, done: map[int]*Part{}}
	err := s.read(&tarSource{ctx: gctx, r: r, left: a.c.archiveLimit(), limit: a.c.cfg.MaxPackage})
	if s.pack != nil {
		s.pack.CloseWithError(err) // nil: io.EOF
	}
	// A worker's failure ends the reading; then it is the one to tell.
	if werr := g.Wait(); werr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = werr
	}
	if err != nil {
		return err
	}
	for i, p := range s.done {
		a.parts[i] = *p
	}
	return nil
}

// tarUpload is a tar that arrives: small files go through a pipe into one blob, others are
// stored beside.
type tarUpload struct {
	a    *assembly
	ctx  context.Context
	g    *errgroup.Group
	pack *io.PipeWriter
	off  int64
	// done are the parts that workers fill in, since the parts themselves may move meanwhile.
	done map[int]*Part
}

func (s *tarUpload) read(src *tarSource) error {
	tr := tar.NewReader(src)
	names := 0
	for n := 0; ; n++ {
		src.zero = false // a content may have ended like that
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return src.end()
		}
		if err != nil {
			return badTar(err)
		}
		e, skip, err := tarEntry(h)
		if err != nil {
			return err
		}
		// As for a zip: what is held of each entry must not take too much memory.
		if names += len(e.Path) + len(e.Link); n >= tarfs.DefaultZipEntries || names > tarfs.MaxNames {
			return &Error{Reason: BadArchive, Format: Tar, Path: h.Name, Detail: fmt.Sprintf(
				"it has more than %d entries, or their names more than %d bytes", tarfs.DefaultZipEntries, tarfs.MaxNames)}
		}
		if skip {
			continue
		}
		i, ok := s.a.take(e)
		if !ok || !e.Regular() {
			continue
		}
		if err := s.a.charge(e.Path, e.Size); err != nil {
			return err
		}
		p := &Part{Entry: e}
		s.done[i] = p
		if err := s.file(p, tr); err != nil {
			return err
		}
	}
}

func (s *tarUpload) file(p *Part, r io.Reader) error {
	want := p.Fingerprint
	switch {
	case p.Size == 0 && !s.a.caches(&p.Entry):
		newDigests(bothSums).into(&p.Fingerprint)
		return nil
	case !s.a.caches(&p.Entry):
		return s.small(p, newChecked(s.ctx, tarBody{r}, &want, bothSums))
	case p.Size <= memoryFile:
		src := newChecked(s.ctx, tarBody{r}, &want, onlySHA1)
		b, err := src.all()
		if err != nil {
			return err
		}
		src.sums.into(&p.Fingerprint)
		s.g.Go(func() error { return s.put(p, content{body: b}) })
		return nil
	case p.SHA1 != "":
		return s.put(p, content{open: func() (io.ReadCloser, error) { return io.NopCloser(tarBody{r}), nil }})
	}
	src := newChecked(s.ctx, tarBody{r}, &want, onlySHA1)
	return s.a.spool(s.ctx, src, func(f *os.File, _ int64) error {
		src.sums.into(&p.Fingerprint)
		return s.put(p, content{open: func() (io.ReadCloser, error) {
			_, err := f.Seek(0, io.SeekStart)
			return io.NopCloser(f), err
		}})
	})
}

func (s *tarUpload) put(p *Part, c content) error {
	ref, err := s.a.store(s.ctx, p.Fingerprint, c)
	if err != nil {
		return err
	}
	p.SHA256, p.Key = ref.Digest, ref.Key
	return nil
}

// small sends a file into the blob of small ones, which the first of them begins.
func (s *tarUpload) small(p *Part, src *checked) error {
	if s.pack == nil {
		pr, pw := io.Pipe()
		s.pack = pw
		s.g.Go(func() error {
			ref, err := s.a.c.catalog.Put(s.ctx, KindBits, s.a.u.Lease, pr)
			pr.CloseWithError(err)
			s.a.bits = ref.Key
			return err
		})
	}
	p.Offset = s.off
	n, err := io.CopyBuffer(onlyWriter{s.pack}, src, make([]byte, min(p.Size+1, chunk)))
	s.off += n
	if err != nil {
		return src.blame(err)
	}
	src.sums.into(&p.Fingerprint)
	return nil
}

// tarBody is a file's content in a tar.
type tarBody struct{ r io.Reader }

func (t tarBody) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = badTar(err)
	}
	return n, err
}

func tarEntry(h *tar.Header) (e Entry, skip bool, err error) {
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) {
		return e, false, notUTF8(h.Name)
	}
	p, ok := cleanPath(h.Name)
	switch {
	case h.Typeflag == tar.TypeXGlobalHeader: // a comment, as "git archive" writes one
		return e, true, nil
	case !ok && path.Clean(h.Name) == "." && h.Typeflag == tar.TypeDir:
		return e, true, nil
	case !ok:
		return e, false, &Error{Reason: BadPath, Path: h.Name}
	}
	e.Path, e.Mode = p, Mode(h.Mode&0o777)
	switch h.Typeflag {
	case tar.TypeDir:
		e.Dir = true
		e.Mode |= 0o700
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxLink || strings.ContainsRune(h.Linkname, 0) {
			return e, false, &Error{Reason: BadFile, Path: p, Detail: "the target of the link is impossible"}
		}
		e.Link, e.Mode = h.Linkname, 0o777
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Size = h.Size
		if sum, ok := alias(h.PAXRecords[paxSHA1]); ok {
			e.SHA1 = sum
		}
	default:
		return e, false, &Error{Reason: BadFile, Path: p, Detail: "it is " + kindOf(h.FileInfo().Mode()) + " or a hard link"}
	}
	return e, false, nil
}

// tarSource feeds a tar.Reader, and knows whether the archive had an end: the tar.Reader
// takes any for one.
type tarSource struct {
	ctx  context.Context
	r    io.Reader
	zero bool // the last read was of a block of zeros
	left int64
	// limit is what left is derived from, for the one who is told.
	limit int64
}

func (t *tarSource) Read(p []byte) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	if t.left <= 0 {
		return 0, &Error{Reason: TooLarge, Limit: t.limit, Detail: "the archive unpacks to more"}
	}
	if len(p) != tarBlock {
		n, err := t.r.Read(p)
		t.left -= int64(n)
		t.zero = t.zero && n == 0
		return n, err
	}
	// A header; contents and what fills their last block are not read in this size.
	n, err := io.ReadFull(t.r, p)
	t.left -= int64(n)
	if n > 0 {
		t.zero = n == tarBlock && len(bytes.TrimLeft(p, "\x00")) == 0
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil // the reader asks for the rest
		}
	}
	return n, err
}

const (
	tarBlock = 512
	tarTail  = 1 << 20 // far more than any tar puts after its end
)

// end reads what comes after the archive, so that checksums are checked and the sender is
// not left with the rest.
func (t *tarSource) end() error {
	if !t.zero {
		return badTar(io.ErrUnexpectedEOF)
	}
	n, err := io.CopyN(io.Discard, t, tarTail)
	switch {
	case n == tarTail:
		return badTar(errors.New("archive/tar: something comes after its end"))
	case errors.Is(err, io.EOF):
		return nil
	}
	return badTar(err)
}

// badTar tells damage of the archive from failures of the stream.
func badTar(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	text := err.Error()
	damage := errors.Is(err, io.ErrUnexpectedEOF)
	for _, p := range []string{"archive/tar: ", "gzip: ", "flate: "} {
		damage = damage || strings.HasPrefix(text, p)
	}
	if !damage {
		return fmt.Errorf("read the upload: %w", err)
	}
	return &Error{Reason: BadArchive, Format: Tar, Detail: text, Err: err}
}
