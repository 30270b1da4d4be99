package resourcematch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/blob/catalog"
)

// memoryFile is the largest file that is held in memory to learn its SHA-1 before it is
// stored. A larger one is read twice.
const memoryFile = 4 << 20

// Upload is what a package is made of: Known and one of Files and Bits, or only one of the
// three. Where both have a path, Known counts.
type Upload struct {
	// Lease holds everything until the caller's own Update refers to it with
	// catalog.Use. Required.
	Lease catalog.Lease
	// Known are the files that need not be stored, as Match returned them or as a client
	// sends them back. Only Path, SHA1 and Mode (0: DefaultMode) count; a SHA256 or Size that
	// is there must be right.
	Known []Fingerprint
	// Files is the scanned app, in the same process; what Known has is not read.
	Files *Files
	// Bits is an upload: a zip, tar or tar.gz. An *os.File, or another io.ReaderAt with Seek,
	// that holds a zip is read in place; any other zip first goes to Config.TempDir. Assemble
	// reads it to its end but does not close it.
	Bits io.Reader
	// NoCache keeps new files from becoming known, as Cloud Foundry's feature flag
	// resource_matching does.
	NoCache bool
}

// Package is what Assemble made. The caller keeps it in a row of its own, and refers to
// each of Keys in the same Update.
type Package struct {
	// Key is the blob of the manifest; Keys are all blobs that the package needs, Key included.
	Key  string
	Keys []string
	// SHA256 is Manifest.Sum.
	SHA256 string
	Files  int
	Size   int64 // bytes, uncompressed

	// What of it was known, and so was not stored again.
	KnownFiles int
	KnownBytes int64
}

// Assemble makes a package. New content is held against its fingerprint, if it came with
// one, while it is stored; no known file is read. All or nothing: after an error
// there is no package, and what was stored goes when the lease ends. The package's Keys stay
// until then. What its owner can do something about is an *Error.
func (c *Cache) Assemble(ctx context.Context, u Upload) (*Package, error) {
	p, err := c.assemble(ctx, &u)
	if err != nil {
		return nil, fmt.Errorf("assemble package: %w", err)
	}
	return p, nil
}

func (c *Cache) assemble(ctx context.Context, u *Upload) (*Package, error) {
	a := &assembly{c: c, u: u, left: c.cfg.MaxPackage, at: map[string]int{}, stored: map[string]*once{}}
	if err := a.known(ctx); err != nil {
		return nil, err
	}
	p := &Package{KnownFiles: len(a.parts)}
	for i := range a.parts {
		p.KnownBytes += a.parts[i].Size
	}
	if err := a.fresh(ctx); err != nil {
		return nil, err
	}
	if len(a.parts) == 0 {
		if u.Bits != nil && !a.nothing {
			return nil, &Error{Reason: BadArchive, Detail: "the archive is empty"}
		}
		return nil, &Error{Reason: NoInput}
	}
	if err := arrange(a.parts); err != nil {
		return nil, err
	}
	m := &Manifest{Version: 1, Bits: a.bits, Entries: a.parts}
	m.SHA256 = m.Sum()
	text := stream(ctx, func(_ context.Context, w io.Writer) error { return m.write(w) })
	defer text.Close()
	ref, err := c.catalog.Put(ctx, KindPackage, u.Lease, text)
	if err != nil {
		return nil, err
	}
	p.Key, p.Keys, p.SHA256, p.Files, p.Size = ref.Key, append(m.Keys(), ref.Key), m.SHA256, m.Files(), m.Size()
	return p, nil
}

// assembly is one Assemble under way.
type assembly struct {
	c       *Cache
	u       *Upload
	left    int64          // bytes that the package may still have
	parts   []Part         // grows only in the goroutine of Assemble
	at      map[string]int // path: index in parts
	bits    string         // key of the bits blob
	nothing bool           // the stream of bits had no bytes at all

	mu     sync.Mutex
	stored map[string]*once // SHA-1: the one time that this content is stored
}

type once struct {
	sync.Once
	ref catalog.Ref
	err error
}

// known turns references into parts, and pins what they refer to.
func (a *assembly) known(ctx context.Context) error {
	if len(a.u.Known) == 0 {
		return nil
	}
	sums := make([]string, 0, len(a.u.Known))
	for i := range a.u.Known {
		f := &a.u.Known[i]
		if _, ok := cleanPath(f.Path); !ok {
			return &Error{Reason: BadPath, Path: f.Path}
		}
		if f.Mode != 0 && f.Mode&0o600 != 0o600 {
			return &Error{Reason: BadMode, Path: f.Path, Detail: f.Mode.String()}
		}
		sum, _ := alias(f.SHA1) // "": what is none is not known
		sums = append(sums, sum)
	}
	refs, err := a.c.catalog.FindPin(ctx, KindResource, sums, a.u.Lease)
	if err != nil {
		return err
	}
	for i, f := range a.u.Known {
		sum, ref := sums[i], refs[i]
		if ref.Key == "" || f.Size != 0 && f.Size != ref.Size || f.SHA256 != "" && !strings.EqualFold(f.SHA256, ref.Digest) {
			return &Error{Reason: Unknown, Path: f.Path, Detail: "SHA-1 " + f.SHA1}
		}
		if f.Mode == 0 {
			f.Mode = DefaultMode
		}
		f.Path, _ = cleanPath(f.Path)
		f.SHA1, f.SHA256, f.Size = sum, ref.Digest, ref.Size
		if i, ok := a.take(Entry{Fingerprint: f}); ok {
			a.parts[i].Key = ref.Key
			if err := a.charge(f.Path, f.Size); err != nil {
				return err
			}
		}
	}
	return nil
}

