package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/state"
)

// orphanAge is how long bytes may be in the store without a row. There is no moment in
// which bytes that are needed have none; the time is for clocks that differ.
const orphanAge = time.Hour

// SweepResult says what a Sweep did.
type SweepResult struct {
	Leases    int // expired and gone
	Condemned int // blobs that nobody needed
	Deleted   int // blobs deleted, bytes and row, those of earlier sweeps included
	Freed     int64
	Orphans   int // bytes without a row that were deleted
}

// Sweep deletes what nobody needs: in one Update it ends expired leases and condemns
// blobs without reference or live lease; then it deletes the bytes of all that is
// condemned, and then the rows. At most once an hour it also searches the store for bytes
// without a row, and deletes those older than an hour. What fails is tried again by the
// next Sweep; the error joins all failures, and the result is valid beside it. Sweeps
// run one after the other.
func (c *Catalog) Sweep(ctx context.Context) (SweepResult, error) {
	var res SweepResult
	select {
	case c.sweeping <- struct{}{}:
		defer func() { <-c.sweeping }()
	case <-ctx.Done():
		return res, fmt.Errorf("catalog: sweep: %w", ctx.Err())
	}
	err := c.condemn(ctx, &res)
	if err == nil {
		err = errors.Join(c.deleteCondemned(ctx, &res), c.deleteOrphans(ctx, &res))
	}
	if err != nil {
		return res, fmt.Errorf("catalog: sweep: %w", err)
	}
	return res, nil
}

// condemn looks for candidates in a view, with nobody waiting, and asks again of each in
// the Update that decides.
func (c *Catalog) condemn(ctx context.Context, res *SweepResult) error {
	now := c.now()
	view := c.db.View()
	held := holders(view, now)
	var candidates []string
	for row := range blobs.All(view) {
		if row.State != Condemned && !held.need(view, row) {
			candidates = append(candidates, row.Key)
		}
	}
	var expired []Lease
	for l := range leases.All(view) {
		if !now.Before(l.Expires) {
			expired = append(expired, l.ID)
		}
	}
	if len(candidates)+len(expired) == 0 {
		return nil
	}
	gone := removal{x: &c.index}
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		for _, l := range expired {
			if row, ok := leases.Get(tx, string(l)); ok && !now.Before(row.Expires) {
				endLease(tx, l)
				res.Leases++
			}
		}
		held := holders(tx, now)
		for _, key := range candidates {
			row, ok := blobs.Get(tx, key)
			if !ok || row.State == Condemned || held.need(tx, row) {
				continue
			}
			if row.findable() {
				gone.note(tx, row)
			}
			row.State = Condemned
			if err := blobs.Put(tx, row); err != nil {
				return err
			}
			res.Condemned++
		}
		return nil
	})
	gone.end(err)
	return err
}

// held is what live leases hold.
type held struct {
	leases map[Lease]bool
	keys   map[string]bool // pinned
}

func holders(r state.Reader, now time.Time) held {
	h := held{leases: map[Lease]bool{}, keys: map[string]bool{}}
	for l := range leases.All(r) {
		if now.Before(l.Expires) {
			h.leases[l.ID] = true
		}
	}
	for p := range pins.All(r) {
		if !h.leases[p.Lease] {
			continue
		}
		for _, key := range p.Keys {
			h.keys[key] = true
		}
	}
	return h
}

func (h held) need(r state.Reader, b Blob) bool {
	if h.leases[b.Lease] || h.keys[b.Key] {
		return true
	}
	_, used := first(references.By(r, "key", b.Key))
	return used
}

// deletions is how many blobs are deleted at a time, for stores that are far away.
const deletions = 8

func (c *Catalog) deleteCondemned(ctx context.Context, res *SweepResult) error {
	var todo []Blob
	for row := range blobs.By(c.db.View(), "state", string(Condemned)) {
		todo = append(todo, row)
	}
	const batch = 1000 // rows in one Update
	var errs []error
	for len(todo) > 0 {
		n := min(len(todo), batch)
		if err := c.deleteBatch(ctx, todo[:n], res); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
		todo = todo[n:]
	}
	return errors.Join(errs...)
}

func (c *Catalog) deleteBatch(ctx context.Context, rows []Blob, res *SweepResult) error {
	var (
		mu   sync.Mutex
		gone []Blob
		errs []error
		g    errgroup.Group
	)
	g.SetLimit(deletions)
	for _, row := range rows {
		g.Go(func() error {
			err := c.store.Delete(ctx, row.Key)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				gone = append(gone, row)
			} else {
				errs = append(errs, fmt.Errorf("delete %s: %w", row.Key, err))
			}
			return nil
		})
	}
	_ = g.Wait() // each failure is noted above: one must not stop the others
	if len(gone) == 0 {
		return errors.Join(errs...)
	}
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		for _, row := range gone {
			blobs.Delete(tx, row.Key)
			listings.Delete(tx, row.Key)
		}
		return nil
	})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, row := range gone {
		res.Deleted++
		res.Freed += row.Size
	}
	return errors.Join(errs...)
}

// deleteOrphans asks for the row after the key was listed: a row is always older than its
// bytes, so bytes of a Put that has just begun are never taken for orphans.
func (c *Catalog) deleteOrphans(ctx context.Context, res *SweepResult) error {
	now := c.now()
	if !c.listed.IsZero() && now.Sub(c.listed) < orphanAge {
		return nil
	}
	unknown := map[string]time.Time{}
	var errs []error
	for info, err := range c.store.List(ctx, c.prefix) {
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if _, ok := blobs.Get(c.db.View(), info.Key); ok {
			continue
		}
		since := info.Modified
		if since.IsZero() { // the store does not know; then from when we saw it first
			since = now
			if t, ok := c.unknown[info.Key]; ok {
				since = t
			}
		}
		if now.Sub(since) < orphanAge {
			unknown[info.Key] = since
			continue
		}
		if err := c.store.Delete(ctx, info.Key); err != nil {
			errs = append(errs, fmt.Errorf("delete %s, which has no row: %w", info.Key, err))
			unknown[info.Key] = since
			continue
		}
		res.Orphans++
	}
	c.unknown, c.listed = unknown, now
	return errors.Join(errs...)
}

// Run sweeps at once and then each time that every has passed, until ctx ends; then it
// returns nil. report, if not nil, is told of each sweep.
func (c *Catalog) Run(ctx context.Context, every time.Duration, report func(SweepResult, error)) error {
	if every <= 0 {
		return fmt.Errorf("catalog: run: sweep every %s: give a time above zero", every)
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		res, err := c.Sweep(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if report != nil {
			report(res, err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}
