package tarfs

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// The zip format as in APPNOTE.TXT 6.3.10 (PKWARE): the sections are named where they are used.
const (
	stored   = 0
	deflated = 8

	sigLocal   = 0x04034b50
	sigCentral = 0x02014b50
	sigEnd     = 0x06054b50
	sigEnd64   = 0x06064b50
	sigLoc64   = 0x07064b50
)

var le = binary.LittleEndian

type zipParser struct {
	r     io.ReaderAt
	l     Limits
	z     *Zip
	base  int64           // where the archive begins: a program may stand before it
	dirAt int64           // where the directory begins, base included
	known map[string]bool // path: it is a folder
	names names
	sum   int64
}

// end is what the end record says of the directory.
type zipEnd struct {
	at      int64 // of the first end record
	entries uint64
	size    uint64
	offset  uint64
	wide    bool // zip64: entries is exact
}

func (p *zipParser) parse(size int64) error {
	end, err := p.findEnd(size)
	if err != nil {
		return err
	}
	if end.size > uint64(end.at) || end.offset > uint64(end.at)-end.size {
		return refuse("", "it is damaged: its directory lies outside of it")
	}
	if end.size > MaxNames {
		return refuse("", "its directory is larger than %d bytes", MaxNames)
	}
	p.dirAt = end.at - int64(end.size)
	p.base = p.dirAt - int64(end.offset)
	p.names = newNames(p.l)
	br := bufio.NewReaderSize(io.NewSectionReader(p.r, p.dirAt, int64(end.size)), 64<<10)
	n := uint64(0)
	// Room for as many entries as the directory can hold, whatever it claims.
	room := min(end.entries, end.size/46, uint64(max(p.l.Entries, 0)))
	p.z.Entries = make([]ZipEntry, 0, room)
	spans := make([]span, 0, room)
	for {
		if _, err := br.Peek(1); err == io.EOF {
			break
		}
		e, off, err := p.central(br)
		if err != nil {
			return cut(err)
		}
		n++
		s, err := p.local(&e, off)
		if err != nil {
			return cut(err)
		}
		if err := p.judge(&e); err != nil {
			return err
		}
		spans = append(spans, s)
		p.z.Entries = append(p.z.Entries, e)
	}
	if end.wide && n != end.entries || uint16(n) != uint16(end.entries) {
		return refuse("", "it is damaged: its directory holds %d entries and claims %d", n, end.entries)
	}
	if err := p.overlap(spans); err != nil {
		return err
	}
	return p.readLinks()
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &EntryError{Reason: "it is cut short", Err: io.ErrUnexpectedEOF}
	}
	return err
}

// findEnd looks for the end record (4.3.16), which is followed only by its own comment.
func (p *zipParser) findEnd(size int64) (zipEnd, error) {
	const fixed, longest = 22, 22 + 65535
	tail := make([]byte, min(size, longest))
	if _, err := p.r.ReadAt(tail, size-int64(len(tail))); err != nil {
		return zipEnd{}, cut(err)
	}
	garbage := false
	for i := len(tail) - fixed; i >= 0; i-- {
		b := tail[i:]
		if le.Uint32(b) != sigEnd {
			continue
		}
		if fixed+int(le.Uint16(b[20:])) != len(b) {
			garbage = true
			continue
		}
		e := zipEnd{
			at: size - int64(len(b)), entries: uint64(le.Uint16(b[10:])),
			size: uint64(le.Uint32(b[12:])), offset: uint64(le.Uint32(b[16:])),
		}
		wide := e.entries == 0xffff || e.size == 0xffffffff || e.offset == 0xffffffff
		if disk := le.Uint16(b[4:]); disk != 0 && disk != 0xffff {
			return e, refuse("", "it is one part of a zip in several parts")
		}
		if wide {
			return p.findEnd64(e)
		}
		return e, nil
	}
	if garbage {
		return zipEnd{}, refuse("", "there is trailing garbage after the zip data, or it is cut short")
	}
	return zipEnd{}, &EntryError{Reason: "it is no zip, or it is cut short: the end record is missing", Err: io.ErrUnexpectedEOF}
}

