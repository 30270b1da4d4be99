package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

func (c *Core) exists(tx *state.Tx, id lrp.ID) bool {
	if _, ok := desired.Get(tx, string(id)); ok {
		return true
	}
	for range rows.Prefix(tx, lrp.KeyPrefix(id)) {
		return true
	}
	return false
}

// decideAll looks at every process.
func (c *Core) decideAll(tx *state.Tx, t *turn) {
	// Rows lie together by process: one walk is much faster than a search for each.
	met := map[lrp.ID]struct{}{}
	c.round++
	var id lrp.ID
	c.was = c.was[:0]
	flush := func() {
		if len(c.was) > 0 {
			met[id] = struct{}{}
			c.decide(tx, t, id)
		}
		c.was = c.was[:0]
	}
	for r := range rows.All(tx) {
		if r.LRP != id {
			flush()
			id = r.LRP
		}
		c.was = append(c.was, r)
	}
	flush()
	for d := range desired.All(tx) {
		if _, ok := met[d.ID]; !ok {
			c.decide(tx, t, d.ID)
		}
	}
}

func (c *Core) decideOne(tx *state.Tx, t *turn, id lrp.ID) {
	c.was = slices.AppendSeq(c.was[:0], rows.Prefix(tx, lrp.KeyPrefix(id)))
	c.decide(tx, t, id)
}

// decide finds what must change for one process, whose rows are c.was.
func (c *Core) decide(tx *state.Tx, t *turn, id lrp.ID) {
	var d *lrp.Desired
	if got, ok := desired.Get(tx, string(id)); ok {
		d = &got
	}
	if c.quiet(d, c.was) {
		return
	}
	c.buf = append(c.buf[:0], c.was...)
	for i := range c.buf {
		c.truth(&c.buf[i], t.now)
	}
	p := c.rules.Reconcile(d, c.buf, c.presence, t.now)
	// Plan tells of rows by index, in which order they are here.
	at := func(index int) int {
		i, _ := slices.BinarySearchFunc(c.buf, index, func(r lrp.Row, index int) int { return r.Index - index })
		return i
	}
	old := func(index int) *lrp.Row {
		if i := at(index); i < len(c.was) && c.was[i].Index == index {
			return &c.was[i]
		}
		return nil
	}
	for i := range p.Put {
		if r := &p.Put[i]; old(r.Index) != nil {
			c.buf[at(r.Index)] = *r
		}
	}
	for _, r := range p.Delete {
		t.del = append(t.del, r)
		t.before = append(t.before, *old(r.Index))
	}
	for _, r := range p.Place {
		w := placing{want: Want{Spec: d.Work.Spec, LRP: string(r.LRP), Index: r.Index}, row: r, d: d}
		if was := old(r.Index); was != nil {
			x := *was
			w.was = &x
		}
		t.place = append(t.place, w)
	}
	for i := range c.buf {
		r := &c.buf[i]
		if r.State == lrp.Running && len(c.avoid) > 0 {
			delete(c.avoid, r.Key())
		}
		if c.was[i].Equal(r) || r.State == lrp.Unclaimed || d == nil || r.Index >= d.Instances {
			continue // those without a cell are placed, and the others deleted
		}
		t.put = append(t.put, *r)
		t.before = append(t.before, c.was[i])
	}
	if !p.Wake.IsZero() {
		c.setFor(alarmLRP, string(id), p.Wake)
	}
}

// quiet tells, quickly, of most processes that there is nothing to decide: all that is wanted runs
// as the rows say, on cells that stay.
func (c *Core) quiet(d *lrp.Desired, list []lrp.Row) bool {
	if d == nil || len(list) != d.Instances || len(c.avoid) > 0 {
		return false
	}
	for i := range list {
		r := &list[i]
		if r.Index != i || r.State != lrp.Running {
			return false
		}
		m := c.members[r.Cell]
		if m == nil || m.lost || !m.synced || m.view.Draining {
			return false
		}
		k := m.works[r.GUID]
		if k == nil || !r.Knows(&k.status) {
			return false
		}
		k.round = c.round
	}
	return true
}

