package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// Move is an instance that would be better placed elsewhere.
type Move struct {
	LRP      lrp.ID
	Index    int
	From, To string // cell ids
}

// Movable is a running instance that may be moved.
type Movable struct {
	LRP   lrp.ID
	Index int
	Cell  string
	Spec  cell.Spec
}

const (
	// minGain is by how much less full, in units, the new cell must be with the instance than
	// the old one is with it: moving has its price.
	minGain = unit / 10
	// moveTime is how long a replacement may take before its original stays.
	moveTime = 5 * time.Minute
	// moveRest is for how long an instance that was moved, or could not be, is left alone.
	moveRest = 10 * time.Minute
)

// Rebalance proposes at most n moves, the most useful first. A move brings an instance to a zone
// or a cell with fewer of its process, or to a cell that is less full by a tenth or more with it, and never makes
// one of these worse for another's sake; so what it proposes comes to an end. It is pure: the
// View is as before.
func Rebalance(v *View, movable []Movable, n int) []Move { return propose(v, movable, nil, n) }

// leaver is a work that is about to leave its cell.
type leaver struct {
	from *CellView
	load load
}

func propose(v *View, movable []Movable, leavers []leaver, n int) []Move {
	b := balancer{v: v, leaving: map[*CellView]cell.Resources{}}
	for _, l := range leavers {
		b.leave(l)
	}
	var moves []Move
	all := slices.Clone(movable)
	slices.SortFunc(all, func(a, b Movable) int {
		return cmp.Or(cmp.Compare(a.LRP, b.LRP), cmp.Compare(a.Index, b.Index))
	})
	for len(moves) < n {
		i, to := b.best(all)
		if to == nil {
			break
		}
		w := all[i]
		moves = append(moves, Move{LRP: w.LRP, Index: w.Index, From: w.Cell, To: to.ID})
		b.apply(w, to)
		all = slices.Delete(all, i, i+1)
	}
	b.restore()
	return moves
}

type balancer struct {
	v *View
	// leaving is what the moves so far will free; until then it is in use.
	leaving map[*CellView]cell.Resources
	undo    []func()
}

// fits tells whether a cell has room for an instance beside those that are still to leave.
func (b *balancer) fits(s cell.Spec, c *CellView) bool {
	l := b.leaving[c]
	s.Memory, s.Disk = s.Memory+l.Memory, s.Disk+l.Disk
	return admits(s, c) && lacks(s, c) == 0 && (c.Total.Containers == 0 || c.Used.Containers+l.Containers < c.Total.Containers)
}

// best finds the move with the largest gain. Targets are the emptiest cells and sources the
// fullest, so that not every pair is looked at.
func (b *balancer) best(all []Movable) (at int, to *CellView) {
	best := gain{}
	targets := b.targets()
	for i := range all {
		from := b.v.Cell(all[i].Cell)
		if from == nil {
			continue
		}
		for _, c := range targets {
			if g := b.gain(&all[i], from, c); best.less(g) {
				best, at, to = g, i, c
			}
		}
	}
	return at, to
}

// shownTargets is how many of the emptiest cells of each zone are looked at.
const shownTargets = 2

func (b *balancer) targets() []*CellView {
	byZone := map[string][]*CellView{}
	for _, c := range b.v.Cells {
		if c.open() {
			byZone[c.Zone] = append(byZone[c.Zone], c)
		}
	}
	var all []*CellView
	for _, zone := range sorted(byZone) {
		list := byZone[zone]
		slices.SortStableFunc(list, func(x, y *CellView) int { return cmp.Compare(filled(x.Used, x.Total), filled(y.Used, y.Total)) })
		all = append(all, list[:min(len(list), shownTargets)]...)
	}
	return all
}

// gain is what a move brings; the zero gain is none.
type gain struct {
	zone, colocation int
	room             int64
}

func (g gain) less(o gain) bool {
	return cmp.Or(cmp.Compare(g.zone, o.zone), cmp.Compare(g.colocation, o.colocation), cmp.Compare(g.room, o.room)) < 0
}

func (b *balancer) gain(w *Movable, from, to *CellView) gain {
	id := string(w.LRP)
	if from == to || !b.fits(w.Spec, to) {
		return gain{}
	}
	// With the instance on either cell, as it were: 1 less there, 1 more here.
	zone, colocated := 0, b.v.Instances(id, from)-b.v.Instances(id, to)-1
	if from.Zone != to.Zone {
		zone = b.v.InZone(id, from.Zone) - b.v.InZone(id, to.Zone) - 1
	}
	room := filled(from.Used, from.Total) - filled(to.Used, to.Total) - added(w.Spec, to.Total)
	switch {
	case zone < 0, colocated < 0:
		return gain{}
	case zone > 0, colocated > 0, room >= minGain:
		return gain{zone, colocated, room}
	}
	return gain{}
}