// findEnd64 follows the locator (4.3.15) to the zip64 end record (4.3.14). Without one the
// numbers that looked like "see there" mean themselves.
func (p *zipParser) findEnd64(e zipEnd) (zipEnd, error) {
	var loc [20]byte
	if e.at < int64(len(loc)) {
		return e, nil
	}
	if _, err := p.r.ReadAt(loc[:], e.at-int64(len(loc))); err != nil {
		return e, cut(err)
	}
	if le.Uint32(loc[:]) != sigLoc64 {
		return e, nil
	}
	var b [56]byte
	// The record has no extensible data in practice, so it ends where the locator begins;
	// the locator's own offset is wrong when something stands before the archive.
	at := e.at - int64(len(loc)) - int64(len(b))
	if at < 0 {
		return e, refuse("", "it is damaged: the zip64 end record is missing")
	}
	if _, err := p.r.ReadAt(b[:], at); err != nil {
		return e, cut(err)
	}
	if le.Uint32(b[:]) != sigEnd64 || le.Uint64(b[4:]) != uint64(len(b)-12) {
		return e, refuse("", "it is damaged: the zip64 end record is missing")
	}
	if le.Uint32(b[16:]) != 0 {
		return e, refuse("", "it is one part of a zip in several parts")
	}
	return zipEnd{at: at, entries: le.Uint64(b[32:]), size: le.Uint64(b[40:]), offset: le.Uint64(b[48:]), wide: true}, nil
}

// central reads one header of the directory (4.3.12).
func (p *zipParser) central(r io.Reader) (e ZipEntry, off int64, err error) {
	var b [46]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return e, 0, err
	}
	if le.Uint32(b[:]) != sigCentral {
		return e, 0, refuse("", "it is damaged: its directory is invalid")
	}
	nameLen, extraLen, commentLen := int(le.Uint16(b[28:])), int(le.Uint16(b[30:])), int(le.Uint16(b[32:]))
	text := make([]byte, nameLen+extraLen+commentLen)
	if _, err := io.ReadFull(r, text); err != nil {
		return e, 0, err
	}
	e = ZipEntry{z: p.z, method: le.Uint16(b[10:]), crc: le.Uint32(b[16:])}
	e.Name = string(text[:nameLen])
	size, packed, at, err := zip64(e.Name, text[nameLen:nameLen+extraLen],
		uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[20:])), uint64(le.Uint32(b[42:])))
	if err != nil {
		return e, 0, err
	}
	const limit = 1 << 62
	if size > limit || packed > uint64(p.dirAt) || at > uint64(p.dirAt-p.base) {
		return e, 0, refuse(e.Name, "it lies outside of the archive")
	}
	e.Size, e.packed = int64(size), int64(packed)
	flags := le.Uint16(b[8:])
	switch {
	case flags&(1|1<<6|1<<13) != 0:
		return e, 0, refuse(e.Name, "it is encrypted")
	case e.method != stored && e.method != deflated:
		return e, 0, refuse(e.Name, "it is compressed by method %d; only deflate and none are known", e.method)
	case e.method == stored && e.Size != e.packed:
		return e, 0, refuse(e.Name, "it is damaged: it is not compressed and has two sizes")
	case le.Uint16(b[34:]) != 0 && le.Uint16(b[34:]) != 0xffff:
		return e, 0, refuse(e.Name, "it lies in another part of a zip in several parts")
	}
	e.ModTime = zipTime(text[nameLen:nameLen+extraLen], le.Uint16(b[14:]), le.Uint16(b[12:]))
	e.Mode, err = zipMode(e.Name, b[5], le.Uint32(b[38:]))
	return e, int64(at), err
}

// zip64 reads the extra field 1 (4.5.3): 64-bit values for those that are all ones.
func zip64(name string, extra []byte, size, packed, at uint64) (uint64, uint64, uint64, error) {
	const see = 0xffffffff
	for id, data := range extras(extra) {
		if id != 1 {
			continue
		}
		for _, v := range []*uint64{&size, &packed, &at} {
			if *v != see {
				continue
			}
			if len(data) < 8 {
				return 0, 0, 0, refuse(name, "it is damaged: its zip64 sizes are missing")
			}
			*v, data = le.Uint64(data), data[8:]
		}
		break
	}
	return size, packed, at, nil
}

