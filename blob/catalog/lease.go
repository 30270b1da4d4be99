package catalog

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/state"
)

// Lease is the id of a promise: what it holds stays until it is released or expires. It may
// be given away as the string it is.
type Lease string

// Lease makes a lease that lives for d, which must be above zero.
func (c *Catalog) Lease(ctx context.Context, d time.Duration) (Lease, error) {
	if d <= 0 {
		return "", fmt.Errorf("catalog: lease for %s: a lease needs some time to live", d)
	}
	l := Lease(c.newID())
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		return leases.Put(tx, leaseRow{ID: l, Expires: c.now().Add(d)})
	})
	if err != nil {
		return "", fmt.Errorf("catalog: lease: %w", err)
	}
	return l, nil
}

// Extend makes a lease live for d from now on, if that is longer. [ErrLease] if it has ended.
func (c *Catalog) Extend(ctx context.Context, l Lease, d time.Duration) error {
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		if err := c.alive(tx, l); err != nil {
			return err
		}
		row, _ := leases.Get(tx, string(l))
		if until := c.now().Add(d); until.After(row.Expires) {
			row.Expires = until
			return leases.Put(tx, row)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("catalog: extend: %w", err)
	}
	return nil
}

// Release ends a lease; one that has ended: nil. Bytes go with the next Sweep.
func (c *Catalog) Release(ctx context.Context, l Lease) error {
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		endLease(tx, l)
		return nil
	})
	if err != nil {
		return fmt.Errorf("catalog: release: %w", err)
	}
	return nil
}

func endLease(tx *state.Tx, l Lease) {
	leases.Delete(tx, string(l))
	for p := range pins.By(tx, "lease", string(l)) {
		pins.Delete(tx, p.ID)
	}
}

func (c *Catalog) alive(r state.Reader, l Lease) error {
	row, ok := leases.Get(r, string(l))
	if !ok || !c.now().Before(row.Expires) {
		return fmt.Errorf("lease %q: %w", string(l), ErrLease)
	}
	return nil
}

// FindPin finds the parts of kept blobs of a kind that have one of the aliases, and makes
// lease hold their blobs, all in one Update. The answer has a Ref for each alias; that of one
// which is not there is zero. 100,000 aliases are fine.
func (c *Catalog) FindPin(ctx context.Context, kind string, aliases []string, lease Lease) ([]Ref, error) {
	// All is looked up before the Update, in which everybody else waits.
	refs, n, gen, sure := c.index.look(c.db, kind, aliases)
	var settled uint64
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		if err := c.alive(tx, lease); err != nil {
			return err
		}
		if !sure || !c.index.still(gen) {
			n = forget(tx, refs)
			settled = c.index.count()
		}
		if n == 0 {
			return nil
		}
		p := pin{ID: c.newID(), Lease: lease, Keys: keysOf(refs)}
		return pins.Put(tx, p)
	})
	if err != nil {
		return nil, fmt.Errorf("catalog: find %d of %s: %w", len(aliases), kind, err)
	}
	if settled > 0 {
		c.index.make(c.db, settled)
	}
	return refs, nil
}

// keysOf returns the blobs of refs, each once.
func keysOf(refs []Ref) (keys []string) {
	seen, last := map[string]bool{}, ""
	for i := range refs {
		if k := refs[i].Key; k != last && k != "" && !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
		last = refs[i].Key
	}
	return keys
}

// forget drops what is not to be found any more, and counts the rest.
func forget(tx *state.Tx, refs []Ref) (n int) {
	there := map[string]bool{"": false}
	for i := range refs {
		k := refs[i].Key
		ok, asked := there[k]
		if !asked {
			row, found := blobs.Get(tx, k)
			ok = found && row.findable()
			there[k] = ok
		}
		if ok {
			n++
		} else {
			refs[i] = Ref{}
		}
	}
	return n
}

// Pin makes lease hold kept blobs by their keys; if one of them is not kept, none is held
// and the error is fs.ErrNotExist.
func (c *Catalog) Pin(ctx context.Context, lease Lease, keys ...string) error {
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		if err := c.alive(tx, lease); err != nil {
			return err
		}
		for _, key := range keys {
			if row, ok := blobs.Get(tx, key); !ok || row.State != Kept {
				return fmt.Errorf("%s: no such blob is kept: %w", key, fs.ErrNotExist)
			}
		}
		if len(keys) == 0 {
			return nil
		}
		return pins.Put(tx, pin{ID: c.newID(), Lease: lease, Keys: append([]string(nil), keys...)})
	})
	if err != nil {
		return fmt.Errorf("catalog: pin: %w", err)
	}
	return nil
}

// Use makes owner refer to a blob, in the caller's own Update, so that the reference stands
// and falls with her row. It fails with fs.ErrNotExist unless the blob is kept. owner is
// free text without line breaks, such as "droplet:GUID"; to use a blob twice is to use it once.
func (c *Catalog) Use(tx *state.Tx, owner, key string) error {
	if owner == "" || strings.Contains(owner, "\n") {
		return fmt.Errorf("catalog: use %s: owner %q must be one line of text", key, owner)
	}
	if row, ok := blobs.Get(tx, key); !ok || row.State != Kept {
		return fmt.Errorf("catalog: use %s for %s: no such blob is kept: %w", key, owner, fs.ErrNotExist)
	}
	ref := reference{Owner: owner, Key: key}
	if _, ok := references.Get(tx, ref.id()); ok {
		return nil
	}
	return references.Put(tx, ref)
}

// Unuse drops all references of owner.
func (c *Catalog) Unuse(tx *state.Tx, owner string) {
	for ref := range references.By(tx, "owner", owner) {
		references.Delete(tx, ref.id())
	}
}

// Explain says why a blob is there, a sentence for each reason. None: the next Sweep takes
// it. fs.ErrNotExist if there is no such row.
func (c *Catalog) Explain(key string) ([]string, error) {
	view := c.db.View()
	row, ok := blobs.Get(view, key)
	if !ok {
		return nil, fmt.Errorf("catalog: explain %s: no such blob: %w", key, fs.ErrNotExist)
	}
	var why []string
	if row.State == Condemned {
		return []string{"it is condemned and its bytes are being deleted"}, nil
	}
	if row.Lost {
		why = append(why, "its bytes are missing from the store")
	}
	for ref := range references.By(view, "key", key) {
		why = append(why, ref.Owner+" uses it")
	}
	hold := func(l Lease, what string) {
		if lr, ok := leases.Get(view, string(l)); ok && c.now().Before(lr.Expires) {
			why = append(why, fmt.Sprintf("lease %s, under which it was %s, holds it until %s", l, what, lr.Expires.UTC().Format(time.RFC3339)))
		}
	}
	hold(row.Lease, map[State]string{Kept: "put", Writing: "reserved"}[row.State])
	for p := range pins.All(view) {
		for _, k := range p.Keys {
			if k == key {
				hold(p.Lease, "found")
				break
			}
		}
	}
	return why, nil
}
