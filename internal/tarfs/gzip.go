package tarfs

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// gunzip reads gzip members one after the other up to the end of the file. Each member's
// checksum and length are checked; zeros may follow the last, anything else is refused.
type gunzip struct {
	br  *bufio.Reader
	zr  *gzip.Reader
	err error
}

func newGunzip(br *bufio.Reader) *gunzip { return &gunzip{br: br} }

func (g *gunzip) Close() error {
	if g.zr == nil {
		return nil
	}
	return g.zr.Close()
}

func (g *gunzip) Read(p []byte) (int, error) {
	for g.err == nil {
		if g.zr == nil {
			g.err = g.open()
			continue
		}
		n, err := g.zr.Read(p)
		switch {
		case errors.Is(err, io.EOF):
			g.err = g.next()
		case err != nil:
			g.err = gzipError(err)
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	return 0, g.err
}

func (g *gunzip) open() (err error) {
	if g.zr, err = gzip.NewReader(g.br); err != nil {
		return gzipError(err)
	}
	g.zr.Multistream(false)
	return nil
}

// next goes on after a member.
func (g *gunzip) next() error {
	head, err := g.br.Peek(2)
	if len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b {
		if err := g.zr.Reset(g.br); err != nil {
			return gzipError(err)
		}
		g.zr.Multistream(false)
		return nil
	}
	if err != nil && err != io.EOF {
		return err
	}
	for {
		b, err := g.br.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return refuse("", "there is trailing garbage after the gzip data")
		}
	}
}

func gzipError(err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &EntryError{Reason: "it is cut short: the gzip data ends too early", Err: io.ErrUnexpectedEOF}
	case errors.Is(err, gzip.ErrChecksum):
		return &EntryError{Reason: "it is damaged: the gzip checksum or length does not match", Err: err}
	case errors.Is(err, gzip.ErrHeader), errors.As(err, &corrupt):
		return &EntryError{Reason: "it is damaged: the gzip data is invalid", Err: err}
	}
	return err
}
