package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/google/uuid"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/state"
)

// ErrLease is wrapped by the error of a call whose lease has been released, has expired or
// was never given. Take a new one and begin again: what the old one held may be gone.
var ErrLease = errors.New("the lease has ended")

// Config says what a Catalog is made of.
type Config struct {
	// DB was opened with [Tables], among others. Required.
	DB *state.DB
	// Store keeps the bytes. Required.
	Store blob.Store
	// Prefix begins every key of this Catalog in the Store; "" means "dewpoint/". Below it
	// the Catalog deletes what it does not know.
	Prefix string
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// NewID gives ids that never come twice, of plain lower-case letters, digits and "-";
	// nil: random UUIDs.
	NewID func() string
}

// Catalog is the account of all blobs. All methods may be called by any number of
// goroutines. A DB has one Catalog at a time, for it remembers what it read there.
type Catalog struct {
	db     *state.DB
	store  blob.Store
	prefix string
	now    func() time.Time
	newID  func() string
	index  index

	sweeping chan struct{} // holds a token of the one Sweep; guards the two below
	listed   time.Time     // when the store was last searched for bytes without a row
	unknown  map[string]time.Time
}

// New makes a Catalog; it starts nothing and reads nothing.
func New(c Config) (*Catalog, error) {
	if c.DB == nil {
		return nil, errors.New("catalog: Config.DB is nil; give a state.DB that was opened with catalog.Tables()")
	}
	if c.Store == nil {
		return nil, errors.New("catalog: Config.Store is nil; give a blob.Store such as blob.NewMemory()")
	}
	cat := &Catalog{db: c.DB, store: c.Store, prefix: c.Prefix, now: c.Now, newID: c.NewID, sweeping: make(chan struct{}, 1)}
	if cat.prefix == "" {
		cat.prefix = "dewpoint/"
	}
	if cat.now == nil {
		cat.now = time.Now
	}
	if cat.newID == nil {
		cat.newID = uuid.NewString
	}
	return cat, nil
}

// Put stores what r yields, and lease holds it. If the same bytes are kept under that kind
// already, the new ones are dropped and the Ref is of the kept ones, which lease then holds
// too. On error nothing stays, now or after the next Sweep.
func (c *Catalog) Put(ctx context.Context, kind string, lease Lease, r io.Reader) (Ref, error) {
	return c.PutParts(ctx, kind, lease, r, func() []Part { return nil })
}

// Reserve gives a key under which somebody else, such as a cell, puts bytes into the Store
// while lease lives. Commit or Abandon is to follow; if neither does, the end of the lease
// is as good as Abandon.
func (c *Catalog) Reserve(ctx context.Context, kind string, lease Lease) (key string, err error) {
	if !validKind(kind) {
		return "", fmt.Errorf("catalog: kind %q: use 1 to 64 of a-z, 0-9, - and _", kind)
	}
	id := c.newID()
	key = c.prefix + kind + "/" + id[:min(2, len(id))] + "/" + id
	err = c.db.Update(ctx, func(tx *state.Tx) error {
		if err := c.alive(tx, lease); err != nil {
			return err
		}
		if _, ok := blobs.Get(tx, key); ok {
			return fmt.Errorf("key %q is in use; Config.NewID gave one id twice", key)
		}
		return blobs.Put(tx, Blob{Key: key, Kind: kind, State: Writing, Lease: lease, Created: c.now()})
	})
	if err != nil {
		return "", fmt.Errorf("catalog: reserve %s: %w", kind, err)
	}
	return key, nil
}

