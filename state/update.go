package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-memdb"
)

// ErrUncertain is wrapped by the error of an Update whose change was handed to the journal
// but whose outcome its caller did not wait for: it may yet be made. The error wraps the
// context's error and the journal's last one, too.
var ErrUncertain = errors.New("state: the change may or may not be made")

// Tx is what an Update changes rows through. It is a Reader that sees its own writes. It
// must not be used by several goroutines, nor after fn returned.
type Tx struct {
	reader
	encode bool
	staged []staged
	index  map[rowID]int
}

type rowID struct{ table, key string }

type staged struct {
	change Change
	text   []byte
}

// stage notes a change; several of one row become one.
func (tx *Tx) stage(c Change, text []byte) {
	id := rowID{c.Table, c.Key}
	if i, ok := tx.index[id]; ok {
		c.Old = tx.staged[i].change.Old
		tx.staged[i] = staged{c, text}
		return
	}
	if tx.index == nil {
		tx.index = map[rowID]int{}
	}
	tx.index[id] = len(tx.staged)
	tx.staged = append(tx.staged, staged{c, text})
}

// batch is what one Commit makes durable, the work of one or more updates.
type batch struct {
	rev     uint64
	rows    []Row
	index   map[rowID]int
	changes []Change
	state   *memdb.MemDB // with the batch applied

	done  chan struct{} // closed when the outcome is certain
	err   error         // set before done is closed
	trial error         // the journal's last answer; guarded by DB.mu
}

// Update runs fn, exactly once and on the caller's goroutine, and makes its changes durable
// and then visible, all or none; both have happened when it returns nil. Updates run one
// after the other and see what the earlier ones did; those that wait for the journal at the
// same time share one Commit. If fn returns an error or panics, its own changes are dropped,
// nobody else's, and its error is returned as it is. What fn read from tx is durable, too,
// when Update returns.
//
// If ctx ends before fn ran, nothing is done. If it ends later, the error wraps
// ErrUncertain; those who still wait, or else the next Update (even one that writes nothing)
// or Close, settle the batch before any later one. A journal that fails is
// asked again, with pauses of 10 ms to 1 s, until ctx ends. After ErrFenced every Update
// returns that error, for ever; reading goes on.
//
// fn should be quick, for other updates wait; it must not call Update or Close, nor wait for
// somebody who does.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("state: update: %w", err)
	}
	select {
	case db.pen <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("state: update: %w", ctx.Err())
	}
	b, fnErr := db.run(fn)
	if b == nil {
		return fnErr
	}
	err := db.settle(ctx, b)
	if fnErr != nil {
		// What fn decided upon is as certain as it gets; its own changes are nothing.
		return fnErr
	}
	return err
}

// run calls fn and joins its changes to the open batch. It returns the batch to wait for,
// nil if none, and gives the pen back.
func (db *DB) run(fn func(tx *Tx) error) (*batch, error) {
	defer func() { <-db.pen }()
	if err := db.ended(); err != nil {
		return nil, err
	}
	txn := db.head.Txn(true)
	tx := &Tx{reader: reader{tables: db.tables, txn: txn}, encode: db.journal != nil}
	defer func() {
		tx.done = true
		txn.Abort() // where fn failed or panicked; after Commit it does nothing
	}()
	if err := fn(tx); err != nil {
		return db.last(), err
	}
	if len(tx.staged) == 0 {
		return db.last(), nil
	}
	txn.Commit()
	return db.join(tx.staged), nil
}

// last returns the batch that holds the newest changes that fn could see but nobody else.
func (db *DB) last() *batch {
	db.mu.Lock()
	defer db.mu.Unlock()
	switch {
	case db.err != nil: // it ended while fn ran, which may have seen what was never made
		b := &batch{done: make(chan struct{}), err: db.err}
		close(b.done)
		return b
	case db.open != nil:
		return db.open
	}
	return db.flight
}

