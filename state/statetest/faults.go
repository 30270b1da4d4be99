package statetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/state"
)

// testContextEnds holds that a context which ends in the middle of a Commit leaves a Journal
// that works: the same batch again makes it certain.
func testContextEnds(t *testing.T, h *home) {
	h.check()
	r := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // moments, no secrets
	for i := range 300 {
		rows := make([]state.Row, 1+r.IntN(200))
		for k := range rows {
			rows[k] = row("t", fmt.Sprint("key-", k), fmt.Sprintf(`{"n":%d}`, i))
		}
		b := state.Batch{Rev: h.rev + 1, Rows: rows}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(1500))*time.Microsecond)
		err := h.j.Commit(ctx, b)
		cancel()
		if err != nil {
			if err := h.j.Commit(context.Background(), b); err != nil {
				t.Fatalf("Commit of revision %d repeated after its context ended midway: %v", b.Rev, err)
			}
		}
		h.note(b)
	}
	h.restart()
}

// lossy is a Journal that fails as its next fault says, in pairs: failed and not done,
// failed but done.
type lossy struct {
	state.Journal
	fault func() (fail, done bool)
}

var errLost = errors.New("the answer was lost")

func (l *lossy) Commit(ctx context.Context, b state.Batch) error {
	fail, done := l.fault()
	if !fail {
		return l.Journal.Commit(ctx, b)
	}
	if done {
		if err := l.Journal.Commit(ctx, b); err != nil {
			return err
		}
	}
	return errLost
}

// testLostAnswers holds that a DB over a Journal whose answers are lost has the same rows
// as the Journal, each change made once.
func testLostAnswers(t *testing.T, h *home) {
	counts := state.NewTable("things", func(x thing) string { return x.ID })
	ctx := context.Background()
	for _, done := range []bool{false, true} {
		var n atomic.Int64
		j := &lossy{Journal: h.j, fault: func() (bool, bool) { return n.Add(1)%3 != 0, done }}
		h.j = nil // the DB closes it
		db, err := state.Open(ctx, state.Config{Journal: j}, counts)
		if err != nil {
			t.Fatalf("done %v: Open: %v", done, err)
		}
		id := fmt.Sprint("done-", done)
		for range 5 {
			err := db.Update(ctx, func(tx *state.Tx) error {
				x, _ := counts.Get(tx, id)
				return counts.Put(tx, thing{ID: id, Name: x.Name + "+"})
			})
			if err != nil {
				t.Fatalf("done %v: Update: %v", done, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatalf("done %v: Close: %v", done, err)
		}
		h.j = h.reopen()
		again, err := state.Open(ctx, state.Config{Journal: h.j}, counts)
		if err != nil {
			t.Fatalf("done %v: Open again: %v", done, err)
		}
		if x, _ := counts.Get(again.View(), id); x.Name != "+++++" {
			t.Errorf("done %v: 5 updates left %q", done, x.Name)
		}
		if err := again.Close(); err != nil {
			t.Fatalf("done %v: Close again: %v", done, err)
		}
		h.j = h.reopen()
	}
}
