package blobtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dewpoint-go/dewpoint/blob"
)

var errReader = errors.New("the reader broke")

func readerFails(t *testing.T, s blob.Store) {
	put(t, s, "old", "old")
	for _, size := range []int{0, 1, 1000, 3 << 20} {
		for _, err := range []error{errReader, io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF)} {
			for _, key := range []string{"new", "old"} {
				_, got := s.Put(t.Context(), key, &broken{data: make([]byte, size), err: err})
				if !errors.Is(got, err) {
					t.Errorf("put of a reader that fails after %d bytes: %v, want it to wrap %q", size, got, err)
				}
			}
			wantAbsent(t, s, "new")
			wantBlob(t, s, "old", "old")
		}
	}
	wantList(t, s, "", "old")
}

func contextEndsBefore(t *testing.T, s blob.Store) {
	put(t, s, "old", "old")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, key := range []string{"new", "old"} {
		if _, err := s.Put(ctx, key, strings.NewReader("new")); !errors.Is(err, context.Canceled) {
			t.Errorf("put: %v, want it to wrap context.Canceled", err)
		}
	}
	wantAbsent(t, s, "new")
	wantBlob(t, s, "old", "old")
	if _, err := read(ctx, s, "old"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v, want it to wrap context.Canceled", err)
	}
	if _, err := s.Stat(ctx, "old"); !errors.Is(err, context.Canceled) {
		t.Errorf("stat: %v, want it to wrap context.Canceled", err)
	}
	if err := s.Delete(ctx, "old"); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v, want it to wrap context.Canceled", err)
	}
	var last error
	for _, err := range s.List(ctx, "") {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("list: %v, want it to wrap context.Canceled", last)
	}
	wantBlob(t, s, "old", "old")
}

// endless yields bytes without end and cancels after some reads.
type endless struct {
	cancel context.CancelFunc
	left   int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left--; e.left == 0 {
		e.cancel()
	}
	return len(p), nil
}

func contextEndsMidway(t *testing.T, s blob.Store) {
	put(t, s, "old", "old")
	for _, key := range []string{"new", "old"} {
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := s.Put(ctx, key, &endless{cancel: cancel, left: 20}); !errors.Is(err, context.Canceled) {
			t.Errorf("put: %v, want it to wrap context.Canceled", err)
		}
		cancel()
	}
	wantAbsent(t, s, "new")
	wantBlob(t, s, "old", "old")
}

// cancelAtEOF cancels in the read that says io.EOF, when all the bytes are there.
type cancelAtEOF struct {
	r      io.Reader
	cancel context.CancelFunc
}

func (c cancelAtEOF) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err == io.EOF {
		c.cancel()
	}
	return n, err
}

// contextEndsWithLastRead: either outcome is right, but it has to be the one that Put says.
func contextEndsWithLastRead(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := s.Put(ctx, "k", cancelAtEOF{strings.NewReader("whole"), cancel})
	switch {
	case err == nil:
		wantBlob(t, s, "k", "whole")
	case errors.Is(err, context.Canceled):
		wantAbsent(t, s, "k")
	default:
		t.Errorf("put: %v", err)
	}
}

// writersOfOneKey: one whole blob wins, and readers never see anything else.
func writersOfOneKey(t *testing.T, s blob.Store) {
	const writers = 8
	want := map[string]bool{}
	for i := range writers {
		want[strings.Repeat(fmt.Sprint(i), 100_000+i)] = true
	}
	var wg sync.WaitGroup
	for data := range want {
		wg.Go(func() {
			if _, err := s.Put(t.Context(), "k", strings.NewReader(data)); err != nil {
				t.Errorf("put: %v", err)
			}
		})
		wg.Go(func() {
			if got, err := read(t.Context(), s, "k"); err == nil && !want[got] {
				t.Errorf("a reader saw %d bytes that nobody put", len(got))
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get: %v", err)
			}
		})
	}
	wg.Wait()
	if got, err := read(t.Context(), s, "k"); err != nil || !want[got] {
		t.Errorf("in the end there are %d bytes that nobody put, %v", len(got), err)
	}
	wantList(t, s, "", "k")
}

func writersOfManyKeys(t *testing.T, s blob.Store) {
	var keys []string
	for i := range 8 {
		for j := range 8 {
			keys = append(keys, fmt.Sprintf("w%d/x/%d", i, j))
		}
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 8 {
				// Neighbours in the list, so that several writers meet in each folder.
				key := keys[j*8+i]
				if _, err := s.Put(t.Context(), key, strings.NewReader(key)); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		wantBlob(t, s, key, key)
	}
	slices.Sort(keys)
	wantList(t, s, "", keys...)
}

// putAndDeleteInOneFolder: to delete the last blob of a folder does not hurt a writer
// whose blob is just going to be the first.
func putAndDeleteInOneFolder(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			key := fmt.Sprintf("one/folder/%d", i)
			for range 15 {
				if _, err := s.Put(t.Context(), key, strings.NewReader(key)); err != nil {
					t.Errorf("put: %v", err)
					return
				}
				wantBlob(t, s, key, key)
				if err := s.Delete(t.Context(), key); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
	wantList(t, s, "")
}
