package resourcematch

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zip"
)

// Format is that of an archive.
type Format string

// The formats that packages and bits come in.
const (
	Tar   Format = "tar"
	TarGz Format = "tar.gz"
	Zip   Format = "zip"
)

// epoch stands in for the time of each file, so that archives depend on content alone. It
// is the oldest that a zip can tell.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// sink writes an archive. The reader of file yields exactly Size bytes or fails.
type sink interface {
	add(e *Entry, content io.Reader) error
	close() error
}

func newSink(w io.Writer, f Format) (sink, error) {
	switch f {
	case Tar:
		return &tarSink{w: tar.NewWriter(w), buf: make([]byte, chunk)}, nil
	case TarGz:
		z := gzip.NewWriter(w)
		return &tarSink{w: tar.NewWriter(z), under: z, buf: make([]byte, chunk)}, nil
	case Zip:
		return &zipSink{w: zip.NewWriter(w), buf: make([]byte, chunk)}, nil
	}
	return nil, fmt.Errorf("archive format %q is not known; use tar, tar.gz or zip", f)
}

type tarSink struct {
	w     *tar.Writer
	under io.Closer
	buf   []byte
}

func (t *tarSink) add(e *Entry, content io.Reader) error {
	h := &tar.Header{Name: e.Path, Mode: int64(e.Mode), ModTime: epoch, Typeflag: tar.TypeReg, Size: e.Size}
	switch {
	case e.Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case e.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	if !e.Regular() {
		return nil
	}
	_, err := io.CopyBuffer(onlyWriter{t.w}, content, t.buf)
	return err
}

func (t *tarSink) close() error {
	err := t.w.Close()
	if t.under != nil {
		err = errors.Join(err, t.under.Close())
	}
	return err
}

// onlyWriter hides ReadFrom, which would not use our buffer.
type onlyWriter struct{ io.Writer }

type zipSink struct {
	w   *zip.Writer
	buf []byte
}

func (z *zipSink) add(e *Entry, content io.Reader) error {
	h := &zip.FileHeader{Name: e.Path, Method: zip.Deflate, Modified: epoch}
	switch {
	case e.Dir:
		h.Name, h.Method = e.Path+"/", zip.Store
		h.SetMode(fs.ModeDir | e.Mode.Perm())
	case e.Link != "":
		h.Method, content = zip.Store, strings.NewReader(e.Link)
		h.SetMode(fs.ModeSymlink | e.Mode.Perm())
	default:
		h.SetMode(e.Mode.Perm())
	}
	w, err := z.w.CreateHeader(h)
	if err != nil || e.Dir {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{w}, content, z.buf)
	return err
}

func (z *zipSink) close() error { return z.w.Close() }

// piped runs write in a goroutine and returns what it writes. The goroutine ends when write
// does, when ctx ends or at Close, which waits for it.
func piped(ctx context.Context, write func(context.Context, io.Writer) error) io.ReadCloser {
	ctx, cancel := context.WithCancelCause(ctx)
	pr, pw := io.Pipe()
	s := &streamReader{PipeReader: pr, cancel: cancel, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer close(s.done)
		err := write(ctx, pw)
		stop()
		pw.CloseWithError(err) // nil is io.EOF
		cancel(nil)
	}()
	return s
}

type streamReader struct {
	*io.PipeReader
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func (s *streamReader) Close() error {
	s.cancel(io.ErrClosedPipe)
	err := s.PipeReader.Close()
	<-s.done
	return err
}

// Bits streams what has to be uploaded: directories, links and the files that are not among
// known, with each content held against its fingerprint. The caller must Close it before
// the Files.
func (f *Files) Bits(ctx context.Context, known []Fingerprint, format Format) (io.ReadCloser, error) {
	if _, err := newSink(io.Discard, format); err != nil {
		return nil, err
	}
	skip := knownPaths(known)
	return piped(ctx, func(ctx context.Context, w io.Writer) error {
		s, err := newSink(w, format)
		if err != nil {
			return err
		}
		for i := range f.Entries {
			e := &f.Entries[i]
			if !e.Regular() {
				err = s.add(e, nil)
			} else if sum, ok := skip[e.Path]; !ok || sum != e.SHA1 {
				err = f.addFile(ctx, s, e)
			}
			if err != nil {
				return fmt.Errorf("send %s: %w", e.Path, err)
			}
		}
		return s.close()
	}), nil
}

func (f *Files) addFile(ctx context.Context, s sink, e *Entry) error {
	r, err := f.Open(e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	return s.add(e, newChecked(ctx, r, &e.Fingerprint, onlySHA1))
}

func knownPaths(known []Fingerprint) map[string]string {
	m := make(map[string]string, len(known))
	for _, k := range known {
		m[k.Path] = strings.ToLower(k.SHA1)
	}
	return m
}

// checked reads a content that is known by its fingerprint. It fails, instead of ending, if
// it is not that content; so whoever stores until io.EOF stores nothing wrong. A size has to
// be there; sums that are missing, or not taken, are not compared.
type checked struct {
	ctx  context.Context
	r    io.Reader
	want *Fingerprint
	sums *digests
	err  error
}

func newChecked(ctx context.Context, r io.Reader, want *Fingerprint, s sums) *checked {
	return &checked{ctx: ctx, r: r, want: want, sums: newDigests(s)}
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.err = c.ctx.Err(); c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(p)
	_, _ = c.sums.Write(p[:n]) // never fails
	switch {
	case c.sums.n > c.want.Size:
		c.err = &Error{Reason: Changed, Path: c.want.Path, Detail: "it is longer"}
		return 0, c.err // what is too much is nobody's
	case errors.Is(err, io.EOF):
		c.err = c.end()
	case err != nil:
		c.err = readFailed(c.want.Path, err)
	default:
		return n, nil
	}
	return n, c.err
}

func (c *checked) end() error {
	got := *c.want
	c.sums.into(&got)
	switch {
	case got.Size != c.want.Size:
		return &Error{Reason: Changed, Path: c.want.Path, Detail: "it is shorter"}
	case c.want.SHA1 != "" && got.SHA1 != c.want.SHA1, c.want.SHA256 != "" && got.SHA256 != c.want.SHA256:
		return &Error{Reason: Changed, Path: c.want.Path, Detail: "its content differs"}
	}
	return io.EOF
}
