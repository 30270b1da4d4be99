package state

import (
	"context"
	"runtime"
	"sync"

	"github.com/hashicorp/go-memdb"
)

// chunk is how many rows a decoder takes at once: enough that handing over costs nothing.
const chunk = 512

// loadRows reads all rows into m. Decoding, the larger part, is done on all processors; it
// returns when all it started has ended.
func loadRows(ctx context.Context, j Journal, tables map[string]AnyTable, m *memdb.MemDB) (uint64, error) {
	rev, rows, err := j.Load(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	raw, decoded := make(chan []Row), make(chan []loaded, runtime.GOMAXPROCS(0))
	var readers, decoders sync.WaitGroup
	readers.Go(func() {
		defer close(raw)
		part := make([]Row, 0, chunk)
		for r, err := range rows {
			if err != nil {
				cancel(err)
				return
			}
			if tables[r.Table] == nil {
				continue
			}
			if part = append(part, r); len(part) < chunk {
				continue
			}
			select {
			case raw <- part:
				part = make([]Row, 0, chunk)
			case <-ctx.Done():
				return
			}
		}
		select {
		case raw <- part:
		case <-ctx.Done():
		}
	})
	for range runtime.GOMAXPROCS(0) {
		decoders.Go(func() {
			for part := range raw {
				out, err := decodePart(tables, part)
				if err != nil {
					cancel(err)
				}
				select {
				case decoded <- out:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		decoders.Wait()
		close(decoded)
	}()
	txn := m.Txn(true)
	defer txn.Abort()
	for part := range decoded { // to its end: then all goroutines have ended
		for _, l := range part {
			if ctx.Err() != nil {
				break
			}
			if err := l.table.insert(txn, l.rec); err != nil {
				cancel(err)
			}
		}
	}
	readers.Wait()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	txn.Commit()
	return rev, nil
}

type loaded struct {
	table AnyTable
	rec   record
}

func decodePart(tables map[string]AnyTable, part []Row) ([]loaded, error) {
	out := make([]loaded, len(part))
	for i, r := range part {
		t := tables[r.Table]
		rec, err := t.decode(r)
		if err != nil {
			return nil, err
		}
		out[i] = loaded{t, rec}
	}
	return out, nil
}
