package catalog_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob/catalog"
)

// BenchmarkFindPin is the match of a push with 100,000 files, all of them known, over a
// journal in memory.
func BenchmarkFindPin(b *testing.B) {
	const n = 100_000
	w := newWorld(b, b.Context())
	l := w.lease()
	aliases := make([]string, n)
	for i := range aliases {
		data := fmt.Sprint("file ", i)
		aliases[i] = sha(data)
		_, err := w.putAs("resource", aliases[i], l, strings.NewReader(data))
		require.NoError(b, err)
	}
	for b.Loop() {
		match := w.lease()
		found, err := w.FindPin(b.Context(), "resource", aliases, match)
		require.NoError(b, err)
		require.Len(b, found, n)
		require.NoError(b, w.Release(b.Context(), match))
	}
}

// BenchmarkSweepOfNothing is what a sweep costs when 10,000 blobs are needed.
func BenchmarkSweepOfNothing(b *testing.B) {
	w := newWorld(b, b.Context())
	l := w.lease()
	for i := range 10_000 {
		w.put(l, fmt.Sprint("file ", i))
	}
	for b.Loop() {
		require.Equal(b, catalog.SweepResult{}, w.sweep())
	}
}
