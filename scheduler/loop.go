package scheduler

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// starter is a Start under way.
type starter struct {
	gone bool // the cell has said meanwhile that the work is gone
}

// avoidance says why a cell is not asked again for an instance, and until when.
type avoidance struct {
	reason string
	until  time.Time
}

// check names a work that may have become unwanted.
type check struct {
	m    *member
	guid string
}

func sameInstance(a, b lrp.Instance) bool { return reflect.DeepEqual(a, b) }

// turn is one pass of the loop: what it decided, to be done when it is durable.
type turn struct {
	now    time.Time
	put    []lrp.Row
	del    []lrp.Row
	before []lrp.Row // as they were, those of put and del
	place  []want
	claims []claim
	fail   []lrp.ID // without a place
}

type want struct {
	row lrp.Row
	d   *lrp.Desired
	was *lrp.Row // nil: new
}

type claim struct {
	m    *member
	work cell.Work
	key  string // of the row
}

// pass brings the rows of all processes that were touched up to date, in one Update, and
// starts what it claimed. Its error is one after which nothing can be stored any more.
func (s *Scheduler) pass(ctx context.Context) error {
	s.mu.Lock()
	ids := make([]lrp.ID, 0, len(s.dirty))
	for id := range s.dirty {
		ids = append(ids, id)
	}
	clear(s.dirty)
	t := &turn{now: s.now()}
	others := s.before
	s.before = nil
	for _, r := range others {
		delete(s.avoid, r.Key()) // what comes begins anew
	}
	s.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids) // the same input gives the same placement
	err := s.db.Update(ctx, func(tx *state.Tx) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			s.decide(tx, t, id)
		}
		// A refusal of a row that was not looked at is seen anyway: the cell lacks the work.
		clear(s.refused)
		s.place(t)
		return t.write(tx)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		for _, c := range t.claims {
			delete(s.starting, c.work.ID)
			s.unload(c.m, c.work.ID)
		}
		for _, id := range ids {
			s.setFor(id, t.now.Add(time.Second))
		}
		s.before = append(s.before, others...)
		if errors.Is(err, state.ErrFenced) || errors.Is(err, state.ErrClosed) {
			return fmt.Errorf("scheduler: store changes of instances: %w", err)
		}
		if ctx.Err() == nil {
			s.log.Error("changes of instances could not be stored; they are tried again", "error", err)
		}
		return nil
	}
	for _, id := range ids {
		delete(s.unplaced, id)
	}
	for _, id := range t.fail {
		s.unplaced[id] = struct{}{}
		s.setFor(id, t.now.Add(retryPlacement))
	}
	for _, r := range t.del {
		delete(s.avoid, r.Key())
	}
	for _, r := range append(t.before, others...) {
		s.release(r)
	}
	for _, c := range t.claims {
		s.wg.Go(func() { s.start(ctx, c) })
	}
	return nil
}

func (t *turn) write(tx *state.Tx) error {
	for _, r := range t.del {
		rows.Delete(tx, r.Key())
	}
	for _, r := range t.put {
		if err := rows.Put(tx, r); err != nil {
			return err
		}
	}
	return nil
}

// release has the works of a row that was changed checked. The caller holds mu.
func (s *Scheduler) release(r lrp.Row) {
	if m := s.members[r.Cell]; m != nil {
		s.checks[check{m, r.GUID}] = struct{}{}
	}
	if o := r.Suspect; o != nil && s.members[o.Cell] != nil {
		s.checks[check{s.members[o.Cell], o.GUID}] = struct{}{}
	}
}

// decide finds what must change for one process. The caller holds mu.
func (s *Scheduler) decide(tx *state.Tx, t *turn, id lrp.ID) {
	var d *lrp.Desired
	if got, ok := desired.Get(tx, string(id)); ok {
		d = &got
	}
	was := map[int]lrp.Row{}
	next := map[int]lrp.Row{}
	var list []lrp.Row
	for r := range rows.Prefix(tx, lrp.KeyPrefix(id)) {
		was[r.Index] = r
		r = s.truth(r, t.now)
		next[r.Index] = r
		list = append(list, r)
	}
	p := lrp.Reconcile(d, list, s.presence, t.now)
	for _, r := range p.Put {
		next[r.Index] = r
	}
	for _, r := range p.Delete {
		t.del = append(t.del, r)
		t.before = append(t.before, was[r.Index])
		delete(next, r.Index)
	}
	for _, r := range p.Place {
		w := want{row: r, d: d}
		if old, ok := was[r.Index]; ok {
			w.was = &old
		}
		t.place = append(t.place, w)
		delete(next, r.Index)
	}
	for _, stepped := range list {
		r, ok := next[stepped.Index]
		if r.State == lrp.Running {
			delete(s.avoid, r.Key())
		}
		if old := was[stepped.Index]; ok && !reflect.DeepEqual(old, r) {
			t.put = append(t.put, r)
			t.before = append(t.before, old)
		}
	}
	if !p.Wake.IsZero() {
		s.setFor(id, p.Wake)
	}
}