// extras yields the extra fields (4.5.1) up to the first that is malformed: padding of
// odd length is common.
func extras(b []byte) func(func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(le.Uint16(b[2:]))
			if n > len(b)-4 || !yield(le.Uint16(b), b[4:4+n]) {
				return
			}
			b = b[4+n:]
		}
	}
}

// zipTime prefers the Unix time of Info-ZIP (extra field 0x5455); the other has no zone
// and is taken for UTC.
func zipTime(extra []byte, date, clock uint16) time.Time {
	for id, data := range extras(extra) {
		if id == 0x5455 && len(data) >= 5 && data[0]&1 != 0 {
			return time.Unix(int64(int32(le.Uint32(data[1:]))), 0)
		}
	}
	if date == 0 {
		return time.Time{}
	}
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31),
		int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}

// zipMode reads the external attributes by the system that made the entry (4.4.2, 4.4.15).
func zipMode(name string, system byte, attrs uint32) (fs.FileMode, error) {
	const unix, darwin = 3, 19
	folder := strings.HasSuffix(name, "/")
	perm := fs.FileMode(0)
	if system == unix || system == darwin {
		mode := attrs >> 16
		perm = fs.FileMode(mode) & fs.ModePerm
		switch mode & 0xf000 {
		case 0x4000:
			folder = true
		case 0xa000:
			return fs.ModeSymlink | 0o777, nil
		case 0, 0x8000:
		case 0x1000:
			return 0, refuse(name, "it is a named pipe")
		case 0xc000:
			return 0, refuse(name, "it is a socket")
		default:
			return 0, refuse(name, "it is a device")
		}
	} else if attrs&0x10 != 0 {
		folder = true
	}
	switch {
	case folder && perm == 0:
		perm = 0o755
	case perm == 0:
		perm = 0o644
	}
	if folder {
		perm |= fs.ModeDir
	}
	return perm, nil
}

// judge applies the rules of names, kinds and limits.
func (p *zipParser) judge(e *ZipEntry) (err error) {
	if e.Path, err = p.names.admit(e.Entry); err != nil {
		return err
	}
	if p.sum += e.Size; p.l.Bytes > 0 && (p.sum > p.l.Bytes || p.sum < 0) {
		return refuse(e.Name, "with it the archive unpacks to more than %d bytes", p.l.Bytes)
	}
	folder := e.Mode.IsDir()
	switch {
	case folder && e.Size > 0:
		return refuse(e.Name, "it is a folder with content")
	case e.Path == "." && !folder:
		return refuse(e.Name, "it is in the place of the whole tree and not a folder")
	case e.Path == ".":
		return nil
	}
	if was, ok := p.known[e.Path]; ok && was != folder {
		return refuse(e.Name, "it is a folder and a file at once")
	}
	p.known[e.Path] = folder
	for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
		is, ok := p.known[dir]
		if ok && !is {
			return refuse(e.Name, "it lies in %q, which is not a folder", dir)
		}
		if ok {
			break
		}
		if err := p.names.implied(e.Name); err != nil {
			return err
		}
		p.known[dir] = true
	}
	return nil
}

// readLinks reads the targets of symbolic links, once it is sure that entries don't overlap.
func (p *zipParser) readLinks() error {
	for i := range p.z.Entries {
		e := &p.z.Entries[i]
		if e.Mode&fs.ModeSymlink == 0 {
			continue
		}
		if e.Size > MaxName {
			return refuse(e.Name, "it is a symbolic link with an impossible target")
		}
		body := e.open()
		target, err := io.ReadAll(body)
		body.Close()
		if err != nil {
			return err
		}
		e.Link, e.Size = string(target), 0
		if _, err := checkLink(e.Name, e.Path, e.Link, p.l.Links); err != nil {
			return err
		}
	}
	return nil
}

type span struct {
	from, to int64
	entry    string
}

func (p *zipParser) overlap(spans []span) error {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return refuse(spans[i].entry, "it shares its bytes with %q", spans[i-1].entry)
		}
	}
	return nil
}
