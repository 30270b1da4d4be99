package resourcematch

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

// tar stores a tar as it arrives.
func (a *assembly) tar(ctx context.Context, r io.Reader) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(a.c.cfg.Writers)
	s := &tarUpload{a: a, ctx: gctx, g: g, buf: make([]byte, chunk)}
	err := s.read(&tarSource{ctx: gctx, r: r, left: a.c.archiveLimit(), limit: a.c.cfg.MaxPackage})
	s.end(err)
	// A worker's failure ends the reading; then it is the one to tell.
	if werr := g.Wait(); werr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = werr
	}
	if err != nil {
		return err
	}
	for _, p := range s.packs {
		n := a.blob(p.key)
		for _, i := range p.parts {
			a.parts[i].Blob = n
		}
	}
	return nil
}

// tarUpload is a tar that arrives: its files go through a pipe into a blob, and from time to
// time into a new one.
type tarUpload struct {
	a     *assembly
	ctx   context.Context
	g     *errgroup.Group
	buf   []byte
	packs []*tarPack
	w     *io.PipeWriter // into the last of packs; nil: there is none
	off   int64
}

// tarPack is one blob.
type tarPack struct {
	key   string // once it is written
	parts []int
	found []catalog.Part
}

// begin makes a blob for the files that follow.
func (s *tarUpload) begin() {
	pr, pw := io.Pipe()
	p := &tarPack{}
	s.packs, s.w, s.off = append(s.packs, p), pw, 0
	s.g.Go(func() error {
		ref, err := s.a.c.catalog.PutParts(s.ctx, KindFiles, s.a.u.Lease, pr, func() []catalog.Part { return p.found })
		pr.CloseWithError(err)
		p.key = ref.Key
		return err
	})
}

// end ends the blob that is being written.
func (s *tarUpload) end(err error) {
	if s.w != nil {
		s.w.CloseWithError(err) // nil: io.EOF
	}
	s.w = nil
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
		if names += len(e.Path) + len(e.Link); n >= s.a.c.entries || names > tarfs.MaxNames {
			return &Error{Reason: BadArchive, Format: Tar, Path: h.Name, Detail: fmt.Sprintf(
				"it has more than %d entries, or their names more than %d bytes", s.a.c.entries, tarfs.MaxNames)}
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
		if err := s.file(i, tr); err != nil {
			return err
		}
	}
}

func (s *tarUpload) file(i int, r io.Reader) error {
	p := &s.a.parts[i]
	if p.Size == 0 {
		newDigests(bothSums).into(&p.Fingerprint)
		return nil
	}
	if s.w != nil && s.off+p.Size > s.a.c.packSize {
		s.end(nil)
	}
	if s.w == nil {
		s.begin()
	}
	p.Offset = s.off
	want := p.Fingerprint
	src := newChecked(s.ctx, tarBody{r}, &want, bothSums)
	n, err := io.CopyBuffer(onlyWriter{s.w}, src, s.buf)
	s.off += n
	if err != nil {
		return src.blame(err)
	}
	src.sums.into(&p.Fingerprint)
	last := s.packs[len(s.packs)-1]
	last.parts, last.found = append(last.parts, i), s.a.found(last.found, p)
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
	damage := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) // a gzip header that is cut off says the latter
	for _, p := range []string{"archive/tar: ", "gzip: ", "flate: "} {
		damage = damage || strings.HasPrefix(text, p)
	}
	if !damage {
		return fmt.Errorf("read the upload: %w", err)
	}
	return &Error{Reason: BadArchive, Format: Tar, Detail: text, Err: err}
}
