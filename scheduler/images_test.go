package scheduler

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
)

// A work with an image goes where images are run, whatever stacks there are.
func TestImagesGoWhereTheyAreRun(t *testing.T) {
	t.Parallel()
	plain, able := sized("plain", "", 100), sized("run", "", 100)
	able.Total.Images = true
	w := wants("p", 0, 10)
	w.Spec.Stack, w.Spec.Image = "", "host/app@sha256:00"
	for _, p := range []Spread{{}, {BinPack: 1}} {
		id, err := p.Place(w, NewView(plain, able))
		require.NoError(t, err)
		assert.Equal(t, "run", id)
	}
	_, err := Spread{}.Place(w, NewView(plain))
	require.ErrorContains(t, err, "found no compatible cell for required rootfs (1 cell: runs no images)")
	w.Spec = cell.Spec{Memory: 10}
	_, err = Spread{}.Place(w, NewView(plain))
	require.NoError(t, err)
}
