package state

import (
	"errors"
	"slices"
	"sort"
	"strings"
	"time"
)

// ErrCompacted says that changes were asked for that are no longer kept, or that this
// database never made: read the tables anew (View) and go on from its Rev.
var ErrCompacted = errors.New("state: these changes are no longer kept; read the tables and go on from there")

// keptChanges is how many changes are kept at least, less than one revision's fewer; twice as
// many at most.
const keptChanges = 100_000

// Change is what one Update did to one row.
type Change struct {
	Rev   uint64    // of the batch; updates that shared a batch share it
	Time  time.Time // when the update ran
	Table string
	Key   string
	// Old and New are rows of the table's type; nil: there was, or is, none.
	Old, New any
}

// ring keeps the newest changes. Slots are never written twice, so a slice of it can be read
// without the lock.
type ring struct {
	list  []Change
	base  uint64            // nothing is known of changes up to this revision
	floor uint64            // changes up to this revision are gone, of some table at least
	gone  map[string]uint64 // by table, the newest revision of which changes are gone
}

// reach returns the oldest revision after which all changes of the tables (none: of all) are kept.
func (r *ring) reach(tables []AnyTable) uint64 {
	if len(tables) == 0 {
		return r.floor
	}
	floor := r.base
	for _, t := range tables {
		floor = max(floor, r.gone[t.tableName()])
	}
	return floor
}

func (r *ring) add(cs []Change) {
	r.list = append(r.list, cs...)
	if len(r.list) < 2*keptChanges {
		return
	}
	cut := len(r.list) - keptChanges
	r.floor = r.list[cut-1].Rev
	// A revision is kept whole or not at all.
	for cut < len(r.list) && r.list[cut].Rev == r.floor {
		cut++
	}
	if r.gone == nil {
		r.gone = map[string]uint64{}
	}
	for _, c := range r.list[:cut] {
		r.gone[c.Table] = c.Rev
	}
	r.list = slices.Clone(r.list[cut:])
}

// Changes returns the changes after a revision, oldest first: those of the tables given, or
// of all if none is. The last 100,000 are kept, in whole revisions, none from before Open.
// ErrCompacted: some change of these tables after that revision is no longer kept, or it is
// newer than all that happened.
func (db *DB) Changes(after uint64, tables ...AnyTable) ([]Change, error) {
	db.mu.Lock()
	list, floor, rev := db.changes.list, db.changes.reach(tables), db.View().rev
	db.mu.Unlock()
	if after < floor || after > rev {
		return nil, ErrCompacted
	}
	list = list[sort.Search(len(list), func(i int) bool { return list[i].Rev > after }):]
	if len(tables) == 0 {
		return slices.Clone(list), nil
	}
	var found []Change
	for _, c := range list {
		if slices.ContainsFunc(tables, func(t AnyTable) bool { return t.tableName() == c.Table }) {
			found = append(found, c)
		}
	}
	return found, nil
}

// watch is a channel that all who wait for the same tables share.
type watch struct {
	tables []string // none: all
	ch     chan struct{}
}

// Changed returns a channel that closes when any of the tables (none given: any at all) has
// changed after this call. Take it before View, so that no change falls between:
//
//	for {
//		changed := db.Changed(table)
//		… db.View() …
//		<-changed
//	}
//
// It may be forgotten at any time. It does not close when the DB does.
func (db *DB) Changed(tables ...AnyTable) <-chan struct{} {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.tableName()
	}
	slices.Sort(names)
	id := strings.Join(names, "\x00")
	db.mu.Lock()
	defer db.mu.Unlock()
	w := db.watches[id]
	if w == nil {
		w = &watch{tables: names, ch: make(chan struct{})}
		db.watches[id] = w
	}
	return w.ch
}

// wake closes the channels of those who wait for a table with changes. The caller holds mu.
func (db *DB) wake(cs []Change) {
	for id, w := range db.watches {
		touched := func(c Change) bool {
			return len(w.tables) == 0 || slices.Contains(w.tables, c.Table)
		}
		if slices.ContainsFunc(cs, touched) {
			close(w.ch)
			delete(db.watches, id)
		}
	}
}
