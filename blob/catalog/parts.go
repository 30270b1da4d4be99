package catalog

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/state"
)

// Part is a piece of a blob, such as one of many files, that [Catalog.FindPin] finds.
type Part struct {
	Alias  string // the SHA-1 of its bytes, 40 hex digits
	Digest string // their SHA-256, 64 hex digits
	Offset int64  // where in the blob it begins
	Size   int64  // bytes
}

// contents is the row of a blob's parts, beside that of the blob: it is large and seldom read.
type contents struct {
	Key  string `json:"key"`
	List []byte `json:"list"` // each: 20 bytes SHA-1, 32 bytes SHA-256, offset and size as varints
}

var listings = state.NewTable("catalog_parts", func(c contents) string { return c.Key })

// encode makes the list of a contents.
func encode(parts []Part) ([]byte, error) {
	list := make([]byte, 0, len(parts)*60)
	for i := range parts {
		p := &parts[i]
		if len(p.Alias) != 2*len(sum{}) || len(p.Digest) != 2*len(place{}.digest) || p.Offset < 0 || p.Size < 0 {
			return nil, fmt.Errorf("part %d: alias %q, digest %q: 40 and 64 hex digits are needed", i, p.Alias, p.Digest)
		}
		var err error
		for _, h := range []string{p.Alias, p.Digest} {
			if list, err = hex.AppendDecode(list, []byte(h)); err != nil {
				return nil, fmt.Errorf("part %d: %w", i, err)
			}
		}
		list = binary.AppendUvarint(list, uint64(p.Offset))
		list = binary.AppendUvarint(list, uint64(p.Size))
	}
	return list, nil
}

// decode yields what is in a list; what is damaged ends it.
func decode(key string, list []byte) func(func(sum, place) bool) {
	return func(yield func(sum, place) bool) {
		for len(list) > 0 {
			var s sum
			p := place{key: key}
			if len(list) < len(s)+len(p.digest) {
				return
			}
			list = list[copy(s[:], list):]
			list = list[copy(p.digest[:], list):]
			for _, v := range []*int64{&p.offset, &p.size} {
				n, w := binary.Uvarint(list)
				if w <= 0 {
					return
				}
				*v, list = int64(n), list[w:]
			}
			if !yield(s, p) {
				return
			}
		}
	}
}

// PutParts is Put of a blob of which FindPin will find parts; parts is called once r was read
// to its end. That they are true is up to the caller.
func (c *Catalog) PutParts(ctx context.Context, kind string, lease Lease, r io.Reader, parts func() []Part) (Ref, error) {
	key, err := c.Reserve(ctx, kind, lease)
	if err != nil {
		return Ref{}, err
	}
	saved, err := c.store.Put(ctx, key, r)
	var list []byte
	n := 0
	if err == nil {
		all := parts()
		n = len(all)
		list, err = encode(all)
	}
	if err != nil {
		c.undo(ctx, key)
		return Ref{}, fmt.Errorf("catalog: put %s: %w", kind, err)
	}
	return c.commit(ctx, key, saved, n, list)
}

// OpenRange opens length bytes of a kept blob from offset; negative: all from there. One that
// is not kept (any more): fs.ErrNotExist.
func (c *Catalog) OpenRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	ranger, ok := c.store.(blob.Ranger)
	if ok && (offset > 0 || length >= 0) {
		return c.open(ctx, key, func() (io.ReadCloser, error) { return ranger.GetRange(ctx, key, offset, length) })
	}
	r, err := c.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil && !errors.Is(err, io.EOF) {
		r.Close()
		return nil, fmt.Errorf("catalog: open %s: %w", key, err)
	}
	if length < 0 {
		return r, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, length), r}, nil
}
