package resourcematch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
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
	// Writers is how many blobs are written at a time; 0: 4, or one for each processor if there
	// are more.
	Writers int
}

// Cache knows the files of earlier packages and makes new ones. All methods may be called
// by any number of goroutines. It has no state besides the Catalog's.
type Cache struct {
	cfg      Config
	catalog  *catalog.Catalog
	packSize int64
	entries  int // the most that an upload may have: something of each is held in memory
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
		c.Writers = max(4, runtime.GOMAXPROCS(0))
	}
	return &Cache{cfg: c, catalog: c.Catalog, packSize: packSize, entries: tarfs.DefaultZipEntries}, nil
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
	sums, asked := make([]string, 0, len(fps)), make([]int, 0, len(fps))
	for i := range fps {
		if f := &fps[i]; c.fits(f.Size, f.Mode) {
			if sum, ok := alias(f.SHA1); ok {
				sums, asked = append(sums, sum), append(asked, i)
			}
		}
	}
	if len(sums) == 0 {
		return nil, nil
	}
	refs, err := c.catalog.FindPin(ctx, KindFiles, sums, lease)
	if err != nil {
		return nil, fmt.Errorf("match %d files: %w", len(fps), err)
	}
	known := make([]Fingerprint, 0, len(fps))
	for i, ref := range refs {
		if f := &fps[asked[i]]; ref.Key != "" && same(ref, f) {
			known = append(known, *f)
		}
	}
	return known, nil
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