// truth brings a row up to date with what its cells say. The caller holds mu.
func (s *Scheduler) truth(r lrp.Row, now time.Time) lrp.Row {
	if s.refused[r.GUID] {
		return r.Unclaim(now)
	}
	type occupant struct{ cell, guid string }
	all := []occupant{{r.Cell, r.GUID}}
	if o := r.Suspect; o != nil {
		all = append(all, occupant{o.Cell, o.GUID})
	}
	for _, o := range all {
		m := s.members[o.cell]
		switch {
		case o.guid == "":
		case m == nil:
			if s.removed[o.cell] {
				r = lrp.Lose(r, o.guid, now)
			}
		case m.works[o.guid] != nil:
			if !m.lost {
				r = lrp.Step(r, m.works[o.guid].status, now)
			}
		case m.synced && s.starting[o.guid] == nil:
			r = lrp.Lose(r, o.guid, now)
		}
	}
	return r
}

// place finds cells for the rows that wait. The caller holds mu.
func (s *Scheduler) place(t *turn) {
	// First instances first, so that every process has one; then the large ones, which
	// find a place less easily.
	sort.SliceStable(t.place, func(i, j int) bool {
		a, b := t.place[i], t.place[j]
		if a.row.Index != b.row.Index {
			return a.row.Index < b.row.Index
		}
		return a.d.Work.Spec.Memory > b.d.Work.Spec.Memory
	})
	for _, w := range t.place {
		r := s.placeOne(t, w)
		if w.was != nil && reflect.DeepEqual(*w.was, r) {
			continue
		}
		t.put = append(t.put, r)
		if w.was != nil {
			t.before = append(t.before, *w.was)
		}
	}
}

func (s *Scheduler) placeOne(t *turn, w want) lrp.Row {
	r := w.row
	avoid := map[string]string{}
	for id, a := range s.avoid[r.Key()] {
		if a.until.After(t.now) {
			avoid[id] = a.reason
		}
	}
	id, err := s.policy.Place(Want{Spec: w.d.Work.Spec, LRP: string(r.LRP), Index: r.Index, Avoid: avoid}, &s.view)
	m := s.members[id]
	if err == nil && m == nil {
		err = errors.New("the policy chose the cell " + id + ", which is unknown")
	}
	if err != nil {
		t.fail = append(t.fail, r.LRP)
		r.PlacementError = err.Error()
		return r
	}
	guid := s.newID()
	work := w.d.WorkFor(r.Index, guid)
	s.load(m, work, guid, true)
	s.starting[guid] = &starter{}
	t.claims = append(t.claims, claim{m: m, work: work, key: r.Key()})
	return r.Claim(id, guid, t.now)
}

// start sends a claimed work to its cell, until the cell has it, refuses it, or it is no
// longer wanted there.
func (s *Scheduler) start(ctx context.Context, c claim) {
	id := c.work.ID
	for pause := 500 * time.Millisecond; ; pause = min(2*pause, 16*time.Second) {
		err := s.send(ctx, c.m, c.work)
		var refused *cell.RefusedError
		s.mu.Lock()
		switch _, taken := c.m.works[id]; {
		case err == nil || taken || s.starting[id].gone:
			s.accepted(ctx, c)
		case errors.As(err, &refused):
			delete(s.starting, id)
			s.unload(c.m, id)
			s.dirtyWork(&c.work)
			if !s.holds(c.m.id, id, &c.work) {
				break
			}
			s.refused[id] = true
			if s.avoid[c.key] == nil {
				s.avoid[c.key] = map[string]avoidance{}
			}
			s.avoid[c.key][c.m.id] = avoidance{refused.Reason, s.now().Add(retryPlacement)}
		case ctx.Err() != nil, c.m.lost, !s.holds(c.m.id, id, &c.work):
			delete(s.starting, id)
			s.unload(c.m, id)
			s.dirtyWork(&c.work)
			s.dismiss(ctx, c.m, id) // it may have been done
		default:
			s.mu.Unlock()
			s.log.Warn("whether a cell took an instance is unknown; it is asked again", "cell", c.m.id, "work", id, "error", err)
			sleep(ctx, pause)
			continue
		}
		s.mu.Unlock()
		s.wake()
		return
	}
}

// accepted notes that a cell has a work. The caller holds mu.
func (s *Scheduler) accepted(ctx context.Context, c claim) {
	id := c.work.ID
	gone := s.starting[id].gone
	delete(s.starting, id)
	switch {
	case gone, c.m.away:
		s.unload(c.m, id)
		s.dirtyWork(&c.work)
		s.dismiss(ctx, c.m, id)
	case c.m.works[id] == nil: // Watch has not told yet
		s.accept(ctx, c.m, &c.work)
	}
	s.checks[check{c.m, id}] = struct{}{}
	s.dirtyWork(&c.work)
}

// callTimeout is how long one call to a cell may take.
const callTimeout = 10 * time.Second

func (s *Scheduler) send(ctx context.Context, m *member, w cell.Work) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return m.cell.Start(ctx, w)
}

// holds tells whether a row wants the work where it is.
func (s *Scheduler) holds(cellID, guid string, w *cell.Work) bool {
	v := s.db.View()
	if w != nil {
		r, ok := rows.Get(v, lrp.RowKey(lrp.ID(w.LRP), w.Index))
		return ok && r.Holds(cellID, guid)
	}
	for r := range rows.By(v, "cell", cellID) {
		if r.Holds(cellID, guid) {
			return true
		}
	}
	return false
}
