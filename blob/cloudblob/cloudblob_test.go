package cloudblob

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	gcblob "gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/memblob"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/blobtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openMem(t *testing.T) *gcblob.Bucket {
	b := memblob.OpenBucket(nil)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

func openFile(t *testing.T, signer fileblob.URLSigner) *gcblob.Bucket {
	b, err := fileblob.OpenBucket(t.TempDir(), &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite, URLSigner: signer})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	return b
}

func TestMemblob(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store { return New(openMem(t)) })
}

func TestFileblob(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store { return New(openFile(t, nil)) })
}

func TestListGoesOverPages(t *testing.T) {
	t.Parallel()
	for name, bucket := range map[string]*gcblob.Bucket{"memblob": openMem(t), "fileblob": openFile(t, nil)} {
		s := New(bucket)
		var want []string
		for i := range 2500 {
			key := fmt.Sprintf("%d/k%s%d", i%7, []string{"", "/", "-", "A"}[i%4], i)
			want = append(want, key)
			_, err := s.Put(t.Context(), key, strings.NewReader("x"))
			require.NoError(t, err)
		}
		slices.Sort(want)
		var got []string
		for info, err := range s.List(t.Context(), "") {
			require.NoError(t, err)
			got = append(got, info.Key)
		}
		assert.Equal(t, want, got, name)
	}
}

func TestObjectsOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	bucket := openMem(t)
	for _, name := range []string{"readme.txt", "a/b", "%zz!", "!", ".2e.2", "=61!", "x//y!"} {
		require.NoError(t, bucket.WriteAll(t.Context(), name, []byte("x"), nil))
	}
	s := New(bucket)
	_, err := s.Put(t.Context(), "ours", strings.NewReader("x"))
	require.NoError(t, err)
	for info, err := range s.List(t.Context(), "") {
		require.NoError(t, err)
		assert.Equal(t, "ours", info.Key)
	}
}

func TestSignedURL(t *testing.T) {
	t.Parallel()
	_, err := New(openMem(t)).SignedURL(t.Context(), "k", time.Minute)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	base, err := url.Parse("https://blobs.example.com/get")
	require.NoError(t, err)
	signer := fileblob.NewURLSignerHMAC(base, []byte("secret"))
	got, err := New(openFile(t, signer)).SignedURL(t.Context(), "a/b", time.Minute)
	require.NoError(t, err)
	u, err := url.Parse(got)
	require.NoError(t, err)
	name, err := signer.KeyFromURL(t.Context(), u)
	require.NoError(t, err)
	assert.Equal(t, "a/b!", name)
}

func TestNamesAreReadable(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"droplet/ab/12-34": "droplet/ab/12-34!",
		"a/":               "a/!",
		"/a":               ".~/a!",
		"a//b":             "a/.~/b!",
		"..":               ".2e.2e!",
		"x.Attrs":          "x.2e=41ttrs!",
		"é":                "~c3~a9!",
	} {
		assert.Equal(t, want, nameOf(key))
	}
}

func FuzzNameOf(f *testing.F) {
	for _, s := range []string{"a", "a/", "//", "..", strings.Repeat("/a", 30), strings.Repeat("é", 128), strings.Repeat("a", 200) + "/"} {
		f.Add(s, s+"/")
		f.Add(s, s+"!")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if blob.CheckKey(a) != nil || blob.CheckKey(b) != nil {
			return
		}
		for _, key := range []string{a, b} {
			name := nameOf(key)
			if got, ok := keyOf(name); !ok || got != key {
				t.Fatalf("%q became %q, then %q, %v", key, name, got, ok)
			}
			if len(name) > 900 || name != strings.ToLower(name) {
				t.Fatalf("%q: %q is no good name", key, name)
			}
			for piece := range strings.SplitSeq(name, "/") {
				if piece == "" || len(piece) > 250 || piece == "." || piece == ".." {
					t.Fatalf("%q: %q has a bad piece", key, name)
				}
			}
		}
		if x, y := strings.Compare(a, b), strings.Compare(nameOf(a), nameOf(b)); x != y {
			t.Fatalf("%q and %q are ordered %d, their names %d", a, b, x, y)
		}
		if strings.HasPrefix(b, a) && !strings.HasPrefix(nameOf(b), prefixOf(a)) {
			t.Fatalf("%q is a prefix of %q, but %q not of %q", a, b, prefixOf(a), nameOf(b))
		}
		if !strings.HasPrefix(b, a) && strings.HasPrefix(nameOf(b), prefixOf(a)) {
			t.Fatalf("%q is no prefix of %q, but %q of %q", a, b, prefixOf(a), nameOf(b))
		}
	})
}
