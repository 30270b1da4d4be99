// Package blobtest is the conformance suite of [blob.Store], and [Faults], a Store that
// fails on demand.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/blob"
)

// Run tests a Store against the contract of [blob.Store], and of [blob.Ranger] if it is
// one. open gives an empty Store of its own for each test and cleans up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s blob.Store)
	}{
		{"PutThenGet", putThenGet},
		{"EmptyBlob", emptyBlob},
		{"BigBlob", bigBlob},
		{"Absent", absent},
		{"PutAgain", putAgain},
		{"Delete", deletes},
		{"DeleteWhileReading", deleteWhileReading},
		{"PutWhileReading", putWhileReading},
		{"HostileKeys", hostileKeys},
		{"InvalidKeys", invalidKeys},
		{"List", lists},
		{"ListHostileKeys", listHostileKeys},
		{"ListStops", listStops},
		{"ListWhileDeleting", listWhileDeleting},
		{"ReaderFails", readerFails},
		{"ContextEndsBefore", contextEndsBefore},
		{"ContextEndsMidway", contextEndsMidway},
		{"ContextEndsWithLastRead", contextEndsWithLastRead},
		{"WritersOfOneKey", writersOfOneKey},
		{"WritersOfManyKeys", writersOfManyKeys},
		{"PutAndDeleteInOneFolder", putAndDeleteInOneFolder},
		{"Range", ranges},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

func put(t *testing.T, s blob.Store, key, data string) blob.Info {
	t.Helper()
	info, err := s.Put(t.Context(), key, strings.NewReader(data))
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return info
}

func read(ctx context.Context, s blob.Store, key string) (string, error) {
	r, err := s.Get(ctx, key)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

func wantBlob(t *testing.T, s blob.Store, key, data string) {
	t.Helper()
	got, err := read(t.Context(), s, key)
	if err != nil {
		t.Errorf("get %q: %v", key, err)
	} else if got != data {
		t.Errorf("get %q: %d bytes %.40q, want %d bytes %.40q", key, len(got), got, len(data), data)
	}
}

// wantAbsent asks in every way whether nothing is there.
func wantAbsent(t *testing.T, s blob.Store, key string) {
	t.Helper()
	if r, err := s.Get(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get %q: %v, want an error that is fs.ErrNotExist", key, err)
		if r != nil {
			r.Close()
		}
	}
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat %q: %v, want an error that is fs.ErrNotExist", key, err)
	}
	if got := list(t, s, key); slices.Contains(got, key) {
		t.Errorf("%q is listed", key)
	}
}

func list(t *testing.T, s blob.Store, prefix string) []string {
	t.Helper()
	keys := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func wantList(t *testing.T, s blob.Store, prefix string, keys ...string) {
	t.Helper()
	if got := list(t, s, prefix); !slices.Equal(got, keys) {
		t.Errorf("list %q:\n got %q\nwant %q", prefix, got, keys)
	}
}

func digest(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:])
}

func putThenGet(t *testing.T, s blob.Store) {
	const key, data = "droplet/ab/cdef", "the bytes"
	info := put(t, s, key, data)
	if info.Key != key || info.Size != int64(len(data)) || info.SHA256 != digest(data) {
		t.Errorf("put says %+v, want the key, size %d and SHA256 %s", info, len(data), digest(data))
	}
	wantBlob(t, s, key, data)
	info, err := s.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != key || info.Size != int64(len(data)) {
		t.Errorf("stat says %+v", info)
	}
	if info.SHA256 != "" && info.SHA256 != digest(data) {
		t.Errorf("stat says a SHA256 of %s, want %s or nothing", info.SHA256, digest(data))
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Key != key || info.Size != int64(len(data)) {
			t.Errorf("list yields %+v, %v", info, err)
		}
	}
}

func emptyBlob(t *testing.T, s blob.Store) {
	info := put(t, s, "empty", "")
	if info.Size != 0 || info.SHA256 != digest("") {
		t.Errorf("put says %+v", info)
	}
	wantBlob(t, s, "empty", "")
	wantList(t, s, "", "empty")
}

