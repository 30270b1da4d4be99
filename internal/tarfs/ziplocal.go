package tarfs

import "io"

// local reads the header before an entry's data (4.3.7) and refuses one that tells another
// story than the directory: readers that trust one or the other would see two archives.
func (p *zipParser) local(e *ZipEntry, off int64) (span, error) {
	off += p.base
	var b [30]byte
	if _, err := p.r.ReadAt(b[:], off); err != nil {
		return span{}, err
	}
	if le.Uint32(b[:]) != sigLocal {
		return span{}, refuse(e.Name, "it is damaged: its header is missing")
	}
	nameLen, extraLen := int(le.Uint16(b[26:])), int(le.Uint16(b[28:]))
	text := make([]byte, nameLen+extraLen)
	if _, err := p.r.ReadAt(text, off+int64(len(b))); err != nil {
		return span{}, err
	}
	e.at = off + int64(len(b)+len(text))
	if e.at > p.dirAt || e.packed > p.dirAt-e.at {
		return span{}, refuse(e.Name, "it lies outside of the archive")
	}
	s := span{from: off, to: e.at + e.packed, entry: e.Name}
	flags := le.Uint16(b[6:])
	switch {
	case string(text[:nameLen]) != e.Name:
		return s, refuse(e.Name, "its header has another name, %q", text[:nameLen])
	case le.Uint16(b[8:]) != e.method:
		return s, refuse(e.Name, "its header has another compression")
	case flags&(1|1<<6|1<<13) != 0:
		return s, refuse(e.Name, "it is encrypted")
	}
	size, packed, _, err := zip64(e.Name, text[nameLen:], uint64(le.Uint32(b[22:])), uint64(le.Uint32(b[18:])), 0)
	if err != nil {
		return s, err
	}
	if flags&8 == 0 {
		if le.Uint32(b[14:]) != e.crc || size != uint64(e.Size) || packed != uint64(e.packed) {
			return s, refuse(e.Name, "its header has another size or checksum")
		}
		return s, nil
	}
	n, err := p.descriptor(e)
	s.to += n
	return s, err
}

// descriptor reads what follows the data of an entry that was written as a stream (4.3.9):
// an optional signature, checksum, and sizes of 4 or 8 bytes.
func (p *zipParser) descriptor(e *ZipEntry) (int64, error) {
	var b [24]byte
	at := e.at + e.packed
	n, err := p.r.ReadAt(b[:min(int64(len(b)), p.dirAt-at)], at)
	if err != nil && err != io.EOF {
		return 0, err
	}
	for _, head := range []int{4, 0} {
		if head > n || head == 4 && le.Uint32(b[:]) != 0x08074b50 {
			continue
		}
		d := b[head:n:n]
		if len(d) >= 12 && le.Uint32(d) == e.crc &&
			le.Uint32(d[4:]) == uint32(e.packed) && le.Uint32(d[8:]) == uint32(e.Size) {
			return int64(head + 12), nil
		}
		if len(d) >= 20 && le.Uint32(d) == e.crc &&
			le.Uint64(d[4:]) == uint64(e.packed) && le.Uint64(d[12:]) == uint64(e.Size) {
			return int64(head + 20), nil
		}
	}
	if e.Size == 0 && e.packed <= 2 {
		return 0, nil // some writers leave it out where there is nothing to tell
	}
	return 0, refuse(e.Name, "the sizes after its data are not those of the directory")
}
