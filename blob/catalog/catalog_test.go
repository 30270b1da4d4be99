package catalog_test

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
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
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/blobtest"
	"github.com/dewpoint-go/dewpoint/blob/catalog"
	"github.com/dewpoint-go/dewpoint/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a catalog with all that it stands on.
type world struct {
	*catalog.Catalog
	t       require.TestingT
	ctx     context.Context
	journal *state.Memory
	db      *state.DB
	bytes   *blob.Memory
	store   *blobtest.Faults
	now     time.Time
}

func newWorld(t require.TestingT, ctx context.Context) *world {
	w := &world{t: t, ctx: ctx, journal: state.NewMemory(), bytes: blob.NewMemory(), now: time.Now()}
	w.store = blobtest.NewFaults(w.bytes)
	w.open()
	return w
}

// open begins, or begins again after a crash, with what is durable.
func (w *world) open() {
	var err error
	w.db, err = state.Open(w.ctx, state.Config{Journal: w.journal}, catalog.Tables()...)
	require.NoError(w.t, err)
	w.Catalog, err = catalog.New(catalog.Config{DB: w.db, Store: w.store, Now: func() time.Time { return w.now }})
	require.NoError(w.t, err)
}

func (w *world) crash() {
	_ = w.db.Close()
	w.open()
}

func (w *world) lease() catalog.Lease {
	l, err := w.Lease(w.ctx, time.Hour)
	require.NoError(w.t, err)
	return l
}

func (w *world) put(l catalog.Lease, data string) catalog.Ref {
	ref, err := w.Put(w.ctx, "package", l, strings.NewReader(data))
	require.NoError(w.t, err)
	return ref
}

