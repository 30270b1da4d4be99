package buildpack_test

import (
	"fmt"
	"io/fs"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

func order(c *buildpack.Catalogue) (out []string) {
	for i, e := range c.List() {
		if e.Position != i+1 {
			out = append(out, fmt.Sprintf("!%d", e.Position))
		}
		out = append(out, e.Name)
	}
	return out
}

func TestCatalogue(t *testing.T) {
	t.Parallel()
	var c buildpack.Catalogue
	at := func(name string, pos int) buildpack.Entry {
		return buildpack.Entry{Name: name, Position: pos, Location: "dir:/x"}
	}
	for _, e := range []buildpack.Entry{at("a", 0), at("b", 0), at("c", 1), at("d", 99)} {
		require.NoError(t, c.Add(e))
	}
	assert.Equal(t, []string{"c", "a", "b", "d"}, order(&c))
	require.ErrorIs(t, c.Add(at("a", 0)), fs.ErrExist)
	require.NoError(t, c.Update(at("d", 2)))
	assert.Equal(t, []string{"c", "d", "a", "b"}, order(&c))
	require.NoError(t, c.Update(at("a", 0)), "0 leaves it where it is")
	assert.Equal(t, []string{"c", "d", "a", "b"}, order(&c))
	require.ErrorIs(t, c.Update(at("z", 0)), fs.ErrNotExist)
	other := at("a", 0)
	other.Stack = "s"
	require.NoError(t, c.Add(other), "the stack is part of the name")

	locked := at("c", 0)
	locked.Locked = true
	require.NoError(t, c.Update(locked))
	locked.Location = "dir:/y"
	require.ErrorIs(t, c.Update(locked), buildpack.ErrLocked)
	assert.True(t, c.Remove("c", ""))
	assert.False(t, c.Remove("c", ""))
	assert.Equal(t, []string{"d", "a", "b", "a"}, order(&c))
	c.List()[0].Name = "changed"
	assert.Equal(t, "d", c.List()[0].Name)
}

func TestCatalogueRefuses(t *testing.T) {
	t.Parallel()
	var c buildpack.Catalogue
	for _, e := range []buildpack.Entry{
		{Name: "", Location: "dir:/x"}, {Name: "a b", Location: "dir:/x"}, {Name: "a/b", Location: "dir:/x"},
		{Name: "a"}, {Name: "a", Location: "ftp://h/x"}, {Name: "a", Location: "dir:"}, {Name: "a", Location: "blob:k"},
		{Name: "a", Location: "dir:/x", SHA256: "ABC"},
	} {
		assert.Error(t, c.Add(e), "%+v", e)
	}
	assert.Empty(t, c.List())
}

func TestCatalogueByMany(t *testing.T) {
	t.Parallel()
	var c buildpack.Catalogue
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprint("b", i)
			assert.NoError(t, c.Add(buildpack.Entry{Name: name, Location: "dir:/x", Position: 1}))
			c.List()
			if i%2 == 0 {
				c.Remove(name, "")
			}
		})
	}
	wg.Wait()
	assert.Len(t, c.List(), 8)
	assert.Len(t, order(&c), 8, "positions without gaps")
}

func FuzzLocation(f *testing.F) {
	for _, s := range []string{"dir:/x", "https://h/x.zip#v1", "git://h/x", "ext::sh", "http://[::1]:80/x", "https://u:p@h/%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c buildpack.Catalogue
		_ = c.Add(buildpack.Entry{Name: "a", Location: s})
	})
}
