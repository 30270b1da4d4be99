package resourcematch

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/state"
)

// openCache makes a Cache over a Store, everything else in memory.
func openCache(t testing.TB, s blob.Store, cfg Config) *Cache {
	t.Helper()
	db, err := state.Open(context.Background(), state.Config{Journal: state.NewMemory()}, catalog.Tables()...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	cfg.Catalog, err = catalog.New(catalog.Config{DB: db, Store: s})
	require.NoError(t, err)
	c, err := New(cfg)
	require.NoError(t, err)
	return c
}

func newLease(t testing.TB, c *Cache) catalog.Lease {
	t.Helper()
	l, err := c.catalog.Lease(context.Background(), time.Hour)
	require.NoError(t, err)
	return l
}

// BenchmarkMatch is a whole request: decode, match, pin, encode; each file is known.
func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1000, 5000, 10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			if n > 10_000 && testing.Short() {
				b.Skip("fills a large cache")
			}
			c := openCache(b, blob.NewMemory(), Config{MinSize: -1})
			lease := newLease(b, c)
			fps := make([]Fingerprint, n)
			var texts []string
			for i := range fps {
				body := strconv.Itoa(i)
				fps[i] = fp(fmt.Sprintf("node_modules/package-%d/lib/file-%d.js", i%977, i), body, 0o644)
				if texts = append(texts, body); len(texts) == 1000 {
					knowsPack(b, c, lease, texts...)
					texts = nil
				}
			}
			body, err := json.Marshal(fps)
			require.NoError(b, err)
			b.ReportAllocs()
			var all, matching time.Duration
			for b.Loop() {
				begun := time.Now()
				var in []Fingerprint
				if err := json.Unmarshal(body, &in); err != nil {
					b.Fatal(err)
				}
				decoded := time.Now()
				l, err := c.catalog.Lease(context.Background(), time.Hour)
				if err != nil {
					b.Fatal(err)
				}
				known, err := c.Match(context.Background(), in, l)
				if err != nil || len(known) != n {
					b.Fatal(len(known), err)
				}
				matching += time.Since(decoded)
				if _, err := json.Marshal(known); err != nil {
					b.Fatal(err)
				}
				all += time.Since(begun)
			}
			b.ReportMetric(float64(all)/float64(all-matching), "times-json-alone")
		})
	}
}