// Commit says that the bytes of a reserved key are all there. As with Put, the Ref may be of
// another blob with the same bytes; else it may be repeated. On error the reservation is
// abandoned.
func (c *Catalog) Commit(ctx context.Context, key string, saved blob.Info) (Ref, error) {
	if saved.SHA256 == "" {
		return Ref{}, fmt.Errorf("catalog: commit %s: the Info has no SHA256; pass what the Store's Put returned", key)
	}
	is, err := c.store.Stat(ctx, key)
	if err == nil && is.Size != saved.Size {
		err = fmt.Errorf("the store has %d bytes, %d are said to be saved", is.Size, saved.Size)
	}
	if err != nil {
		c.undo(ctx, key)
		return Ref{}, fmt.Errorf("catalog: commit %s: %w", key, err)
	}
	return c.commit(ctx, key, saved, 0, nil)
}

func (c *Catalog) commit(ctx context.Context, key string, saved blob.Info, parts int, list []byte) (ref Ref, err error) {
	lost, err := c.lostTwin(ctx, key, saved)
	if err == nil {
		gone := removal{x: &c.index}
		err = c.db.Update(ctx, func(tx *state.Tx) error {
			ref, err = c.keep(tx, key, saved, lost, &gone)
			if err == nil && parts > 0 {
				err = c.list(tx, ref.Key, parts, list)
			}
			return err
		})
		gone.end(err)
	}
	if err != nil {
		// The Update may be done all the same; then the row is kept, undo leaves it, and it
		// goes when the lease ends.
		c.undo(ctx, key)
		return Ref{}, fmt.Errorf("catalog: commit %s: %w", key, err)
	}
	if parts > 0 {
		c.index.add(c.db, ref.Key)
	}
	if ref.Key != key {
		c.remove(ctx, key)
	}
	return ref, nil
}

// lostTwin looks whether a blob with the same bytes is kept by name only; then its key is
// returned, and the new bytes replace it.
func (c *Catalog) lostTwin(ctx context.Context, key string, saved blob.Info) (string, error) {
	view := c.db.View()
	row, _ := blobs.Get(view, key)
	twin, ok := first(blobs.By(view, "digest", pair(row.Kind, saved.SHA256)))
	if !ok || twin.Key == key {
		return "", nil
	}
	_, err := c.store.Stat(ctx, twin.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return twin.Key, nil
	}
	return "", err
}

// keep is the step from writing to kept, or to condemned if the same bytes are kept.
func (c *Catalog) keep(tx *state.Tx, key string, saved blob.Info, lost string, gone *removal) (Ref, error) {
	row, ok := blobs.Get(tx, key)
	if !ok {
		return Ref{}, fmt.Errorf("it is not reserved (any more): %w", fs.ErrNotExist)
	}
	if err := c.alive(tx, row.Lease); err != nil {
		return Ref{}, err
	}
	switch row.State {
	case Condemned:
		return Ref{}, fmt.Errorf("it was given up: %w", fs.ErrNotExist)
	case Kept:
		if row.Digest != saved.SHA256 {
			return Ref{}, fmt.Errorf("it is kept with digest %s, not %s", row.Digest, saved.SHA256)
		}
		return row.ref(), nil
	}
	twin, ok := first(blobs.By(tx, "digest", pair(row.Kind, saved.SHA256)))
	if ok && twin.Key == lost {
		twin.Lost = true
		gone.note(tx, twin)
		if err := blobs.Put(tx, twin); err != nil {
			return Ref{}, err
		}
		ok = false
	}
	if ok {
		return c.useTwin(tx, row, twin)
	}
	row.State, row.Digest, row.Size = Kept, saved.SHA256, saved.Size
	return row.ref(), blobs.Put(tx, row)
}

func (c *Catalog) useTwin(tx *state.Tx, row, twin Blob) (Ref, error) {
	row.State = Condemned
	if err := blobs.Put(tx, row); err != nil {
		return Ref{}, err
	}
	if twin.Lease == row.Lease {
		return twin.ref(), nil
	}
	return twin.ref(), pins.Put(tx, pin{ID: c.newID(), Lease: row.Lease, Keys: []string{twin.Key}})
}