// take gives an entry a place among the parts, unless its path has one.
func (a *assembly) take(e Entry) (int, bool) {
	if _, ok := a.at[e.Path]; ok {
		return 0, false
	}
	a.at[e.Path] = len(a.parts)
	a.parts = append(a.parts, Part{Entry: e})
	return len(a.parts) - 1, true
}

func (a *assembly) charge(path string, size int64) error {
	if size > a.left {
		return tooLarge(path, size, a.c.cfg.MaxPackage)
	}
	a.left -= size
	return nil
}

// fresh stores what is not known.
func (a *assembly) fresh(ctx context.Context) error {
	switch {
	case a.u.Files != nil && a.u.Bits != nil:
		return errors.New("Upload has both Files and Bits; give one")
	case a.u.Files != nil:
		items := make([]item, len(a.u.Files.Entries))
		for i, e := range a.u.Files.Entries {
			items[i] = item{Entry: e, open: a.u.Files.open[e.Path]}
		}
		return a.items(ctx, items)
	case a.u.Bits != nil:
		return a.upload(ctx)
	}
	return nil
}

// items stores what can be opened in any order. Everything is checked before the first byte
// is stored.
func (a *assembly) items(ctx context.Context, items []item) error {
	var resources, small []work
	for _, it := range items {
		i, ok := a.take(it.Entry)
		if !ok || it.open == nil {
			continue
		}
		if err := a.charge(it.Path, it.Size); err != nil {
			return err
		}
		if a.caches(&it.Entry) {
			resources = append(resources, work{i, it})
		} else {
			small = append(small, work{i, it})
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(a.c.cfg.Writers + 1)
	if len(small) > 0 {
		g.Go(func() error { return a.pack(gctx, small) })
	}
	for _, w := range resources {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return a.resource(gctx, w) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// work is an item and the index of its part, which only the worker that has it writes.
type work struct {
	part int
	item
}

// caches tells whether a new file is to be known from now on.
func (a *assembly) caches(e *Entry) bool { return !a.u.NoCache && a.c.fits(e.Size, e.Mode) }

// resource stores one file that will be known.
func (a *assembly) resource(ctx context.Context, w work) error {
	p := &a.parts[w.part]
	c := content{open: w.open}
	if p.SHA1 == "" {
		r, err := w.open()
		if err != nil {
			return err
		}
		defer r.Close()
		src := newChecked(ctx, r, &w.Fingerprint, onlySHA1)
		if p.Size <= memoryFile {
			if c.body, err = src.all(); err != nil {
				return err
			}
		} else if _, err := io.CopyBuffer(onlyWriter{io.Discard}, src, make([]byte, chunk)); err != nil {
			return err
		}
		src.sums.into(&p.Fingerprint)
	}
	ref, err := a.store(ctx, p.Fingerprint, c)
	if err != nil {
		return err
	}
	p.SHA256, p.Key = ref.Digest, ref.Key
	return nil
}

// content is a file's bytes: in memory, where their SHA-1 was taken, or to be opened.
type content struct {
	body []byte
	open func() (io.ReadCloser, error)
}

// store puts one content, once in an Assemble however many files have it. The Store takes
// its SHA-256.
func (a *assembly) store(ctx context.Context, f Fingerprint, c content) (catalog.Ref, error) {
	a.mu.Lock()
	o := a.stored[f.SHA1]
	if o == nil {
		o = &once{}
		a.stored[f.SHA1] = o
	}
	a.mu.Unlock()
	o.Do(func() { o.ref, o.err = a.put(ctx, f, c) })
	if o.err == nil && (f.Size != o.ref.Size || f.SHA256 != "" && f.SHA256 != o.ref.Digest) {
		return o.ref, &Error{Reason: Changed, Path: f.Path, Detail: "its SHA-1 is that of another content"}
	}
	return o.ref, o.err
}

func (a *assembly) put(ctx context.Context, f Fingerprint, c content) (catalog.Ref, error) {
	if c.body != nil {
		return a.c.catalog.PutAs(ctx, KindResource, f.SHA1, a.u.Lease, bytes.NewReader(c.body))
	}
	r, err := c.open()
	if err != nil {
		return catalog.Ref{}, fmt.Errorf("store %s: %w", f.Path, err)
	}
	defer r.Close()
	src := newChecked(ctx, r, &f, onlySHA1)
	ref, err := a.c.catalog.PutAs(ctx, KindResource, f.SHA1, a.u.Lease, src)
	return ref, src.blame(err)
}

// all reads a small content to its end.
func (c *checked) all() ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, c.want.Size+bytes.MinRead))
	_, err := b.ReadFrom(c)
	return b.Bytes(), err // not nil, even if it is empty
}

// blame prefers the reader's own failure to what became of it on its way.
func (c *checked) blame(err error) error {
	if err != nil && c.err != nil && !errors.Is(c.err, io.EOF) {
		return c.err
	}
	return err
}
