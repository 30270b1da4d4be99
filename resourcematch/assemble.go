package resourcematch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/blob/catalog"
)

const (
	// packSize is how many bytes of files go into one blob, if one file is not larger: enough
	// for few syncs, rows and requests, and little enough for the rest of a blob of which only
	// some files are still needed.
	packSize = 64 << 20
	// sparse: of a blob of which a package needs less than one in so many bytes, the files
	// are copied instead, so that a small part of it does not hold all of it.
	sparse = 4
)

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
	a := &assembly{c: c, u: u, left: c.cfg.MaxPackage, at: map[string]int{}, blobAt: map[string]int{}}
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
	m := &Manifest{Version: 1, Blobs: a.blobs, Entries: a.parts}
	m.SHA256 = m.Sum()
	text := piped(ctx, func(_ context.Context, w io.Writer) error { return m.write(w) })
	defer text.Close()
	ref, err := c.catalog.Put(ctx, KindPackage, u.Lease, text)
	if err != nil {
		return nil, err
	}
	p.Key, p.Keys, p.SHA256, p.Files, p.Size = ref.Key, append(slices.Clone(m.Blobs), ref.Key), m.SHA256, m.Files(), m.Size()
	return p, nil
}

// assembly is one Assemble under way.
type assembly struct {
	c       *Cache
	u       *Upload
	left    int64             // bytes that the package may still have
	parts   []Part            // grows only in the goroutine of Assemble
	at      map[string]int    // path: index in parts
	copies  []work            // known files that are to be stored again
	from    map[string]string // the blobs of those, by path
	nothing bool              // the stream of bits had no bytes at all

	mu     sync.Mutex // guards blobs, blobAt and, while packs are written, the Blob of each part
	blobs  []string
	blobAt map[string]int
}

// work is an item and the index of its part, which only the worker that has it writes.
type work struct {
	part int
	item
}

// blob returns the index of a blob. The caller holds mu.
func (a *assembly) blob(key string) int {
	i, ok := a.blobAt[key]
	if !ok {
		i = len(a.blobs)
		a.blobs, a.blobAt[key] = append(a.blobs, key), i
	}
	return i
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
	refs, err := a.c.catalog.FindPin(ctx, KindFiles, sums, a.u.Lease)
	if err != nil {
		return err
	}
	used := map[string]int64{}
	for i, f := range a.u.Known {
		sum, ref := sums[i], &refs[i]
		if ref.Key == "" || f.Size != 0 && f.Size != ref.Size || f.SHA256 != "" && !strings.EqualFold(f.SHA256, ref.Digest) {
			return &Error{Reason: Unknown, Path: f.Path, Detail: "SHA-1 " + f.SHA1}
		}
		if f.Mode == 0 {
			f.Mode = DefaultMode
		}
		f.Path, _ = cleanPath(f.Path)
		f.SHA1, f.SHA256, f.Size = sum, ref.Digest, ref.Size
		j, ok := a.take(Entry{Fingerprint: f})
		if !ok {
			ref.Key = "" // this path has its content already
			continue
		}
		a.parts[j].Offset = ref.Offset
		used[ref.Key] += ref.Size
		if err := a.charge(f.Path, f.Size); err != nil {
			return err
		}
	}
	a.place(ctx, refs, used)
	return nil
}

// place decides for each known file, in the order of parts, whether it is referred to or copied.
func (a *assembly) place(ctx context.Context, refs []catalog.Ref, used map[string]int64) {
	thin := map[string]bool{}
	a.from = map[string]string{}
	for key, n := range used {
		row, ok := a.c.catalog.Row(key)
		thin[key] = ok && n < row.Size/sparse
	}
	j := 0
	for _, ref := range refs {
		if ref.Key == "" {
			continue
		}
		if p := &a.parts[j]; thin[ref.Key] {
			a.from[p.Path] = ref.Key
			a.copies = append(a.copies, work{j, item{Entry: p.Entry, open: func() (io.ReadCloser, error) {
				return a.c.catalog.OpenRange(ctx, ref.Key, ref.Offset, ref.Size)
			}}})
		} else {
			p.Blob = a.blob(ref.Key)
		}
		j++
	}
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

// fresh stores what is not known, and what is to be stored again.
func (a *assembly) fresh(ctx context.Context) error {
	switch {
	case a.u.Files != nil && a.u.Bits != nil:
		return errors.New("Upload has both Files and Bits; give one")
	case a.u.Files != nil:
		items := make([]item, len(a.u.Files.Entries))
		for i, e := range a.u.Files.Entries {
			items[i] = item{Entry: e, open: a.u.Files.open[e.Path]}
		}
		if err := a.items(ctx, items); err != nil {
			return err
		}
	case a.u.Bits != nil:
		if err := a.upload(ctx); err != nil {
			return err
		}
	}
	err := a.store(ctx, a.copies)
	var e *Error
	if errors.As(err, &e) && e.Reason == Changed {
		p := &a.parts[a.at[e.Path]]
		return a.c.corrupt(ctx, p, a.from[e.Path], err)
	}
	return err
}

// items stores what can be opened in any order. Everything is checked before the first byte
// is stored.
func (a *assembly) items(ctx context.Context, items []item) error {
	type content struct {
		sum  string
		size int64
	}
	var todo, twins []work
	first := map[content]int{} // of files with one content: the part that is stored
	a.parts = slices.Grow(a.parts, len(items))
	for _, it := range items {
		i, ok := a.take(it.Entry)
		if !ok || it.open == nil {
			continue
		}
		if err := a.charge(it.Path, it.Size); err != nil {
			return err
		}
		c := content{it.SHA1, it.Size}
		if j, ok := first[c]; ok && c.sum != "" {
			twins = append(twins, work{part: i, item: item{Entry: a.parts[j].Entry}})
			continue
		}
		first[c] = i
		todo = append(todo, work{i, it})
	}
	if err := a.store(ctx, todo); err != nil {
		return err
	}
	for _, w := range twins {
		of := &a.parts[a.at[w.Path]]
		p := &a.parts[w.part]
		p.SHA256, p.Blob, p.Offset = of.SHA256, of.Blob, of.Offset
	}
	return nil
}

// store writes files into as few blobs as packSize allows, each of files that follow each
// other: the same files make the same blobs.
func (a *assembly) store(ctx context.Context, files []work) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(a.c.cfg.Writers)
	for len(files) > 0 && gctx.Err() == nil {
		n, size := 1, files[0].Size
		for n < len(files) && size+files[n].Size <= a.c.packSize {
			size += files[n].Size
			n++
		}
		part := files[:n]
		files = files[n:]
		g.Go(func() error { return a.pack(gctx, part, size) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// caches tells whether a new file is to be known from now on.
func (a *assembly) caches(e *Entry) bool {
	return !a.u.NoCache && e.Size > 0 && a.c.fits(e.Size, e.Mode)
}

// found describes a stored part to the catalog, if it is to be known.
func (a *assembly) found(all []catalog.Part, p *Part) []catalog.Part {
	if !a.caches(&p.Entry) {
		return all
	}
	return append(all, catalog.Part{Alias: p.SHA1, Digest: p.SHA256, Offset: p.Offset, Size: p.Size})
}

// blame prefers the reader's own failure to what became of it on its way.
func (c *checked) blame(err error) error {
	if err != nil && c.err != nil && !errors.Is(c.err, io.EOF) {
		return c.err
	}
	return err
}