// Abandon gives a reserved key up and deletes what was put under it. A key that is kept, or
// unknown, is left alone: nil.
func (c *Catalog) Abandon(ctx context.Context, key string) error {
	condemned := false
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := blobs.Get(tx, key)
		if !ok || row.State == Kept {
			return nil
		}
		condemned = true
		row.State = Condemned
		return blobs.Put(tx, row)
	})
	if err == nil && condemned {
		err = c.delete(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("catalog: abandon %s: %w", key, err)
	}
	return nil
}

// list gives a blob that was just kept its parts. Those that its twin has are only replaced
// by more.
func (c *Catalog) list(tx *state.Tx, key string, parts int, list []byte) error {
	row, ok := blobs.Get(tx, key)
	if !ok || row.Parts >= parts {
		return nil
	}
	row.Parts = parts
	if err := blobs.Put(tx, row); err != nil {
		return err
	}
	return listings.Put(tx, contents{Key: key, List: list})
}

// undoTime is what cleaning up may take when the caller's own context has ended.
const undoTime = 10 * time.Second

// undo is Abandon for a caller who has an error already. What it does not manage, Sweep does.
func (c *Catalog) undo(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := c.Abandon(ctx, key); err != nil {
		return
	}
	// A sweep may have taken the row while bytes still came. Without a row they are nobody's.
	if _, ok := blobs.Get(c.db.View(), key); !ok {
		_ = c.store.Delete(ctx, key)
	}
}

func (c *Catalog) remove(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	_ = c.delete(ctx, key) // else Sweep does it
}

// delete deletes the bytes of a condemned blob, then the row.
func (c *Catalog) delete(ctx context.Context, key string) error {
	if err := c.store.Delete(ctx, key); err != nil {
		return err
	}
	return c.db.Update(ctx, func(tx *state.Tx) error {
		blobs.Delete(tx, key)
		listings.Delete(tx, key)
		return nil
	})
}

// Open opens a kept blob. One that is not kept (any more): fs.ErrNotExist.
func (c *Catalog) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	return c.open(ctx, key, func() (io.ReadCloser, error) { return c.store.Get(ctx, key) })
}

func (c *Catalog) open(ctx context.Context, key string, get func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	row, ok := blobs.Get(c.db.View(), key)
	if !ok || row.State != Kept {
		return nil, fmt.Errorf("catalog: open %s: no such blob is kept: %w", key, fs.ErrNotExist)
	}
	r, err := get()
	if errors.Is(err, fs.ErrNotExist) {
		if lost, failed := c.markLost(ctx, key); lost && failed == nil {
			return nil, fmt.Errorf("catalog: open %s: the store has lost its bytes: %w", key, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("catalog: open %s: %w", key, err)
	}
	return r, nil
}

// markLost keeps a blob without bytes from being found, and tells whether that is the case:
// it may as well have been deleted since its row was read.
func (c *Catalog) markLost(ctx context.Context, key string) (lost bool, err error) {
	gone := removal{x: &c.index}
	err = c.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := blobs.Get(tx, key)
		if lost = ok && row.State == Kept; !lost || row.Lost {
			return nil
		}
		row.Lost = true
		gone.note(tx, row)
		return blobs.Put(tx, row)
	})
	gone.end(err)
	return lost, err
}

// Discard says that a kept blob turned out to be damaged: neither it nor its parts are found
// any more, so that the same bytes can be put anew. Its bytes are deleted; those of a blob
// with parts stay for whoever needs the sound ones, until nobody does. A key that is not
// kept is left alone: nil.
func (c *Catalog) Discard(ctx context.Context, key string) error {
	lost, err := c.markLost(ctx, key)
	if row, _ := blobs.Get(c.db.View(), key); err == nil && lost && row.Parts == 0 {
		err = c.store.Delete(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("catalog: discard %s: %w", key, err)
	}
	return nil
}

// Row gives the newest durable row of a blob, in any state.
func (c *Catalog) Row(key string) (Blob, bool) { return blobs.Get(c.db.View(), key) }
