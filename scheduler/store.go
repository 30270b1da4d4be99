package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

var (
	desired = state.NewTable("lrps", func(d lrp.Desired) string { return string(d.ID) })
	rows    = state.NewTable("instances", lrp.Row.Key, state.Index[lrp.Row]{Name: "cell", Keys: cellsOf})
	tasks   = state.NewTable("scheduler.tasks", func(t Task) string { return t.ID },
		state.Index[Task]{Name: "cell", Keys: func(t Task) []string { return one(t.Cell) }},
		state.Index[Task]{Name: "guid", Keys: func(t Task) []string { return one(t.GUID) }})
	drains = state.NewTable("scheduler.drains", func(d drain) string { return d.Cell })
)

// drain says that an operator drains a cell.
type drain struct {
	Cell  string    `json:"cell"`
	Since time.Time `json:"since"`
}

func one(key string) []string {
	if key == "" {
		return nil
	}
	return []string{key}
}

func cellsOf(r lrp.Row) []string {
	all, n := r.Occupants()
	var cells []string
	for _, o := range all[:n] {
		if !slices.Contains(cells, o.Cell) {
			cells = append(cells, o.Cell)
		}
	}
	return cells
}

// Tables returns the tables that a Scheduler's DB must be opened with.
func Tables() []state.AnyTable { return []state.AnyTable{desired, rows, tasks, drains} }

// Store is what users ask for, as rows. Its methods are safe for any number of goroutines.
// Those that change something return a Change, which must be given to the Core also if they
// fail: it may be made, and is settled by the Core's next Step.
type Store struct{ DB *state.DB }

// Change names what a Core has to look at. The zero Change is nothing.
type Change struct {
	lrps   []lrp.ID
	rows   []lrp.Row // as they were
	tasks  []Task    // as they were
	drains bool
}

// Apply is lrp.Scheduler's.
func (st Store) Apply(ctx context.Context, d lrp.Desired) (Change, error) {
	if err := lrp.Validate(d); err != nil {
		return Change{}, err
	}
	err := st.DB.Update(ctx, func(tx *state.Tx) error {
		old, ok := desired.Get(tx, string(d.ID))
		if ok && !sameWork(old.Work, d.Work) {
			return lrp.ErrImmutable
		}
		if ok && old.Instances == d.Instances && old.Annotation == d.Annotation {
			return nil
		}
		return desired.Put(tx, d)
	})
	if err != nil {
		err = fmt.Errorf("scheduler: apply %s: %w", d.ID, err)
	}
	return Change{lrps: []lrp.ID{d.ID}}, err
}

// sameWork compares works as they are stored.
func sameWork(a, b cell.Work) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Remove is lrp.Scheduler's. On return the process has no instances any more; their works are
// stopped after that.
func (st Store) Remove(ctx context.Context, id lrp.ID) (Change, error) {
	ch := Change{lrps: []lrp.ID{id}}
	err := st.DB.Update(ctx, func(tx *state.Tx) error {
		desired.Delete(tx, string(id))
		// Not left to the Core: an Apply that follows may bring another work.
		ch.rows = slices.Collect(rows.Prefix(tx, lrp.KeyPrefix(id)))
		for _, r := range ch.rows {
			rows.Delete(tx, r.Key())
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("scheduler: remove %s: %w", id, err)
	}
	return ch, err
}

// Restart is lrp.Restarter's. The new instance does not wait for the end of the old one.
func (st Store) Restart(ctx context.Context, id lrp.ID, index int, now time.Time) (Change, error) {
	ch := Change{lrps: []lrp.ID{id}}
	err := st.DB.Update(ctx, func(tx *state.Tx) error {
		r, ok := rows.Get(tx, lrp.RowKey(id, index))
		if !ok {
			return fmt.Errorf("there is no such instance: %w", fs.ErrNotExist)
		}
		ch.rows = append(ch.rows, r)
		return rows.Put(tx, r.Forget(now))
	})
	if err != nil {
		err = fmt.Errorf("scheduler: restart %s/%d: %w", id, index, err)
	}
	return ch, err
}

// Instances is lrp.Scheduler's.
func (st Store) Instances(id lrp.ID) []lrp.Instance {
	var all []lrp.Instance
	for r := range rows.Prefix(st.DB.View(), lrp.KeyPrefix(id)) {
		all = append(all, r.Shown())
	}
	return all
}

// Desired returns every process that is wanted, in order of ID.
func (st Store) Desired() iter.Seq[lrp.Desired] { return desired.All(st.DB.View()) }

// Rows returns every row, in order of process and index.
func (st Store) Rows() iter.Seq[lrp.Row] { return rows.All(st.DB.View()) }

// Drain says whether an operator wants a cell to be empty.
func (st Store) Drain(ctx context.Context, cellID string, on bool, now time.Time) (Change, error) {
	err := st.DB.Update(ctx, func(tx *state.Tx) error {
		_, is := drains.Get(tx, cellID)
		switch {
		case on && !is:
			return drains.Put(tx, drain{Cell: cellID, Since: now})
		case !on:
			drains.Delete(tx, cellID)
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("scheduler: drain cell %s: %w", cellID, err)
	}
	return Change{drains: true}, err
}
