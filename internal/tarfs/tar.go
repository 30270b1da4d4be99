package tarfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"strings"
)

// tar unpacks a tar stream and reads it to its very end, so that whatever checks r makes
// there are made.
func (t *tree) tar(r io.Reader) error {
	m := &meter{r: r, left: math.MaxInt64}
	if t.l.Bytes > 0 && t.l.Entries > 0 {
		// Headers and padding are not counted as files' bytes, but they are not free: long
		// names alone could keep us busy for hours.
		m.left = t.l.Bytes + 2048*int64(t.l.Entries) + 16<<20
	}
	tr := tar.NewReader(m)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return m.end()
		}
		if err != nil {
			return tarError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // a comment, such as the commit that git archive writes
		}
		if err := t.tarEntry(h, tr); err != nil {
			return err
		}
	}
}

func (t *tree) tarEntry(h *tar.Header, body io.Reader) error {
	e := Entry{
		Name: h.Name, Mode: fs.FileMode(h.Mode) & fs.ModePerm,
		Size: h.Size, ModTime: h.ModTime, Link: h.Linkname,
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if strings.HasSuffix(h.Name, "/") {
			return refuse(h.Name, "it is a file whose name ends in a slash")
		}
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode |= fs.ModeSymlink
	case tar.TypeLink:
		return t.hardLink(e)
	case tar.TypeChar, tar.TypeBlock:
		return refuse(h.Name, "it is a device")
	case tar.TypeFifo:
		return refuse(h.Name, "it is a named pipe")
	default:
		return refuse(h.Name, "it is of the unknown type %q", h.Typeflag)
	}
	return t.add(e, body)
}

func tarError(err error) error {
	var e *EntryError
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &EntryError{Reason: "it is cut short", Err: err}
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return &EntryError{Reason: "it is neither tar, tar.gz nor zip, or it is damaged", Err: err}
	}
	return err
}

// meter sees how a tar stream ends: by the zero blocks that end it, or by being cut off
// between two entries, which [tar.Reader] takes for an end.
type meter struct {
	r     io.Reader
	left  int64
	zeros int // at the end of what was read; padding alone is less than a block
	eof   bool
}

func (m *meter) Read(p []byte) (int, error) {
	if m.eof {
		return 0, io.EOF
	}
	n, err := m.r.Read(p)
	if m.left -= int64(n); m.left < 0 {
		return 0, refuse("", "it unpacks to more than its limit")
	}
	tail := len(bytes.TrimRight(p[:n], "\x00"))
	if tail > 0 {
		m.zeros = 0
	}
	m.zeros += n - tail
	if errors.Is(err, io.EOF) {
		m.eof = true
		if n > 0 {
			err = nil
		}
	}
	return n, err
}

// end reads what follows the last entry.
func (m *meter) end() error {
	if m.eof && m.zeros < 512 {
		return &EntryError{Reason: "it is cut short: the end mark is missing", Err: io.ErrUnexpectedEOF}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := m.Read(buf)
		if m.zeros < n {
			return refuse("", "there is trailing garbage after the end mark")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
