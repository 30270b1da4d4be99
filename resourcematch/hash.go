package resourcematch

import (
	"context"
	"crypto/sha1" //nolint:gosec // Cloud Foundry's fingerprint is SHA-1; SHA-256 stands beside it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const chunk = 256 << 10

// sums says which digests to take: hashing is most of the work, so none is taken twice.
type sums int

const (
	bothSums sums = iota
	onlySHA1
	onlySHA256
)

// digests are the sums of one content, taken in one pass.
type digests struct {
	sha1, sha256 hash.Hash // nil: not taken
	n            int64
}

func newDigests(s sums) *digests {
	d := &digests{}
	if s != onlySHA256 {
		d.sha1 = sha1.New()
	}
	if s != onlySHA1 {
		d.sha256 = sha256.New()
	}
	return d
}

func (d *digests) Write(p []byte) (int, error) {
	if d.sha1 != nil {
		d.sha1.Write(p)
	}
	if d.sha256 != nil {
		d.sha256.Write(p)
	}
	d.n += int64(len(p))
	return len(p), nil
}

func (d *digests) reset() {
	d.sha1.Reset()
	d.sha256.Reset()
	d.n = 0
}

// into writes what was taken into f and leaves the rest of it.
func (d *digests) into(f *Fingerprint) {
	var b [sha256.Size]byte
	if d.sha1 != nil {
		f.SHA1 = hex.EncodeToString(d.sha1.Sum(b[:0]))
	}
	if d.sha256 != nil {
		f.SHA256 = hex.EncodeToString(d.sha256.Sum(b[:0]))
	}
	f.Size = d.n
}

// hashAll fills the digests of the regular files in.
func hashAll(ctx context.Context, items []item, o ScanOptions) error {
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var (
		mu   sync.Mutex // guards prog and calls of o.Progress
		prog Progress
		next atomic.Int64
	)
	for i := range items {
		if items[i].open != nil {
			prog.TotalFiles++
			prog.TotalBytes += items[i].Size
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			buf, d := make([]byte, chunk), newDigests(bothSums)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(items) {
					return nil
				}
				it := &items[i]
				if it.open == nil {
					continue
				}
				if err := hashOne(ctx, it, d, buf); err != nil {
					return err
				}
				if o.Progress != nil {
					mu.Lock()
					prog.Files++
					prog.Bytes += it.Size
					o.Progress(prog)
					mu.Unlock()
				}
			}
		})
	}
	return g.Wait()
}

func hashOne(ctx context.Context, it *item, d *digests, buf []byte) error {
	r, err := it.open()
	if err != nil {
		return unreadable(it.Path, err)
	}
	defer r.Close()
	d.reset()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		_, _ = d.Write(buf[:n]) // never fails
		if d.n > it.Size {
			break // it grows while it is read, or the archive lies: the limit was held against Size
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return readFailed(it.Path, err)
		}
	}
	if d.n != it.Size {
		return &Error{Reason: Changed, Path: it.Path, Detail: "its size changed while it was read"}
	}
	d.into(&it.Fingerprint)
	return nil
}
