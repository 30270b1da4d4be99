// Package sqlite is the durable journal of one machine: rows in one SQLite file.
//
// It is a pure Go SQLite, so nothing has to be installed. The file is in WAL mode with full
// synchronisation: what Commit returned for survives a power cut. One program at a time may
// have it open; a second one is refused.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite" // the driver, called "sqlite"

	"github.com/dewpoint-go/dewpoint/state"
)

// Journal keeps rows in an SQLite file.
type Journal struct {
	path string
	db   *sql.DB
	conn *sql.Conn // the one connection: it holds the file's lock
	rev  uint64
	on   *files
}

var (
	_ state.Journal = (*Journal)(nil)
	_ state.Checker = (*Journal)(nil)
)

const schema = `
CREATE TABLE IF NOT EXISTS rows (tbl TEXT NOT NULL, key BLOB NOT NULL, rev INTEGER NOT NULL, value BLOB NOT NULL,
	PRIMARY KEY (tbl, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (id INTEGER PRIMARY KEY CHECK (id = 1), rev INTEGER NOT NULL);
INSERT OR IGNORE INTO meta (id, rev) VALUES (1, 0);`

// Open opens the journal in the file at path and makes it if it is not there, readable by its
// owner alone; its folder must exist. A file that another program has open, or that is no journal, is an error that
// says so.
func Open(ctx context.Context, path string) (*Journal, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	if err := create(abs); err != nil {
		return nil, fmt.Errorf("open journal %s: %w; its folder must exist, and you must be allowed to write there", path, err)
	}
	// locking_mode EXCLUSIVE keeps the lock from the first write on, so that two programs
	// cannot write the same revision.
	q := url.Values{"_pragma": {"busy_timeout(500)", "locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)"}, "_txlock": {"immediate"}}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: q.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	j := &Journal{path: path, db: db, on: watchFiles(abs)}
	if err := j.prepare(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("open journal %s: %w; %s", path, err, cure(err))
	}
	return j, nil
}

// cure says what to do about a file that cannot be a journal, by SQLite's result code
// (sqlite.org/rescode.html).
func cure(err error) string {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
			return "another program uses it: end that one, or choose another file"
		case 13: // SQLITE_FULL
			return "its disk is full: make room"
		case 10: // SQLITE_IOERR, which a full disk can be, too
			return "its disk may be full, or broken"
		case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
			return "it is damaged, or something else: move it away, or choose another file"
		case 8, 14: // SQLITE_READONLY, SQLITE_CANTOPEN
			return "let this user write to it and to its folder, or choose another file"
		}
	}
	return "is another program using it, or may you not write there?"
}

// create makes the file if it is not there. Rows have passwords in them: it, and the log that
// takes its mode, is the owner's alone. One that is there is not opened, for to close it
// would give up the lock that this very program may have on it.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func (j *Journal) prepare(ctx context.Context) error {
	conn, err := j.db.Conn(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, schema); err != nil {
		return errors.Join(err, conn.Close())
	}
	if err := conn.QueryRowContext(ctx, "SELECT rev FROM meta").Scan(&j.rev); err != nil {
		return errors.Join(err, conn.Close())
	}
	j.conn = conn
	return j.on.check() // remembers them
}

// Check implements state.Checker: a file that was deleted, replaced or cut short is a *LostError.
func (j *Journal) Check(context.Context) error { return j.on.check() }

// Load yields every row, in order of table and key.
func (j *Journal) Load(ctx context.Context) (uint64, iter.Seq2[state.Row, error], error) {
	if err := j.conn.QueryRowContext(ctx, "SELECT rev FROM meta").Scan(&j.rev); err != nil {
		return 0, nil, fmt.Errorf("load journal %s: %w", j.path, err)
	}
	return j.rev, func(yield func(state.Row, error) bool) {
		rows, err := j.conn.QueryContext(ctx, "SELECT tbl, key, rev, value FROM rows")
		if err != nil {
			yield(state.Row{}, fmt.Errorf("load journal %s: %w", j.path, err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			var r state.Row
			var key []byte
			if err := rows.Scan(&r.Table, &key, &r.Rev, &r.Value); err != nil {
				yield(state.Row{}, fmt.Errorf("load journal %s: %w", j.path, err))
				return
			}
			r.Key = string(key)
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(state.Row{}, fmt.Errorf("load journal %s: %w", j.path, err))
		}
	}, nil
}

// Commit writes a batch in one transaction. A context that has ended keeps it from beginning;
// once begun it goes to its end.
func (j *Journal) Commit(ctx context.Context, b state.Batch) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("commit revision %d to journal %s: %w", b.Rev, j.path, err)
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	// The driver may leave a transaction open, or give the connection and its lock up, where a
	// context ends in the middle; and a disk that hangs cannot be interrupted anyway.
	ctx = context.WithoutCancel(ctx)
	if err := j.on.check(); err != nil {
		return err
	}
	// The file may be ahead of us after an uncertain commit: ask it, not our memory.
	tx, err := j.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	var rev uint64
	if err := tx.QueryRowContext(ctx, "SELECT rev FROM meta").Scan(&rev); err != nil {
		return err
	}
	switch {
	case b.Rev == rev && rev > 0:
		return nil
	case b.Rev != rev+1:
		return fmt.Errorf("the journal is at revision %d", rev)
	}
	if err := write(ctx, tx, b); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return j.on.check() // is it where it would be looked for?
}

func write(ctx context.Context, tx *sql.Tx, b state.Batch) error {
	put, err := tx.PrepareContext(ctx, "INSERT INTO rows (tbl, key, rev, value) VALUES (?, ?, ?, ?) ON CONFLICT (tbl, key) DO UPDATE SET rev = excluded.rev, value = excluded.value")
	if err != nil {
		return err
	}
	defer put.Close()
	del, err := tx.PrepareContext(ctx, "DELETE FROM rows WHERE tbl = ? AND key = ?")
	if err != nil {
		return err
	}
	defer del.Close()
	for _, r := range b.Rows {
		if r.Value == nil {
			_, err = del.ExecContext(ctx, r.Table, []byte(r.Key))
		} else {
			_, err = put.ExecContext(ctx, r.Table, []byte(r.Key), int64(b.Rev), r.Value) //nolint:gosec // revisions stay far below 2^63
		}
		if err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, "UPDATE meta SET rev = ?", int64(b.Rev)) //nolint:gosec // as above
	return err
}

// Close lets go of the file.
func (j *Journal) Close() error {
	return errors.Join(j.conn.Close(), j.db.Close())
}
