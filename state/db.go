package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-memdb"
)

// ErrClosed is returned by a DB that has been closed.
var ErrClosed = errors.New("state: the database is closed")

// Config is what a DB is opened with. The zero Config is a database in memory only.
type Config struct {
	// Journal makes the rows durable. Nil: nothing does, and all is gone with the process.
	// The DB owns it from Open on and closes it.
	Journal Journal
	// Now is the clock that stamps Changes; nil: time.Now.
	Now func() time.Time
}

// DB holds tables of rows. All methods may be called by any number of goroutines. It has
// no goroutine of its own: the callers of Update do its work.
type DB struct {
	journal Journal // nil: none
	now     func() time.Time
	tables  map[string]AnyTable

	visible atomic.Pointer[Snapshot] // the newest durable state

	// pen is held (a token in it) by the one Update whose fn runs. It guards head.
	pen  chan struct{}
	head *memdb.MemDB // what is visible, and all that is staged on top of it

	// press is held by the one caller that talks to the journal.
	press chan struct{}

	closing chan struct{}
	once    sync.Once

	mu      sync.Mutex
	err     error // ErrFenced or ErrClosed, once it is so
	rev     uint64
	open    *batch // staged, and joined by further updates; nil: none
	flight  *batch // at the journal, perhaps without a certain answer; nil: none
	changes ring
	watches map[string]*watch
}

// Open loads the rows of the tables from the journal. Rows of tables that are not named stay
// in the journal, untouched. Two tables of one name, or rows that break a unique index, are
// an error. On error the Journal is closed, too.
func Open(ctx context.Context, c Config, tables ...AnyTable) (*DB, error) {
	db := &DB{
		journal: c.Journal, now: c.Now, tables: map[string]AnyTable{},
		pen: make(chan struct{}, 1), press: make(chan struct{}, 1), closing: make(chan struct{}),
		watches: map[string]*watch{},
	}
	if db.now == nil {
		db.now = time.Now
	}
	if err := db.load(ctx, tables); err != nil {
		if db.journal != nil {
			err = errors.Join(err, db.journal.Close())
		}
		return nil, err
	}
	return db, nil
}

func (db *DB) load(ctx context.Context, tables []AnyTable) error {
	schema := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	for _, t := range tables {
		name := t.tableName()
		if _, ok := schema.Tables[name]; ok {
			return fmt.Errorf("state: open: two tables are named %q; each needs a name of its own", name)
		}
		s, err := t.schema()
		if err != nil {
			return err
		}
		schema.Tables[name] = s
		db.tables[name] = t
	}
	if len(schema.Tables) == 0 {
		return errors.New("state: open: no tables are given; name at least one")
	}
	first, err := memdb.NewMemDB(schema)
	if err != nil {
		return fmt.Errorf("state: open: %w", err)
	}
	// A snapshot spares the watches on each node, which are not used here.
	db.head = first.Snapshot()
	if db.journal != nil {
		if db.rev, err = loadRows(ctx, db.journal, db.tables, db.head); err != nil {
			return fmt.Errorf("state: open: %w", err)
		}
	}
	db.changes.base, db.changes.floor = db.rev, db.rev
	db.publish(db.head.Snapshot(), db.rev)
	return nil
}

func (db *DB) publish(m *memdb.MemDB, rev uint64) {
	db.visible.Store(&Snapshot{reader: reader{tables: db.tables, txn: m.Txn(false)}, rev: rev})
}

// View returns the newest durable state. It takes no lock, allocates nothing, and stays as
// it is while others write.
func (db *DB) View() *Snapshot { return db.visible.Load() }

// Close waits for the update whose fn runs and for the answer that the journal owes, tries
// once more to settle a batch without a certain one, and closes the journal. Updates after
// it, and those that wait, return ErrClosed. Views stay readable. It is idempotent; only
// the first call returns the journal's error.
func (db *DB) Close() error {
	var err error
	db.once.Do(func() {
		close(db.closing)
		db.pen <- struct{}{}
		defer func() { <-db.pen }()
		db.press <- struct{}{}
		defer func() { <-db.press }()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for db.take() != nil {
			if err = db.try(ctx); err != nil {
				break
			}
		}
		db.end(ErrClosed)
		if db.journal != nil {
			err = errors.Join(err, db.journal.Close())
		}
	})
	return err
}

// Reader is what rows are read from: a *Snapshot or, inside Update, a *Tx.
type Reader interface{ read() *reader }

type reader struct {
	tables map[string]AnyTable
	txn    *memdb.Txn
	done   bool
}

func (r *reader) read() *reader { return r }

// of returns the transaction for a table; asking for one that Open was not told of, or
// through a Tx whose Update is over, is a mistake in the program.
func (r *reader) of(table string) *memdb.Txn {
	if r.done {
		panic("state: a Tx is used after its Update returned; read from DB.View instead")
	}
	if r.tables[table] == nil {
		panic(fmt.Sprintf("state: table %q was not given to Open; add it there", table))
	}
	return r.txn
}

// Snapshot is the state of one moment. It never changes and may be used by any number of
// goroutines.
type Snapshot struct {
	reader
	rev uint64
}

// Rev returns the revision of the newest change in the snapshot.
func (s *Snapshot) Rev() uint64 { return s.rev }

var (
	_ Reader = (*Snapshot)(nil)
	_ Reader = (*Tx)(nil)
)

// Check tells whether the Journal still has what was committed, if it is a Checker: an error wraps ErrFenced.
func (db *DB) Check(ctx context.Context) error {
	if c, ok := db.journal.(Checker); ok {
		return c.Check(ctx)
	}
	return nil
}
