package tarfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/klauspost/compress/flate"

	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// Zip is an open zip archive whose directory has been read and found consistent: names are
// those of a tree, entries don't overlap, and each local header agrees with the directory.
// Its methods may be called by any number of goroutines.
type Zip struct {
	// Entries is in the order of the archive's directory. Not to be changed.
	Entries []ZipEntry

	r        io.ReaderAt
	archive  string
	inflates sync.Pool // of *inflate
}

// ZipEntry is one entry of a [Zip].
type ZipEntry struct {
	Entry
	// Path is Name without "./" and the slash at its end; "." is the tree itself.
	Path string

	z      *Zip
	at     int64 // of the data
	packed int64
	crc    uint32
	method uint16
}

// OpenZip reads the directory of the zip in the first size bytes of r. A zip that is
// refused is an *EntryError; of l, Spool is not used. r must stay readable while the Zip
// is in use; there is nothing to close.
func OpenZip(r io.ReaderAt, size int64, l Limits) (*Zip, error) {
	l = l.withDefaults(DefaultZipEntries)
	s := &faults{r: r}
	z := &Zip{r: r, archive: l.Archive}
	p := zipParser{r: s, l: l, z: z, known: map[string]bool{}}
	if err := p.parse(size); err != nil {
		return nil, explain(l, &stream.Reader{Err: s.err}, err)
	}
	return z, nil
}

// faults remembers the first failure of a ReaderAt that is not the end of the file.
type faults struct {
	r   io.ReaderAt
	err error
}

func (f *faults) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.r.ReadAt(p, off)
	if n == len(p) {
		err = nil
	}
	if err != nil && err != io.EOF && f.err == nil {
		f.err = err
	}
	return n, err
}

// Open reads the content of a file. Its checksum and size are checked when its end is
// reached: the content is good only after io.EOF. Close it to give its buffers back.
func (e *ZipEntry) Open() (io.ReadCloser, error) {
	if e.Mode&fs.ModeType != 0 {
		return nil, fmt.Errorf("open %s in zip: it is no file", e.Name)
	}
	return e.open(), nil
}

func (e *ZipEntry) open() io.ReadCloser {
	z := &zipReader{e: e, src: faults{r: e.z.r}, sum: crc32.NewIEEE(), left: e.Size}
	section := io.NewSectionReader(&z.src, e.at, e.packed)
	if e.method == stored {
		z.r = section
		return z
	}
	f, _ := e.z.inflates.Get().(*inflate)
	if f == nil {
		f = &inflate{br: bufio.NewReaderSize(nil, 32<<10)}
		f.fr = flate.NewReader(f.br)
	}
	f.br.Reset(section)
	_ = f.fr.(flate.Resetter).Reset(f.br, nil)
	z.f, z.r = f, f.fr
	return z
}

type inflate struct {
	br *bufio.Reader
	fr io.ReadCloser
}

type zipReader struct {
	e    *ZipEntry
	src  faults
	r    io.Reader
	f    *inflate
	sum  hash.Hash32
	left int64
	err  error
}

func (z *zipReader) Read(p []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	n, err := z.r.Read(p)
	if int64(n) > z.left {
		n, err = int(z.left), refuse("", "it holds more than the %d bytes it claims", z.e.Size)
	}
	z.left -= int64(n)
	z.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		err = z.end()
	}
	if err != nil {
		z.err = z.explain(err)
		if n > 0 {
			return n, nil
		}
	}
	return n, z.err
}

func (z *zipReader) end() error {
	switch {
	case z.left > 0:
		return refuse("", "it holds less than the %d bytes it claims", z.e.Size)
	case z.sum.Sum32() != z.e.crc:
		return refuse("", "its checksum does not match: it is damaged")
	case z.f != nil:
		if _, err := z.f.br.ReadByte(); err == nil {
			return refuse("", "there is trailing garbage after its data")
		}
	}
	return io.EOF
}

func (z *zipReader) explain(err error) error {
	var corrupt flate.CorruptInputError
	var e *EntryError
	switch {
	case errors.Is(err, io.EOF):
		return err
	case z.src.err != nil:
		return fmt.Errorf("read archive: %w", z.src.err)
	case errors.As(err, &e):
	case errors.Is(err, io.ErrUnexpectedEOF):
		e = &EntryError{Reason: "it is cut short", Err: err}
	case errors.As(err, &corrupt):
		e = &EntryError{Reason: "it is damaged: its compressed data is invalid", Err: err}
	default:
		return err
	}
	e.Archive, e.Name = z.e.z.archive, z.e.Name
	return e
}

func (z *zipReader) Close() error {
	if z.f != nil {
		z.e.z.inflates.Put(z.f)
		z.f = nil
	}
	if z.err == nil {
		z.err = os.ErrClosed
	}
	return nil
}

// zip unpacks all entries.
func (t *tree) zip(z *Zip) error {
	for i := range z.Entries {
		e := &z.Entries[i]
		if e.Mode&fs.ModeType != 0 {
			if err := t.add(e.Entry, nil); err != nil {
				return err
			}
			continue
		}
		body := e.open()
		err := t.add(e.Entry, body)
		body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// spoolZip copies a zip that arrives as a stream to a file, since its directory is at its
// end.
func spoolZip(ctx context.Context, root *os.Root, dir string, src *stream.Reader, r io.Reader, l Limits) (s Stats, err error) {
	f, err := os.CreateTemp(l.Spool, "dewpoint-zip-")
	if err != nil {
		return s, fmt.Errorf("make temporary file for zip: %w", err)
	}
	defer func() {
		f.Close()
		if err2 := os.Remove(f.Name()); err == nil && err2 != nil {
			err = fmt.Errorf("remove temporary file of zip: %w", err2)
		}
	}()
	most := l.MaxZip()
	if most > 0 {
		r = io.LimitReader(r, most+1)
	}
	n, err := io.Copy(f, r)
	switch {
	case src.Err != nil:
		return s, explain(l, src, err)
	case err != nil:
		return s, fmt.Errorf("copy zip to temporary file: %w", err)
	case most > 0 && n > most:
		return s, explain(l, nil, refuse("", "it is larger than what it may unpack to, %d bytes", l.withDefaults(DefaultZipEntries).Bytes))
	}
	return ExtractZip(ctx, root, dir, f, n, l)
}

// MaxZip is the size of the largest zip that could pass l: no entry is much larger packed
// than unpacked, and none has more than two headers. 0: no limit.
func (l Limits) MaxZip() int64 {
	l = l.withDefaults(DefaultZipEntries)
	if l.Bytes < 0 {
		return 0
	}
	headers := 2 * int64(MaxNames)
	if l.Entries > 0 {
		headers = min(headers, 16<<10*int64(l.Entries))
	}
	return l.Bytes + l.Bytes/8 + headers + 64<<10
}