// putAs puts bytes that are found by an alias, if that is not "".
func (w *world) putAs(kind, alias string, l catalog.Lease, r io.Reader) (catalog.Ref, error) {
	sum := sha256.New()
	n := &counter{}
	return w.PutParts(w.ctx, kind, l, io.TeeReader(r, io.MultiWriter(sum, n)), func() []catalog.Part {
		if alias == "" {
			return nil
		}
		return []catalog.Part{{Alias: alias, Digest: hex.EncodeToString(sum.Sum(nil)), Size: n.n}}
	})
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func (w *world) use(owner, key string) error {
	return w.db.Update(w.ctx, func(tx *state.Tx) error { return w.Use(tx, owner, key) })
}

func (w *world) unuse(owner string) {
	require.NoError(w.t, w.db.Update(w.ctx, func(tx *state.Tx) error { w.Unuse(tx, owner); return nil }))
}

func (w *world) sweep() catalog.SweepResult {
	res, err := w.Sweep(w.ctx)
	require.NoError(w.t, err)
	return res
}

func (w *world) stored() (keys []string) {
	for info, err := range w.bytes.List(w.ctx, "") {
		require.NoError(w.t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

func (w *world) read(key string) (string, error) {
	r, err := w.Open(w.ctx, key)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

func sha(data string) string {
	sum := sha1.Sum([]byte(data))
	return hex.EncodeToString(sum[:])
}

func TestABlobStaysWhileItIsNeeded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	ref := w.put(l, "bytes")
	w.sweep()
	got, err := w.read(ref.Key)
	require.NoError(t, err)
	assert.Equal(t, "bytes", got)
	assert.EqualValues(t, 5, ref.Size)
	assert.Equal(t, "package", ref.Kind)

	require.NoError(t, w.use("package:1", ref.Key))
	require.NoError(t, w.use("package:1", ref.Key), "twice is once")
	require.NoError(t, w.Release(t.Context(), l))
	require.NoError(t, w.Release(t.Context(), l), "twice is once")
	w.sweep()
	_, err = w.read(ref.Key)
	require.NoError(t, err)

	w.unuse("package:1")
	res := w.sweep()
	assert.Equal(t, 1, res.Condemned)
	assert.Equal(t, 1, res.Deleted)
	assert.EqualValues(t, 5, res.Freed)
	_, err = w.read(ref.Key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, w.use("package:2", ref.Key), fs.ErrNotExist)
	assert.Empty(t, w.stored())
}

func TestTheSameBytesAreKeptOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	first, second := w.lease(), w.lease()
	a := w.put(first, "bytes")
	b := w.put(second, "bytes")
	assert.Equal(t, a, b)
	assert.Len(t, w.stored(), 1)
	other, err := w.Put(t.Context(), "droplet", first, strings.NewReader("bytes"))
	require.NoError(t, err)
	assert.NotEqual(t, a.Key, other.Key, "kinds are apart")

	require.NoError(t, w.Release(t.Context(), first))
	w.sweep()
	_, err = w.read(b.Key)
	require.NoError(t, err, "the second lease holds it, too")
	require.NoError(t, w.Release(t.Context(), second))
	w.sweep()
	assert.Empty(t, w.stored())
}

func TestPutsOfTheSameBytesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := w.Put(t.Context(), "package", l, strings.NewReader("bytes"))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	assert.Len(t, w.stored(), 1)
}

func TestFindPin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	ref, err := w.putAs("resource", sha("a"), l, strings.NewReader("a"))
	require.NoError(t, err)
	plain, err := w.Put(t.Context(), "resource", l, strings.NewReader("b"))
	require.NoError(t, err)

	match := w.lease()
	found, err := w.FindPin(t.Context(), "resource", []string{sha("a"), sha("b"), sha("c"), sha("a"), ""}, match)
	require.NoError(t, err)
	assert.Equal(t, []catalog.Ref{ref, {}, {}, ref, {}}, found)
	found, err = w.FindPin(t.Context(), "package", []string{sha("a")}, match)
	require.NoError(t, err)
	assert.Equal(t, []catalog.Ref{{}}, found, "kinds are apart")

	require.NoError(t, w.Release(t.Context(), l))
	w.sweep()
	_, err = w.read(ref.Key)
	require.NoError(t, err, "the match holds it")
	_, err = w.read(plain.Key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	w.crash()
	w.sweep()
	_, err = w.read(ref.Key)
	require.NoError(t, err, "the match holds it after a crash, too")

	require.NoError(t, w.Release(t.Context(), match))
	w.sweep()
	found, err = w.FindPin(t.Context(), "resource", []string{sha("a")}, w.lease())
	require.NoError(t, err)
	assert.Equal(t, []catalog.Ref{{}}, found)
	assert.Empty(t, w.stored())
}

func TestAnAliasCanComeLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	_, err := w.Put(t.Context(), "resource", l, strings.NewReader("a"))
	require.NoError(t, err)
	ref, err := w.putAs("resource", sha("a"), l, strings.NewReader("a"))
	require.NoError(t, err)
	found, err := w.FindPin(t.Context(), "resource", []string{sha("a")}, l)
	require.NoError(t, err)
	assert.Equal(t, []catalog.Ref{ref}, found)
}

func TestReserveAndCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	key, err := w.Reserve(t.Context(), "droplet", l)
	require.NoError(t, err)
	_, err = w.read(key)
	require.ErrorIs(t, err, fs.ErrNotExist, "it is not kept yet")
	require.Error(t, w.use("droplet:1", key))
	saved, err := w.store.Put(t.Context(), key, strings.NewReader("droplet"))
	require.NoError(t, err)
	w.sweep()
	for range 2 {
		ref, err := w.Commit(t.Context(), key, saved)
		require.NoError(t, err)
		assert.Equal(t, catalog.Ref{Kind: "droplet", Digest: saved.SHA256, Key: key, Size: 7}, ref)
	}
	require.NoError(t, w.Abandon(t.Context(), key), "kept blobs are left alone")
	_, err = w.read(key)
	require.NoError(t, err)

	again, err := w.Reserve(t.Context(), "droplet", l)
	require.NoError(t, err)
	saved, err = w.store.Put(t.Context(), again, strings.NewReader("droplet"))
	require.NoError(t, err)
	ref, err := w.Commit(t.Context(), again, saved)
	require.NoError(t, err)
	assert.Equal(t, key, ref.Key)
	assert.Equal(t, []string{key}, w.stored())
}

func TestCommitOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	key, err := w.Reserve(t.Context(), "droplet", w.lease())
	require.NoError(t, err)
	_, err = w.Commit(t.Context(), key, blob.Info{Size: 1})
	require.ErrorContains(t, err, "no SHA256")
	_, err = w.Commit(t.Context(), key, blob.Info{Size: 1, SHA256: strings.Repeat("0", 64)})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = w.Explain(key)
	require.ErrorIs(t, err, fs.ErrNotExist, "the reservation is gone")
}