// truth brings a row up to date with what its cells say.
func (c *Core) truth(r *lrp.Row, now time.Time) {
	if len(c.refused) > 0 {
		if _, ok := c.refused[r.GUID]; ok && r.GUID != "" {
			*r = r.Unclaim(now)
			return
		}
	}
	all, n := r.Occupants()
	for _, o := range all[:n] {
		m := c.members[o.Cell]
		if m == nil {
			if c.removed[o.Cell] {
				*r = lrp.Lose(*r, o.GUID, now)
			}
			continue
		}
		switch k := m.works[o.GUID]; {
		case k != nil:
			k.round = c.round
			if !m.lost && !r.Knows(&k.status) {
				*r = lrp.Step(*r, k.status, now)
			}
		case m.synced && c.starting[o.GUID] == nil:
			*r = lrp.Lose(*r, o.GUID, now)
		}
	}
}

// placing is a work that needs a cell: an instance, a task or an attended task.
type placing struct {
	want     Want
	row      lrp.Row
	d        *lrp.Desired
	was      *lrp.Row // nil: new
	task     *Task
	taskWas  Task
	attended *attendedTask
}

// place finds cells for all that need one, in Cloud Foundry's order.
func (c *Core) place(t *turn) {
	clear(c.memo)
	slices.SortStableFunc(t.place, func(a, b placing) int { return order(&a.want, &b.want) })
	for i := range t.place {
		p := &t.place[i]
		switch {
		case p.attended != nil:
			c.placeAttended(t, p)
		case p.task != nil:
			c.placeTask(t, p)
		default:
			c.placeRow(t, p)
		}
	}
}

func (c *Core) placeRow(t *turn, p *placing) {
	key := p.row.Key()
	p.want.Avoid = c.refusing(key, t.now)
	m, err := c.choose(p.want)
	r := p.row
	if err != nil {
		if r.PlacementError = stored(err.Error()); heldUp(err) {
			t.held = append(t.held, r.LRP)
		} else {
			t.fail = append(t.fail, r.LRP)
		}
	} else {
		r = c.claim(t, p, m, key)
	}
	if p.was != nil && p.was.Equal(&r) {
		return
	}
	t.put = append(t.put, r)
	if p.was != nil {
		t.before = append(t.before, *p.was)
	}
}

// claim gives a row to a cell.
func (c *Core) claim(t *turn, p *placing, m *Member, key string) lrp.Row {
	why := c.why(&p.want, m)
	guid := c.newID()
	c.launch(t, m, p.d.WorkFor(p.row.Index, guid), key)
	r := p.row.Claim(m.id, guid, t.now)
	r.Placed = why
	return r
}

// launch counts a work on a cell and has it sent when that is stored.
func (c *Core) launch(t *turn, m *Member, w cell.Work, key string) {
	s := &starter{m: m, work: w, key: key}
	c.load(m, &w, w.ID, true)
	c.starting[w.ID] = s
	t.claims = append(t.claims, s)
}

// why says why a cell was chosen.
func (c *Core) why(w *Want, m *Member) string {
	full := float64(filled(m.view.Used, m.view.Total)+added(w.Spec, m.view.Total)) / unit
	if w.LRP == "" {
		return fmt.Sprintf("of %d cells: %d tasks, %d starting, %.3f full with it", len(c.view.Cells), m.view.Tasks, m.view.Starting, full)
	}
	return fmt.Sprintf("of %d cells: zone %s had %d of the process, the cell %d; %d starting, %.3f full with it", len(c.view.Cells),
		orNone(m.view.Zone), c.view.InZone(w.LRP, m.view.Zone), c.view.Instances(w.LRP, &m.view), m.view.Starting, full)
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// stored is a reason as rows keep it, in at most 1024 bytes.
func stored(why string) string {
	return lrp.Failure(cell.Status{Failure: cmp.Or(why, "the cell did not say why")})
}

// heldUp tells that the starting limit is why.
func heldUp(err error) bool {
	p, ok := err.(*PlacementError) //nolint:errorlint // choose made it
	return ok && p.limited
}
