package blobtest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/blob"
)

// hostile holds valid keys that a file system, a shell or a URL would find hard.
func hostile() []string {
	return []string{
		".", "..", "../evil", "../../../../etc/passwd", "a/../b", "a/./b", "a//b", "a/", "/", "//", "///", "/a", "/a/", "a", "A",
		"a/b", "a/B", "A/b", "a-b", "a0", "a.b", "a b", "a/b/c", "a/b.", "a/b ", "con", "CON", "con.txt", "nul", "aux/prn", "com1", "lpt9/x", "conx",
		"a%2fb", "a%2Fb", "%", "%2e%2e", "%zz", "+", "a+", "a+/b", "a.blob", ".blob", "a/.blob", "x.attrs", "x.ATTRS", "x.tmp", ".tmp", "tmp", "lock",
		"-", "-rf", "~", "$HOME", "a*b", "a?b", "a:b", "c:\\x", "\\\\srv\\share", "a|b", "<a>", "\"a\"", "'a'", "a\nb", "a\x00b", "a\tb", "\x7f", "a#b", "a&b", "a;b",
		"é", "e\u0301", "É", "日本語", "\U0001F4A7", "\u202e", "ß", "ss", "ı", "K", "\ufffd", "\ufeff",
		strings.Repeat("a", 199), strings.Repeat("a", 200), strings.Repeat("a", 201), strings.Repeat("a", 255),
		strings.Repeat("a", 198) + "/b", strings.Repeat("a", 197) + "/b", strings.Repeat("a", 198) + "!b", strings.Repeat("a", 198) + "0b",
		strings.Repeat("a", blob.MaxKey), strings.Repeat("A", blob.MaxKey), strings.Repeat("/", blob.MaxKey),
		strings.Repeat("a/", blob.MaxKey/2), strings.Repeat("../", 80), strings.Repeat("é", blob.MaxKey/2), strings.Repeat("a/", 9), strings.Repeat("a/", 9) + "b",
		strings.Repeat("a/", 8), strings.Repeat("a/", 8) + "!", strings.Repeat("a/", 7) + "b", strings.Repeat("a/", 10) + "b/c",
	}
}

func hostileKeys(t *testing.T, s blob.Store) {
	keys := hostile()
	for _, key := range keys {
		if _, err := s.Put(t.Context(), key, strings.NewReader("blob of "+key)); err != nil {
			t.Errorf("put %q: %v", key, err)
		}
	}
	// Each is its own: no key is another one in disguise.
	for _, key := range keys {
		wantBlob(t, s, key, "blob of "+key)
		if info, err := s.Stat(t.Context(), key); err != nil || info.Key != key {
			t.Errorf("stat %q: %+v, %v", key, info, err)
		}
	}
	for i, key := range keys {
		if i%2 == 0 {
			continue
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	for i, key := range keys {
		if i%2 == 0 {
			wantBlob(t, s, key, "blob of "+key)
		} else {
			wantAbsent(t, s, key)
		}
	}
}

func invalidKeys(t *testing.T, s blob.Store) {
	for _, key := range []string{"", "\xff", "a\xc3", strings.Repeat("a", blob.MaxKey+1), strings.Repeat("a", 1<<16)} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); !errors.Is(err, blob.ErrInvalidKey) {
			t.Errorf("put %.20q: %v, want an error that is blob.ErrInvalidKey", key, err)
		}
		if r, err := s.Get(t.Context(), key); !errors.Is(err, blob.ErrInvalidKey) {
			t.Errorf("get %.20q: %v, want an error that is blob.ErrInvalidKey", key, err)
			if r != nil {
				r.Close()
			}
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, blob.ErrInvalidKey) {
			t.Errorf("stat %.20q: %v, want an error that is blob.ErrInvalidKey", key, err)
		}
		if err := s.Delete(t.Context(), key); !errors.Is(err, blob.ErrInvalidKey) {
			t.Errorf("delete %.20q: %v, want an error that is blob.ErrInvalidKey", key, err)
		}
	}
	wantList(t, s, "")
}

func lists(t *testing.T, s blob.Store) {
	wantList(t, s, "")
	for _, key := range []string{"b", "a/2", "a/1", "a", "ab", "a/10", "a-1", "c/d/e/f", "c/d"} {
		put(t, s, key, key)
	}
	wantList(t, s, "", "a", "a-1", "a/1", "a/10", "a/2", "ab", "b", "c/d", "c/d/e/f")
	wantList(t, s, "a", "a", "a-1", "a/1", "a/10", "a/2", "ab")
	wantList(t, s, "a/", "a/1", "a/10", "a/2")
	wantList(t, s, "a/1", "a/1", "a/10")
	wantList(t, s, "c/d/e", "c/d/e/f")
	wantList(t, s, "c/d/e/f", "c/d/e/f")
	wantList(t, s, "c/d/e/f/g")
	wantList(t, s, "d")
}

// listHostileKeys: the order is that of the keys, whatever the Store makes of them.
func listHostileKeys(t *testing.T, s blob.Store) {
	keys := hostile()
	for _, key := range keys {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); err != nil {
			t.Errorf("put %q: %v", key, err)
		}
	}
	slices.Sort(keys)
	wantList(t, s, "", keys...)
	for _, prefix := range append(hostile(), strings.Repeat("a", 150), "..", "../", "a/", "%", "é"[:1], "日"[:2]) {
		var want []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		wantList(t, s, prefix, want...)
	}
}

// listStops: a caller may stop when she likes, and the first error is the last.
func listStops(t *testing.T, s blob.Store) {
	for _, key := range []string{"a", "b/c", "b/d", "e"} {
		put(t, s, key, key)
	}
	for stop := 1; stop <= 4; stop++ {
		n := 0
		for _, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == stop {
				break
			}
		}
	}
}

func listWhileDeleting(t *testing.T, s blob.Store) {
	for _, key := range []string{"a/1", "a/2", "b/1", "b/2", "c"} {
		put(t, s, key, key)
	}
	seen := map[string]int{}
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		seen[info.Key]++
		if err := s.Delete(t.Context(), info.Key); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a/1", "a/2", "b/1", "b/2", "c"} {
		if seen[key] != 1 {
			t.Errorf("%q was listed %d times", key, seen[key])
		}
	}
	wantList(t, s, "")
}