func TestAbandon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	key, err := w.Reserve(t.Context(), "cache", w.lease())
	require.NoError(t, err)
	saved, err := w.store.Put(t.Context(), key, strings.NewReader("x"))
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, w.Abandon(t.Context(), key))
	}
	assert.Empty(t, w.stored())
	_, err = w.Commit(t.Context(), key, saved)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestALeaseExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	ref := w.put(l, "bytes")
	key, err := w.Reserve(t.Context(), "package", l)
	require.NoError(t, err)
	require.NoError(t, w.Extend(t.Context(), l, 2*time.Hour))
	require.NoError(t, w.Extend(t.Context(), l, time.Minute), "never shorter")
	w.now = w.now.Add(2*time.Hour - 1)
	w.sweep()
	_, err = w.read(ref.Key)
	require.NoError(t, err)

	w.now = w.now.Add(1)
	_, err = w.Put(t.Context(), "package", l, strings.NewReader("late"))
	require.ErrorIs(t, err, catalog.ErrLease)
	_, err = w.FindPin(t.Context(), "package", nil, l)
	require.ErrorIs(t, err, catalog.ErrLease)
	require.ErrorIs(t, w.Pin(t.Context(), l, ref.Key), catalog.ErrLease)
	require.ErrorIs(t, w.Extend(t.Context(), l, time.Hour), catalog.ErrLease)
	saved, err := w.store.Put(t.Context(), key, strings.NewReader("late"))
	require.NoError(t, err)
	_, err = w.Commit(t.Context(), key, saved)
	require.ErrorIs(t, err, catalog.ErrLease)
	res := w.sweep()
	assert.Equal(t, 1, res.Leases)
	assert.Empty(t, w.stored())
}

// sweepMidway sweeps when half of the bytes were read.
type sweepMidway struct {
	io.Reader
	act func()
}

func (s *sweepMidway) Read(p []byte) (int, error) {
	if s.act != nil {
		s.act()
		s.act = nil
	}
	return s.Reader.Read(p)
}

func TestALeaseEndsWhileBytesCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	_, err := w.Put(t.Context(), "package", l, &sweepMidway{strings.NewReader("bytes"), func() {
		require.NoError(t, w.Release(t.Context(), l))
		w.sweep()
	}})
	require.Error(t, err)
	assert.Empty(t, w.stored())
}

func TestPutThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, fault := range []blobtest.Fault{blobtest.NotDone, blobtest.Midway, blobtest.Done} {
		w := newWorld(t, t.Context())
		w.store.Once(blobtest.Put, fault)
		_, err := w.Put(t.Context(), "package", w.lease(), strings.NewReader("bytes"))
		require.ErrorIs(t, err, blobtest.ErrFault)
		assert.Empty(t, w.stored())
		assert.Zero(t, w.sweep(), "there is nothing left to do")
	}
	w := newWorld(t, t.Context())
	w.store.DiskFull(2)
	_, err := w.Put(t.Context(), "package", w.lease(), strings.NewReader("bytes"))
	require.ErrorIs(t, err, blobtest.ErrDiskFull)
	assert.Empty(t, w.stored())
}

func TestPutWhoseCallerLeavesLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.Put(ctx, "package", w.lease(), &sweepMidway{strings.NewReader("bytes"), cancel})
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, w.stored())
	assert.Zero(t, w.sweep())
}

func TestSweepGoesOnAfterFailure(t *testing.T) {
	t.Parallel()
	for _, fault := range []blobtest.Fault{blobtest.NotDone, blobtest.Done} {
		w := newWorld(t, t.Context())
		l := w.lease()
		for i := range 20 {
			w.put(l, fmt.Sprint(i))
		}
		require.NoError(t, w.Release(t.Context(), l))
		w.store.Once(blobtest.Delete, fault)
		res, err := w.Sweep(t.Context())
		require.ErrorIs(t, err, blobtest.ErrFault)
		assert.Equal(t, 20, res.Condemned)
		assert.Equal(t, 19, res.Deleted)
		w.crash()
		assert.Equal(t, 1, w.sweep().Deleted)
		assert.Empty(t, w.stored())
	}
}

