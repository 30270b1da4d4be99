// Package statetest is the conformance suite of state.Journal.
package statetest

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/dewpoint-go/dewpoint/state"
)

// Run holds a state.Journal to its contract. open returns an empty Journal and a function
// that opens it again over the same bytes; before each call of that, the suite has closed
// the Journal that was open, or simply dropped it if the Journal survives a crash: the
// suite always closes. open registers its own clean-up.
func Run(t *testing.T, open func(t *testing.T) (j state.Journal, reopen func() state.Journal)) {
	cases := []struct {
		name string
		test func(*testing.T, *home)
	}{
		{"EmptyJournal", testEmpty},
		{"RowsComeBack", testRowsComeBack},
		{"NewestValueWins", testNewestWins},
		{"DeletedRowsStayAway", testDelete},
		{"SameRevAgainDoesNothing", testSameRev},
		{"RevOutOfOrderIsRefused", testOutOfOrder},
		{"AnyBytesInKeysAndValues", testBytes},
		{"LargeBatch", testLarge},
		{"EndedContextIsCertainAfterRepeating", testEndedContext},
		{"ContextMayEndAtAnyMoment", testContextEnds},
		{"LostAnswers", testLostAnswers},
		{"DBReadsItsRowsAgain", testDB},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			j, reopen := open(t)
			h := &home{t: t, j: j, reopen: reopen, want: map[[2]string]string{}}
			c.test(t, h)
			if h.j != nil {
				if err := h.j.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
		})
	}
}

// home drives a Journal and a model of what it must hold.
type home struct {
	t      *testing.T
	j      state.Journal
	reopen func() state.Journal
	rev    uint64
	want   map[[2]string]string
}

func (h *home) commit(rows ...state.Row) {
	h.t.Helper()
	b := state.Batch{Rev: h.rev + 1, Rows: rows}
	if err := h.j.Commit(context.Background(), b); err != nil {
		h.t.Fatalf("Commit of revision %d: %v", b.Rev, err)
	}
	h.note(b)
}

func (h *home) note(b state.Batch) {
	h.rev = b.Rev
	for _, r := range b.Rows {
		id := [2]string{r.Table, r.Key}
		if r.Value == nil {
			delete(h.want, id)
		} else {
			h.want[id] = fmt.Sprint(b.Rev, " ", string(r.Value))
		}
	}
}

// restart closes the Journal, opens it again and checks all rows.
func (h *home) restart() {
	h.t.Helper()
	if err := h.j.Close(); err != nil {
		h.t.Fatalf("Close: %v", err)
	}
	h.j = h.reopen()
	h.check()
}

func (h *home) check() {
	h.t.Helper()
	rev, rows, err := h.j.Load(context.Background())
	if err != nil {
		h.t.Fatalf("Load: %v", err)
	}
	if rev != h.rev {
		h.t.Errorf("Load: revision is %d, want %d", rev, h.rev)
	}
	got := map[[2]string]string{}
	for r, err := range rows {
		if err != nil {
			h.t.Fatalf("Load: row: %v", err)
		}
		id := [2]string{r.Table, r.Key}
		if _, twice := got[id]; twice {
			h.t.Errorf("Load: row %q comes twice", id)
		}
		got[id] = fmt.Sprint(r.Rev, " ", string(r.Value))
	}
	if !maps.Equal(got, h.want) {
		if len(got)+len(h.want) > 40 {
			h.t.Fatalf("Load: %d rows that differ from the %d wanted", len(got), len(h.want))
		}
		h.t.Fatalf("Load: rows are\n%q, want\n%q", got, h.want)
	}
}

func row(table, key, value string) state.Row {
	return state.Row{Table: table, Key: key, Value: []byte(value)}
}

func gone(table, key string) state.Row { return state.Row{Table: table, Key: key} }

func testEmpty(t *testing.T, h *home) {
	h.check()
	h.restart()
}

func testRowsComeBack(t *testing.T, h *home) {
	h.check()
	h.commit(row("a", "1", `{"x":1}`), row("b", "1", `2`))
	h.commit(row("a", "2", `3`))
	h.restart()
	h.commit(row("a", "3", `4`))
	h.restart()
}

