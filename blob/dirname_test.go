package blob

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// keyOf is the reverse of pathOf, made of what List does.
func keyOf(t *testing.T, p string) string {
	t.Helper()
	names := strings.Split(p, "/")
	var key strings.Builder
	for i, name := range names {
		e, ok := parseEntry(name, i < len(names)-1)
		require.True(t, ok, "List would not know %q", name)
		key.WriteString(e.raw)
	}
	return key.String()
}

func TestPathsAreReadable(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"droplet/ab/12-34": "droplet/ab/12-34.blob",
		"a/":               "a/.blob",
		"/a":               "%2fa.blob",
		"a//b":             "a/%2fb.blob",
		"..":               "%2e%2e.blob",
		"Con":              "%43on.blob",
		"con/nul":          "%63on/%6eul.blob",
	} {
		assert.Equal(t, want, pathOf(key))
	}
	assert.Equal(t, strings.Repeat("a", 198)+"+/"+strings.Repeat("a", 2)+".blob", pathOf(strings.Repeat("a", 200)))
}

func FuzzPathOf(f *testing.F) {
	for _, s := range []string{"a", "a/", "//", "..", "con", strings.Repeat("/a", 30), strings.Repeat("é", 256), strings.Repeat("a", 198) + "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if CheckKey(key) != nil {
			return
		}
		p := pathOf(key)
		if p != strings.ToLower(p) {
			t.Fatalf("%q: %q needs a file system that tells cases apart", key, p)
		}
		for name := range strings.SplitSeq(p, "/") {
			if name == "" || len(name) > 255 || name == "." || name == ".." || strings.HasSuffix(name, ".") || device(strings.TrimSuffix(name, fileSuffix)) {
				t.Fatalf("%q: %q is no good name", key, name)
			}
		}
		if got := keyOf(t, p); got != key {
			t.Fatalf("%q became %q", key, got)
		}
	})
}
