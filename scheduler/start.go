package scheduler

import (
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// starter is a work that was claimed and that its cell has not confirmed yet.
type starter struct {
	m      *Member
	work   cell.Work
	key    string // by which cells that refuse are avoided
	flying bool   // Start is under way
	gone   bool   // the cell has said meanwhile that the work is gone
	pause  time.Duration
}

// Outcome is the answer to a Start.
type Outcome int

// The outcomes of a Start.
const (
	Accepted Outcome = iota
	Refused          // the cell does not have it, and said why
	Unknown          // the cell may have it
)

const (
	firstPause = 500 * time.Millisecond // before a Start with an unknown answer is repeated; doubles
	longPause  = 16 * time.Second
	// retryPlacement is how long what has no place waits if nothing changes.
	retryPlacement = 30 * time.Second
	retryStop      = time.Second
	// lateStart is for how long a Start without an answer may still arrive. A task that has ended
	// is not forgotten by its cell before, or else it would be done a second time.
	lateStart = 30 * time.Second
)

func (c *Core) send(s *starter) {
	s.flying = true
	c.do(Effect{Op: OpStart, On: s.m, ID: s.work.ID, Work: s.work})
}

// resend sends a work again whose Start had no certain answer, if it is still wanted there.
func (c *Core) resend(guid string) {
	s := c.starting[guid]
	switch {
	case s == nil || s.flying:
	case s.m.lost || !c.holds(s.m.id, guid, lrp.ID(s.work.LRP), s.work.Index):
		c.giveUp(s)
	default:
		c.send(s)
	}
}

// giveUp lets go of a work that its cell may have.
func (c *Core) giveUp(s *starter) {
	id := s.work.ID
	delete(c.starting, id)
	if s.m.works[id] == nil {
		c.unload(s.m, id)
	}
	c.touchWork(lrp.ID(s.work.LRP), id)
	c.dismiss(s.m, id) // it may have been done
}

// Started tells the answer of a cell to an OpStart. why says why it refused.
func (c *Core) Started(m *Member, guid string, o Outcome, why string, now time.Time) {
	s := c.starting[guid]
	if s == nil || s.m != m || !s.flying {
		return
	}
	s.flying = false
	_, known := m.works[guid]
	switch {
	case o == Accepted || known || s.gone:
		c.taken(s, now)
	case o == Refused:
		delete(c.starting, guid)
		c.unload(m, guid)
		c.touchWork(lrp.ID(s.work.LRP), guid)
		c.refuse(s, why, now)
	case m.lost || !c.holds(m.id, guid, lrp.ID(s.work.LRP), s.work.Index):
		c.giveUp(s)
	default:
		s.pause = min(max(firstPause, 2*s.pause), longPause)
		c.log.Warn("whether a cell took a work is unknown; it is asked again", "cell", m.id, "work", guid)
		c.set(alarm{at: now.Add(s.pause), kind: alarmStart, id: guid})
	}
}

func (c *Core) refuse(s *starter, why string, now time.Time) {
	guid := s.work.ID
	if !c.holds(s.m.id, guid, lrp.ID(s.work.LRP), s.work.Index) {
		return
	}
	c.refused[guid] = why
	if c.avoid[s.key] == nil {
		c.avoid[s.key] = map[string]avoidance{}
	}
	c.avoid[s.key][s.m.id] = avoidance{why, now.Add(retryPlacement)}
}

// taken notes that a cell has, or had, a work. If Watch never tells of it, the work was gone
// before the Watch began, and a new one shows that.
func (c *Core) taken(s *starter, now time.Time) {
	id, m := s.work.ID, s.m
	gone := s.gone
	delete(c.starting, id)
	switch {
	case m.away, gone:
		if m.works[id] == nil {
			c.unload(m, id)
		}
		c.dismiss(m, id)
	case m.works[id] == nil: // Watch has not told yet
		c.saw(m, cell.Status{ID: id, Work: &s.work, Phase: cell.PhaseAccepted, Since: now}, now)
		m.works[id].untold = true
		c.set(alarm{at: now.Add(c.lostAfter), kind: alarmCheck, check: check{m, id}})
	}
	if k := m.works[id]; k != nil && s.pause > 0 && k.lrp == "" {
		k.keep = now.Add(lateStart)
	}
	c.checks.add(check{m, id})
	c.touchWork(lrp.ID(s.work.LRP), id)
}

// dismiss stops a work on a cell that was removed: nobody watches it any more, so the one rule
// does not reach there.
func (c *Core) dismiss(m *Member, id string) {
	if m.away {
		c.do(Effect{Op: OpStop, On: m, ID: id, Away: true})
	}
}

// check names a work that may have become unwanted.
type check struct {
	m    *Member
	guid string
}

// checkList is a set in order of arrival.
type checkList struct {
	list []check
	in   map[check]struct{}
}

func (l *checkList) add(c check) {
	if _, ok := l.in[c]; ok {
		return
	}
	if l.in == nil {
		l.in = map[check]struct{}{}
	}
	l.in[c] = struct{}{}
	l.list = append(l.list, c)
}

func (l *checkList) take() []check {
	list := l.list
	l.list = nil
	clear(l.in)
	return list
}

// tidy stops works that nobody wants: the one rule that cleans up.
func (c *Core) tidy(now time.Time) {
	for _, x := range c.checks.take() {
		if s := c.starting[x.guid]; s != nil && s.m == x.m {
			if !s.flying && !c.holds(x.m.id, x.guid, lrp.ID(s.work.LRP), s.work.Index) {
				c.giveUp(s)
			}
			if c.starting[x.guid] != nil {
				continue
			}
		}
		k := x.m.works[x.guid]
		if k == nil || x.m.away {
			continue
		}
		if k.untold && now.Sub(k.status.Since) >= c.lostAfter {
			c.do(Effect{Op: OpWatch, On: x.m})
		}
		if k.stopping || c.holds(x.m.id, x.guid, k.lrp, k.index) {
			continue
		}
		if k.status.Phase == cell.PhaseDone && k.reading {
			continue // its last lines come first; then it is checked again
		}
		if k.status.Phase == cell.PhaseDone && k.keep.After(now) {
			c.set(alarm{at: k.keep, kind: alarmCheck, check: x})
			continue
		}
		k.stopping = true
		c.do(Effect{Op: OpStop, On: x.m, ID: x.guid})
	}
}

// Stopped tells the answer of a cell to an OpStop; ok: it was taken. The end comes by Event.
func (c *Core) Stopped(m *Member, guid string, ok bool, now time.Time) {
	k := m.works[guid]
	if ok || k == nil {
		return
	}
	c.log.Warn("a work that nobody wants could not be stopped; it is tried again", "cell", m.id, "work", guid)
	k.stopping = false
	c.set(alarm{at: now.Add(retryStop), kind: alarmCheck, check: check{m, guid}})
}

// holds tells whether somebody wants the work where it is.
func (c *Core) holds(cellID, guid string, id lrp.ID, index int) bool {
	v := c.db.View()
	if id != "" {
		r, ok := rows.Get(v, lrp.RowKey(id, index))
		return ok && r.Holds(cellID, guid)
	}
	if a := c.attended[guid]; a != nil && !a.left {
		return a.on != nil && a.on.id == cellID
	}
	for t := range tasks.By(v, "guid", guid) {
		return t.Cell == cellID && t.State != TaskCompleted
	}
	return false
}
