package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob/blobtest"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/state"
)

// TestASweepCannotRaceAPush lets pushes that find, refer and let go run against sweeps
// without pause: what a push found is there until it is done.
func TestASweepCannotRaceAPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	const pushes, rounds, files = 4, 60, 5
	stop := make(chan struct{})
	var sweeps, work sync.WaitGroup
	for range 2 {
		sweeps.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := w.Sweep(t.Context()); err != nil {
					assert.NoError(t, err)
					return
				}
			}
		})
	}
	push := func(owner string) error {
		l, err := w.Lease(t.Context(), time.Hour)
		if err != nil {
			return err
		}
		var aliases []string
		for i := range files {
			aliases = append(aliases, sha(fmt.Sprint(i)))
		}
		refs, err := w.FindPin(t.Context(), "resource", aliases, l)
		if err != nil {
			return err
		}
		for i := range refs {
			if refs[i].Key != "" {
				continue
			}
			if refs[i], err = w.putAs("resource", aliases[i], l, strings.NewReader(fmt.Sprint(i))); err != nil {
				return err
			}
		}
		err = w.db.Update(t.Context(), func(tx *state.Tx) error {
			for _, ref := range refs {
				if err := w.Use(tx, owner, ref.Key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := w.Release(t.Context(), l); err != nil {
			return err
		}
		for i, ref := range refs {
			if got, err := w.read(ref.Key); err != nil || got != fmt.Sprint(i) {
				return fmt.Errorf("file %d: %q, %w", i, got, err)
			}
		}
		return w.db.Update(t.Context(), func(tx *state.Tx) error { w.Unuse(tx, owner); return nil })
	}
	for p := range pushes {
		work.Go(func() {
			for range rounds {
				if err := push(fmt.Sprint("package:", p)); err != nil {
					assert.NoError(t, err)
					return
				}
			}
		})
	}
	work.Wait()
	close(stop)
	sweeps.Wait()
	w.sweep()
	assert.Empty(t, w.stored())
}

// A sweep whose outcome nobody was told may have taken what the catalog remembers.
func TestASweepOfUnknownOutcomeIsNotForgotten(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{true, false} {
		w := newWorld(t, t.Context())
		l := w.lease()
		_, err := w.putAs("resource", sha("a"), l, strings.NewReader("a"))
		require.NoError(t, err)
		find := func() []catalog.Ref {
			refs, err := w.FindPin(t.Context(), "resource", []string{sha("a")}, w.lease())
			require.NoError(t, err)
			return refs
		}
		require.NotEmpty(t, find()[0].Key)
		commits := w.journal.Commits()
		w.now = w.now.Add(2 * time.Hour) // the leases of find end, too
		ctx, cancel := context.WithCancel(t.Context())
		wait := make(chan struct{})
		w.journal.Inject(state.Fault{Wait: wait, Err: errors.New("the answer is lost"), Done: done})
		swept := make(chan error)
		go func() { _, err := w.Sweep(ctx); swept <- err }()
		require.Eventually(t, func() bool { return w.journal.Commits() > commits }, 10*time.Second, time.Millisecond)
		cancel()
		close(wait)
		err = <-swept
		require.ErrorIs(t, err, state.ErrUncertain)
		// Either way the batch is settled by the next Update, and then nothing is there.
		for range 2 {
			require.Equal(t, []catalog.Ref{{}}, find())
		}
		ref, err := w.putAs("resource", sha("a"), w.lease(), strings.NewReader("a"))
		require.NoError(t, err)
		require.Equal(t, []catalog.Ref{ref}, find())
	}
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	ref, err := w.putAs("resource", sha("a"), l, strings.NewReader("a"))
	require.NoError(t, err)
	whole := w.put(l, "whole")
	for _, key := range []string{ref.Key, whole.Key} {
		require.NoError(t, w.use("package:1", key))
	}
	w.store.Once(blobtest.Delete, blobtest.NotDone)
	require.ErrorIs(t, w.Discard(t.Context(), whole.Key), blobtest.ErrFault)
	for range 2 {
		require.NoError(t, w.Discard(t.Context(), whole.Key))
		require.NoError(t, w.Discard(t.Context(), ref.Key))
	}
	_, err = w.read(whole.Key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	got, err := w.read(ref.Key)
	require.NoError(t, err, "other parts may be sound, and somebody needs them")
	assert.Equal(t, "a", got)
	found, err := w.FindPin(t.Context(), "resource", []string{sha("a")}, l)
	require.NoError(t, err)
	assert.Equal(t, []catalog.Ref{{}}, found)
	again, err := w.putAs("resource", sha("a"), l, strings.NewReader("a"))
	require.NoError(t, err)
	assert.NotEqual(t, ref.Key, again.Key)
	assert.NotEqual(t, whole.Key, w.put(l, "whole").Key)
	w.crash()
	found, err = w.FindPin(t.Context(), "resource", []string{sha("a")}, l)
	require.NoError(t, err)
	assert.Equal(t, []catalog.Ref{again}, found)
	require.NoError(t, w.Discard(t.Context(), "unknown"))
	w.unuse("package:1")
	require.NoError(t, w.Release(t.Context(), l))
	w.sweep()
	assert.Empty(t, w.stored())
}

// Parts of one blob are found one by one and hold it as a whole.
func TestPartsOfABlob(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	digest := strings.Repeat("0123456789abcdef", 4)
	part := func(alias string, offset, size int64) catalog.Part {
		return catalog.Part{Alias: sha(alias), Digest: digest, Offset: offset, Size: size}
	}
	ref, err := w.PutParts(t.Context(), "files", l, strings.NewReader("onetwothree"), func() []catalog.Part {
		return []catalog.Part{part("one", 0, 3), part("three", 6, 5)}
	})
	require.NoError(t, err)
	want := []catalog.Ref{
		{Kind: "files", Key: ref.Key, Digest: digest, Offset: 6, Size: 5}, {},
		{Kind: "files", Key: ref.Key, Digest: digest, Size: 3},
	}
	ask := []string{strings.ToUpper(sha("three")), sha("two"), sha("one")}
	for range 2 {
		match := w.lease()
		found, err := w.FindPin(t.Context(), "files", ask, match)
		require.NoError(t, err)
		assert.Equal(t, want, found)
		require.NoError(t, w.Release(t.Context(), l))
		w.sweep()
		r, err := w.OpenRange(t.Context(), ref.Key, 6, 5)
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Equal(t, "three", string(b))
		l = match
		w.crash() // and it is all the same
	}
	// The same bytes with more parts: those of both can be found.
	again, err := w.PutParts(t.Context(), "files", l, strings.NewReader("onetwothree"), func() []catalog.Part {
		return []catalog.Part{part("one", 0, 3), part("two", 3, 3), part("three", 6, 5)}
	})
	require.NoError(t, err)
	assert.Equal(t, ref.Key, again.Key)
	found, err := w.FindPin(t.Context(), "files", ask, l)
	require.NoError(t, err)
	assert.EqualValues(t, 3, found[1].Offset)

	for _, bad := range []catalog.Part{{}, {Alias: sha("x"), Digest: "x"}, {Alias: strings.Repeat("x", 40), Digest: digest}, part("x", -1, 0)} {
		_, err = w.PutParts(t.Context(), "files", l, strings.NewReader("else"), func() []catalog.Part { return []catalog.Part{bad} })
		require.ErrorContains(t, err, "part 0: ")
	}
	require.NoError(t, w.Release(t.Context(), l))
	w.sweep()
	assert.Empty(t, w.stored())
	found, err = w.FindPin(t.Context(), "files", ask, w.lease())
	require.NoError(t, err)
	assert.Equal(t, make([]catalog.Ref, 3), found)
}

// A blob is condemned after a match looked it up and before the match pins it.
func TestASweepBetweenLookUpAndPin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.Context())
		l := w.lease()
		for _, data := range []string{"a", "b"} {
			ref, err := w.putAs("resource", sha(data), l, strings.NewReader(data))
			require.NoError(t, err)
			if data == "b" {
				require.NoError(t, w.use("package:1", ref.Key))
			}
		}
		match := w.lease()
		require.NoError(t, w.Release(t.Context(), l))
		_, err := w.FindPin(t.Context(), "resource", nil, match)
		require.NoError(t, err)
		aliases := []string{sha("a"), sha("b")}
		let := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			assert.NoError(t, w.db.Update(t.Context(), func(*state.Tx) error { <-let; return nil }))
		})
		synctest.Wait()
		all.Go(func() { w.sweep() })
		synctest.Wait() // it has chosen what to condemn and waits for its turn
		var refs []catalog.Ref
		all.Go(func() {
			var err error
			refs, err = w.FindPin(t.Context(), "resource", aliases, match)
			assert.NoError(t, err)
		})
		synctest.Wait() // it has found both and waits behind the sweep
		close(let)
		all.Wait()
		assert.Empty(t, refs[0].Key, "it was condemned")
		assert.NotEmpty(t, refs[1].Key)
		require.NoError(t, w.db.Close())
	})
}