func TestBytesWithoutARowGoByAge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	for _, key := range []string{"dewpoint/package/xy/left-behind", "somebody-elses"} {
		_, err := w.bytes.Put(t.Context(), key, strings.NewReader("x"))
		require.NoError(t, err)
	}
	assert.Zero(t, w.sweep())
	w.now = w.now.Add(2 * time.Hour)
	assert.Equal(t, 1, w.sweep().Orphans)
	assert.Equal(t, []string{"somebody-elses"}, w.stored())
}

func TestLostBytesCanBePutAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	old, err := w.putAs("resource", sha("a"), l, strings.NewReader("a"))
	require.NoError(t, err)
	require.NoError(t, w.bytes.Delete(t.Context(), old.Key))
	_, err = w.read(old.Key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	found, err := w.FindPin(t.Context(), "resource", []string{sha("a")}, l)
	require.NoError(t, err)
	assert.Equal(t, []catalog.Ref{{}}, found, "a match must not promise what is lost")

	for range 2 { // known to be lost, and not yet known
		ref, err := w.putAs("resource", sha("a"), l, strings.NewReader("a"))
		require.NoError(t, err)
		assert.NotEqual(t, old.Key, ref.Key)
		_, err = w.read(ref.Key)
		require.NoError(t, err)
		require.NoError(t, w.bytes.Delete(t.Context(), ref.Key))
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	_, err := w.Explain("nothing")
	require.ErrorIs(t, err, fs.ErrNotExist)
	l, m := w.lease(), w.lease()
	ref := w.put(l, "bytes")
	require.NoError(t, w.Pin(t.Context(), m, ref.Key))
	require.NoError(t, w.use("droplet:d1", ref.Key))
	why, err := w.Explain(ref.Key)
	require.NoError(t, err)
	require.Len(t, why, 3)
	assert.Equal(t, "droplet:d1 uses it", why[0])
	assert.Contains(t, why[1], "lease "+string(l)+", under which it was put, holds it until ")
	assert.Contains(t, why[2], "lease "+string(m)+", under which it was found, holds it until ")
	w.unuse("droplet:d1")
	require.NoError(t, w.Release(t.Context(), l))
	require.NoError(t, w.Release(t.Context(), m))
	why, err = w.Explain(ref.Key)
	require.NoError(t, err)
	assert.Empty(t, why)
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	_, err := catalog.New(catalog.Config{})
	require.ErrorContains(t, err, "Config.DB is nil")
	_, err = catalog.New(catalog.Config{DB: w.db})
	require.ErrorContains(t, err, "Config.Store is nil")
	_, err = w.Put(t.Context(), "no/kind", w.lease(), strings.NewReader(""))
	require.ErrorContains(t, err, `kind "no/kind"`)
	_, err = w.Put(t.Context(), "package", "", strings.NewReader(""))
	require.ErrorIs(t, err, catalog.ErrLease)
	_, err = w.Lease(t.Context(), 0)
	require.Error(t, err)
	require.Error(t, w.use("", "x"))
	require.ErrorIs(t, w.Pin(t.Context(), w.lease(), "x"), fs.ErrNotExist)
	require.Error(t, w.Run(t.Context(), 0, nil))
}

func TestUseFallsWithItsUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.Context())
	l := w.lease()
	ref := w.put(l, "bytes")
	no := errors.New("no")
	require.ErrorIs(t, w.db.Update(t.Context(), func(tx *state.Tx) error {
		require.NoError(t, w.Use(tx, "droplet:1", ref.Key))
		return no
	}), no)
	require.NoError(t, w.Release(t.Context(), l))
	w.sweep()
	assert.Empty(t, w.stored())
}

func TestRunSweepsAtItsTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		start := time.Now()
		err := w.Run(ctx, time.Minute, func(_ catalog.SweepResult, err error) {
			assert.NoError(t, err)
			if n++; n == 4 {
				cancel()
			}
		})
		require.NoError(t, err)
		assert.Equal(t, 3*time.Minute, time.Since(start))
		require.NoError(t, w.db.Close())
	})
}