// bigBlob has more bytes than any buffer, and they come in pieces of odd sizes.
func bigBlob(t *testing.T, s blob.Store) {
	const size = 9<<20 + 17
	data := make([]byte, size)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(data)
	info, err := s.Put(t.Context(), "big", &oddReader{r: bytes.NewReader(data)})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if info.Size != size || info.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("put says %+v", info)
	}
	r, err := s.Get(t.Context(), "big")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	back := sha256.New()
	if _, err := io.Copy(back, r); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Sum(nil), sum[:]) {
		t.Error("other bytes came back")
	}
}

// oddReader reads pieces of sizes that fit nothing, some of them empty.
type oddReader struct {
	r io.Reader
	n int
}

func (o *oddReader) Read(p []byte) (int, error) {
	o.n++
	return o.r.Read(p[:min(len(p), []int{0, 1, 4093, 70001, 1 << 20}[o.n%5])])
}

func absent(t *testing.T, s blob.Store) {
	wantAbsent(t, s, "nothing/here")
	if err := s.Delete(t.Context(), "nothing/here"); err != nil {
		t.Errorf("delete of an absent key: %v, want nil", err)
	}
	put(t, s, "some/thing", "x")
	wantAbsent(t, s, "some")
	wantAbsent(t, s, "some/")
	wantAbsent(t, s, "some/thing/more")
	wantList(t, s, "other")
}

func putAgain(t *testing.T, s blob.Store) {
	put(t, s, "k", "first, and longer")
	if info := put(t, s, "k", "second"); info.Size != 6 || info.SHA256 != digest("second") {
		t.Errorf("put says %+v", info)
	}
	wantBlob(t, s, "k", "second")
	wantList(t, s, "", "k")
}

func deletes(t *testing.T, s blob.Store) {
	put(t, s, "a/b", "1")
	put(t, s, "a/c", "2")
	for range 2 {
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Fatal(err)
		}
	}
	wantAbsent(t, s, "a/b")
	wantBlob(t, s, "a/c", "2")
	put(t, s, "a/b", "again")
	wantBlob(t, s, "a/b", "again")
}

func deleteWhileReading(t *testing.T, s blob.Store) {
	whileReading(t, s, func() error { return s.Delete(t.Context(), "k") })
	wantAbsent(t, s, "k")
}

func putWhileReading(t *testing.T, s blob.Store) {
	whileReading(t, s, func() error {
		_, err := s.Put(t.Context(), "k", strings.NewReader("other"))
		return err
	})
	wantBlob(t, s, "k", "other")
}

func whileReading(t *testing.T, s blob.Store, act func() error) {
	t.Helper()
	data := strings.Repeat("0123456789abcdef", 1<<16)
	put(t, s, "k", data)
	r, err := s.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	head := make([]byte, 1000)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if err := act(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("the open reader broke: %v", err)
	}
	if string(head)+string(rest) != data {
		t.Error("the open reader delivered other bytes")
	}
}

func ranges(t *testing.T, s blob.Store) {
	ranger, ok := s.(blob.Ranger)
	if !ok {
		t.Skip("it is no blob.Ranger")
	}
	const data = "0123456789"
	put(t, s, "k", data)
	for _, c := range []struct {
		offset, length int64
		want           string
	}{
		{0, -1, data}, {0, 10, data}, {0, 3, "012"}, {4, 3, "456"}, {7, 100, "789"}, {9, 1, "9"},
		{3, -1, "3456789"}, {10, 1, ""}, {10, -1, ""}, {1000, 5, ""}, {5, 0, ""}, {0, 0, ""},
	} {
		name := fmt.Sprintf("%d bytes from %d", c.length, c.offset)
		r, err := ranger.GetRange(t.Context(), "k", c.offset, c.length)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil || string(b) != c.want {
			t.Errorf("%s: %q, %v, want %q", name, b, err, c.want)
		}
	}
	if r, err := ranger.GetRange(t.Context(), "absent", 0, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("range of an absent key: %v", err)
		if r != nil {
			r.Close()
		}
	}
	if r, err := ranger.GetRange(t.Context(), "k", -1, 1); err == nil {
		r.Close()
		t.Error("a negative offset was accepted")
	}
	put(t, s, "empty", "")
	if r, err := ranger.GetRange(t.Context(), "empty", 0, 5); err != nil {
		t.Errorf("range of an empty blob: %v", err)
	} else {
		r.Close()
	}
}
