package state

import (
	"context"
	"errors"
	"iter"
)

// Row is one row as a Journal keeps it.
type Row struct {
	Table string
	Key   string
	// Rev is the revision of the batch that wrote it last.
	Rev uint64
	// Value is the encoded row; nil in a Batch says that the row is deleted.
	Value []byte
}

// Batch is a set of changes that become durable together.
type Batch struct {
	Rev  uint64 // the last committed revision + 1
	Rows []Row  // at most one for each table and key
}

// ErrFenced is returned by a Journal that can commit nothing any more: another writer has taken it over,
// or what was committed is lost.
var ErrFenced = errors.New("state: another writer has taken the journal over")

// Journal is the durable home of the rows; it knows no queries. It is called by one
// goroutine at a time, though not always the same. The conformance suite is statetest.Run.
type Journal interface {
	// Load yields every row, in any order (that of the keys is the fastest to take in), and
	// the revision of the newest batch (0: none).
	// The Value of a yielded Row belongs to the caller: the Journal doesn't write to it again.
	Load(ctx context.Context) (rev uint64, rows iter.Seq2[Row, error], err error)
	// Commit makes a batch durable, all or nothing, before it returns. A batch with the Rev
	// of the newest committed one: nil, and nothing is done. A Rev that is neither that nor
	// the next is an error. Deleting a row that isn't there is no error. After any error but
	// ErrFenced the caller repeats the same batch, for the first try may have been done.
	Commit(ctx context.Context, b Batch) error
	// Close lets go of what the Journal holds. Nothing else is called after it.
	Close() error
}

// Checker is a power of a Journal that can lose what was committed without being asked for anything,
// because somebody deletes its file.
type Checker interface {
	// Check tells whether what was committed is there; else the error wraps ErrFenced, and says why. It
	// may be called at any time by anybody.
	Check(ctx context.Context) error
}