func testNewestWins(t *testing.T, h *home) {
	h.check()
	h.commit(row("a", "1", `1`), row("a", "2", `1`))
	h.commit(row("a", "1", `2`))
	h.restart()
	h.commit(row("a", "1", `3`))
	h.restart()
}

func testDelete(t *testing.T, h *home) {
	h.check()
	h.commit(row("a", "1", `1`), row("a", "2", `1`))
	h.commit(gone("a", "1"), gone("a", "never was"))
	h.restart()
	h.commit(row("a", "1", `5`), gone("a", "2"))
	h.restart()
}

func testSameRev(t *testing.T, h *home) {
	h.check()
	h.commit(row("a", "1", `1`))
	other := state.Batch{Rev: h.rev, Rows: []state.Row{row("a", "1", `not me`), row("a", "2", `nor me`)}}
	if err := h.j.Commit(context.Background(), other); err != nil {
		t.Errorf("Commit of the newest revision again: %v, want nil", err)
	}
	h.restart()
	if err := h.j.Commit(context.Background(), other); err != nil {
		t.Errorf("Commit of the newest revision again, after a restart: %v, want nil", err)
	}
	h.restart()
}

func testOutOfOrder(t *testing.T, h *home) {
	h.check()
	h.commit(row("a", "1", `1`))
	skip := state.Batch{Rev: h.rev + 2, Rows: []state.Row{row("a", "1", `2`)}}
	if err := h.j.Commit(context.Background(), skip); err == nil {
		t.Errorf("Commit of revision %d after %d: nil, want an error", skip.Rev, h.rev)
	}
	h.commit(row("a", "2", `1`))
	h.restart()
}

func testBytes(t *testing.T, h *home) {
	h.check()
	h.commit(row("tab le", "a/b'c\"d%_\\", `"é"`), row("t", "\u00e9\U0001F600", "{\n}"),
		row("T", "Case", `1`), row("T", "case", `2`), row("t", "case", `3`))
	h.restart()
}

func testLarge(t *testing.T, h *home) {
	h.check()
	rows := make([]state.Row, 5000)
	for i := range rows {
		rows[i] = row("t", fmt.Sprint("key-", i), fmt.Sprintf(`{"n":%d}`, i))
	}
	rows = append(rows, row("t", "big", string(make([]byte, 1<<20))))
	h.commit(rows...)
	for i := range 4000 {
		rows[i].Value = nil
	}
	h.commit(rows[:4000]...)
	h.restart()
}

// testEndedContext holds that a Commit whose context has ended does all or nothing, and
// that repeating it makes it certain.
func testEndedContext(t *testing.T, h *home) {
	h.check()
	h.commit(row("a", "1", `1`))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := state.Batch{Rev: h.rev + 1, Rows: []state.Row{row("a", "2", `2`), gone("a", "1")}}
	_ = h.j.Commit(ctx, b) // either answer is right
	if err := h.j.Commit(context.Background(), b); err != nil {
		t.Fatalf("Commit repeated after one with an ended context: %v", err)
	}
	h.note(b)
	h.restart()
}

type thing struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func testDB(t *testing.T, h *home) {
	things := state.NewTable("things", func(x thing) string { return x.ID },
		state.Index[thing]{Name: "name", Unique: true, Keys: func(x thing) []string { return []string{x.Name} }})
	ctx := context.Background()
	j := h.j
	h.j = nil // the DB closes it
	for round := range 3 {
		db, err := state.Open(ctx, state.Config{Journal: j}, things)
		if err != nil {
			t.Fatalf("Open, round %d: %v", round, err)
		}
		n := 0
		for x := range things.All(db.View()) {
			if x.Name != "name of "+x.ID {
				t.Errorf("round %d: row %+v came back changed", round, x)
			}
			n++
		}
		if n != 10*round {
			t.Errorf("round %d: %d rows, want %d", round, n, 10*round)
		}
		for i := range 10 {
			id := fmt.Sprint(round, "-", i)
			err := db.Update(ctx, func(tx *state.Tx) error { return things.Put(tx, thing{id, "name of " + id}) })
			if err != nil {
				t.Fatalf("Update: %v", err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		j = h.reopen()
	}
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}
