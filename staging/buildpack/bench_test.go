package buildpack_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

// BenchmarkPlan plans with ten folders of 50 files, which are packed once and then known by
// their stamps.
func BenchmarkPlan(b *testing.B) {
	var c buildpack.Catalogue
	for i := range 10 {
		files := map[string]string{"bin/detect": fmt.Sprint(i)}
		for j := range 50 {
			files[fmt.Sprintf("lib/%d", j)] = "x"
		}
		dir := b.TempDir()
		fill(b, dir, files)
		require.NoError(b, c.Add(buildpack.Entry{Name: fmt.Sprint("b", i), Location: "dir:" + dir}))
	}
	r, err := buildpack.New(buildpack.Config{Catalogue: &c, Dir: b.TempDir()})
	require.NoError(b, err)
	for b.Loop() {
		if _, err := r.Plan(b.Context(), stagingtest.Request("x"), nil); err != nil {
			b.Fatal(err)
		}
	}
}