// join adds changes to the open batch, or opens one. The caller holds the pen.
func (db *DB) join(all []staged) *batch {
	now := db.now()
	db.mu.Lock()
	defer db.mu.Unlock()
	b := db.open
	if b == nil {
		db.rev++
		b = &batch{rev: db.rev, index: map[rowID]int{}, done: make(chan struct{}), err: db.err}
		if b.err != nil { // fenced while fn ran
			close(b.done)
			return b
		}
		db.open = b
	}
	for _, s := range all {
		if s.change.Old != nil || s.change.New != nil {
			s.change.Rev, s.change.Time = b.rev, now
			b.changes = append(b.changes, s.change)
		}
		id := rowID{s.change.Table, s.change.Key}
		r := Row{Table: id.table, Key: id.key, Rev: b.rev, Value: s.text}
		if i, ok := b.index[id]; ok {
			b.rows[i] = r
			continue
		}
		b.index[id] = len(b.rows)
		b.rows = append(b.rows, r)
	}
	b.state = db.head.Snapshot()
	return b
}

// settle waits until the outcome of a batch is certain. Whoever waits and finds nobody at
// the journal goes there, for its own batch and for any before it.
func (db *DB) settle(ctx context.Context, b *batch) error {
	pause := 10 * time.Millisecond
	for {
		select {
		case <-b.done:
			return b.err
		default:
		}
		if ctx.Err() != nil {
			return db.uncertain(ctx, b)
		}
		select {
		case <-b.done:
			return b.err
		case <-ctx.Done():
			return db.uncertain(ctx, b)
		case db.press <- struct{}{}:
		}
		var err error
		if isOpen(b.done) && db.take() != nil {
			err = db.try(ctx)
		}
		if err == nil {
			<-db.press
			pause = 10 * time.Millisecond
			continue
		}
		// The press is kept while pausing: others would only ask the same.
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-db.closing:
		}
		t.Stop()
		<-db.press
		pause = min(2*pause, time.Second)
		select {
		case <-db.closing:
			<-b.done // Close tries once more and then ends all
			return b.err
		default:
		}
	}
}

func isOpen(c chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

func (db *DB) uncertain(ctx context.Context, b *batch) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if b.trial != nil {
		return fmt.Errorf("%w (revision %d): %w; the journal said: %w", ErrUncertain, b.rev, ctx.Err(), b.trial)
	}
	return fmt.Errorf("%w (revision %d): %w", ErrUncertain, b.rev, ctx.Err())
}

// take returns the batch to commit next: the one without a certain answer, or else the open
// one, which nobody can join any more. The caller holds the press.
func (db *DB) take() *batch {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.flight == nil {
		db.flight, db.open = db.open, nil
	}
	return db.flight
}

// try asks the journal once to commit the batch in flight. nil: its outcome is certain. The
// caller holds the press.
func (db *DB) try(ctx context.Context) error {
	b := db.flight // only the holder of the press changes it
	var err error
	if db.journal != nil {
		err = db.journal.Commit(ctx, Batch{Rev: b.rev, Rows: b.rows})
	}
	if errors.Is(err, ErrFenced) {
		db.end(err)
		return nil
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if err != nil {
		b.trial = err
		return err
	}
	db.publish(b.state, b.rev)
	db.changes.add(b.changes)
	db.wake(b.changes)
	db.flight = nil
	close(b.done)
	return nil
}

// end makes the database read-only: what is staged fails with err. The caller holds the press.
func (db *DB) end(err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.err == nil {
		db.err = err
	}
	for _, b := range []*batch{db.flight, db.open} {
		if b == nil {
			continue
		}
		if b.err = err; b == db.flight && b.trial != nil {
			b.err = fmt.Errorf("%w: %w; the journal said: %w", ErrUncertain, err, b.trial)
		}
		close(b.done)
	}
	db.flight, db.open = nil, nil
}

func (db *DB) ended() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.err
}
