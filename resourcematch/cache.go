package resourcematch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
)

// Defaults of Config: Cloud Foundry's.
const (
	DefaultMinSize      = 64 << 10
	DefaultMaxSize      = 512 << 20
	DefaultMinMode Mode = 0o600
)

// Config says what a Cache is made of. Only Catalog is required.
type Config struct {
	// Catalog keeps the files and packages.
	Catalog *catalog.Catalog
	// Store is that of the Catalog. With it, a file that turns out to be damaged is deleted,
	// so that the next push brings it anew. Nil: it stays, and pushes that need it go on failing.
	Store blob.Store
	// MaxPackage is the largest sum of uncompressed sizes, in bytes; 0: DefaultMaxPackage,
	// negative: none.
	MaxPackage int64
	// A file is known, and becomes known, if MinSize < its size < MaxSize, in bytes.
	// 0: DefaultMinSize and DefaultMaxSize; negative: no such limit.
	MinSize, MaxSize int64
	// MinMode is the least mode of such a file; 0: DefaultMinMode.
	MinMode Mode
	// TempDir is where a zip that arrives as a stream waits to be read; "": os.TempDir.
	TempDir string
	// Writers is how many files are stored at a time; 0: 8. Each takes up to 4 MiB.
	Writers int
}

// Cache knows the files of earlier packages and makes new ones. All methods may be called
// by any number of goroutines. It has no state besides the Catalog's.
type Cache struct {
	cfg     Config
	catalog *catalog.Catalog
}

// New makes a Cache; it starts nothing and reads nothing.
func New(c Config) (*Cache, error) {
	if c.Catalog == nil {
		return nil, errors.New("resourcematch: Config.Catalog is nil; give one that catalog.New made")
	}
	def := func(n *int64, d, none int64) {
		switch {
		case *n == 0:
			*n = d
		case *n < 0:
			*n = none
		}
	}
	def(&c.MinSize, DefaultMinSize, -1)
	def(&c.MaxSize, DefaultMaxSize, 1<<63-1)
	c.MaxPackage = limitOf(c.MaxPackage)
	if c.MinMode == 0 {
		c.MinMode = DefaultMinMode
	}
	if c.Writers <= 0 {
		c.Writers = 8
	}
	return &Cache{cfg: c, catalog: c.Catalog}, nil
}

// fits tells whether a file is one that the cache deals with.
func (c *Cache) fits(size int64, mode Mode) bool {
	return size > c.cfg.MinSize && size < c.cfg.MaxSize && mode >= c.cfg.MinMode
}

// Match returns those of the fingerprints whose content is here, in the order in which they
// were given and unchanged. lease holds what is returned until it ends, so that an upload
// can rely on it. A size outside the limits, a mode that is too low or not known, a sum
// that is none or a size that isn't that of the content: not known, and no error.
func (c *Cache) Match(ctx context.Context, fps []Fingerprint, lease catalog.Lease) ([]Fingerprint, error) {
	sums := make([]string, 0, len(fps))
	for i := range fps {
		if f := &fps[i]; c.fits(f.Size, f.Mode) {
			if sum, ok := alias(f.SHA1); ok {
				sums = append(sums, sum)
			}
		}
	}
	if len(sums) == 0 {
		return nil, nil
	}
	refs, err := c.find(ctx, sums, lease)
	if err != nil {
		return nil, fmt.Errorf("match %d files: %w", len(fps), err)
	}
	known := make([]Fingerprint, 0, len(fps))
	for i := range fps {
		f := &fps[i]
		sum, ok := alias(f.SHA1)
		if !ok || !c.fits(f.Size, f.Mode) {
			continue
		}
		if ref, ok := refs.get(sum); ok && same(ref, f) {
			known = append(known, *f)
		}
	}
	return known, nil
}

// found is what the parts of one question found.
type found []map[string]catalog.Ref

func (f found) get(sum string) (catalog.Ref, bool) {
	for _, m := range f {
		if ref, ok := m[sum]; ok {
			return ref, true
		}
	}
	return catalog.Ref{}, false
}

// find looks contents up and pins them. Many are asked for in parts, side by side: each part
// is one Update, and the Updates are joined.
func (c *Cache) find(ctx context.Context, sums []string, lease catalog.Lease) (found, error) {
	const worthwhile = 10_000
	n := max(1, min(runtime.GOMAXPROCS(0), len(sums)/worthwhile))
	out := make(found, n)
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		part := sums[i*len(sums)/n : (i+1)*len(sums)/n]
		g.Go(func() (err error) {
			out[i], err = c.catalog.FindPin(ctx, KindResource, part, lease)
			return err
		})
	}
	return out, g.Wait()
}

// same tells whether a kept file is what a fingerprint says, as far as that says it.
func same(ref catalog.Ref, f *Fingerprint) bool {
	return ref.Size == f.Size && (f.SHA256 == "" || strings.EqualFold(f.SHA256, ref.Digest))
}

// alias returns the form of a SHA-1 that files are found by, and whether it is one.
func alias(sum string) (string, bool) {
	if len(sum) != 40 {
		return "", false
	}
	upper := false
	for i := range len(sum) {
		switch c := sum[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
		case c >= 'A' && c <= 'F':
			upper = true
		default:
			return "", false
		}
	}
	if upper {
		sum = strings.ToLower(sum)
	}
	return sum, true
}