func (b *balancer) apply(w Movable, to *CellView) {
	from, l := b.v.Cell(w.Cell), loadOf(string(w.LRP), w.Spec, false)
	b.leave(leaver{from, l})
	b.v.take(to, l)
	b.undo = append(b.undo, func() { b.v.give(to, l) })
}

// leave takes a work off a cell, though its room is not free yet.
func (b *balancer) leave(l leaver) {
	b.v.give(l.from, l.load)
	out := b.leaving[l.from]
	b.leaving[l.from] = cell.Resources{Memory: out.Memory + l.load.memory, Disk: out.Disk + l.load.disk, Containers: out.Containers + 1}
	b.undo = append(b.undo, func() { b.v.take(l.from, l.load) })
}

func (b *balancer) restore() {
	for _, undo := range slices.Backward(b.undo) {
		undo()
	}
}

// Rebalance has the next Step begin up to n moves; see Moved.
func (c *Core) Rebalance(n int) { c.budget = max(n, 0) }

// Moved returns the moves that were begun since it was called last.
func (c *Core) Moved() []Move {
	moved := c.moved
	c.moved = nil
	return moved
}

// rebalance begins moves: so many as were asked for, or as many at a time as Config.Moves allows
// when a cell came.
func (c *Core) rebalance(tx *state.Tx, t *turn) {
	n := c.budget - len(c.moving)
	if c.budget == 0 && c.balancing {
		n = c.maxMoves - len(c.moving)
		// While something waits or starts, the picture is not whole.
		if len(t.place)+len(c.unplaced)+c.view.starting > 0 {
			return
		}
	}
	asked := c.budget > 0
	c.budget = 0
	if n <= 0 || c.phase != ready || c.recount {
		return
	}
	changed := map[string]bool{}
	for key, at := range c.tried {
		if changed[key] = true; t.now.Sub(at) >= moveRest {
			delete(c.tried, key)
			delete(changed, key)
		}
	}
	for _, list := range [][]lrp.Row{t.put, t.del} {
		for _, r := range list {
			changed[r.Key()] = true
		}
	}
	moves := propose(&c.view, c.movable(tx, changed), c.leavers(tx), n)
	if len(moves) == 0 && !asked {
		c.balancing = len(c.moving) > 0
	}
	for _, mv := range moves {
		r, _ := rows.Get(tx, lrp.RowKey(mv.LRP, mv.Index))
		d, _ := desired.Get(tx, string(mv.LRP))
		m := c.members[mv.To]
		p := placing{want: Want{Spec: d.Work.Spec, LRP: string(mv.LRP), Index: mv.Index}, row: r.Move(t.now.Add(moveTime), t.now), d: &d}
		t.put = append(t.put, c.claim(t, &p, m, r.Key()))
		t.before = append(t.before, r)
		c.moving[r.Key()] = mv.LRP
		c.tried[r.Key()] = t.now
		c.setFor(alarmLRP, string(mv.LRP), t.now.Add(moveTime))
	}
	t.moves = moves
}

// leavers returns the instances that are being moved away or stopped.
func (c *Core) leavers(tx *state.Tx) []leaver {
	var all []leaver
	add := func(m *Member, guid string) {
		if m != nil {
			if l, ok := m.loads[guid]; ok {
				all = append(all, leaver{&m.view, l})
			}
		}
	}
	for _, key := range sorted(c.moving) {
		if r, ok := rows.Get(tx, key); ok && r.Evacuating != nil {
			add(c.members[r.Evacuating.Cell], r.Evacuating.GUID)
		}
	}
	for _, id := range sorted(c.members) {
		m := c.members[id]
		for _, guid := range sorted(m.works) {
			if m.works[guid].stopping {
				add(m, guid)
			}
		}
	}
	return all
}

// movable returns the instances that run undisturbed on cells that stay.
func (c *Core) movable(tx *state.Tx, changed map[string]bool) []Movable {
	var all []Movable
	specs := map[lrp.ID]cell.Spec{}
	for r := range rows.All(tx) {
		m := c.members[r.Cell]
		if r.State != lrp.Running || r.Suspect != nil || r.Evacuating != nil || m == nil || !m.view.open() || changed[r.Key()] {
			continue
		}
		if k := m.works[r.GUID]; k == nil || k.stopping {
			continue
		}
		spec, ok := specs[r.LRP]
		if !ok {
			d, found := desired.Get(tx, string(r.LRP))
			if !found {
				continue
			}
			spec = d.Work.Spec
			specs[r.LRP] = spec
		}
		all = append(all, Movable{LRP: r.LRP, Index: r.Index, Cell: r.Cell, Spec: spec})
	}
	return all
}

// movingRows finds the moves that an earlier run began.
func movingRows(db *state.DB) map[string]lrp.ID {
	all := map[string]lrp.ID{}
	for r := range rows.All(db.View()) {
		if r.Evacuating != nil && r.Evacuating.Moving {
			all[r.Key()] = r.LRP
		}
	}
	return all
}
