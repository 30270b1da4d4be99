package scheduler

import (
	"slices"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// load counts a work as taking its part of a cell.
func (c *Core) load(m *Member, w *cell.Work, guid string, starting bool) {
	old, ok := m.loads[guid]
	if !ok {
		l := loadOf(w.LRP, w.Spec, starting)
		m.loads[guid] = l
		c.view.take(&m.view, l)
		return
	}
	if old.starting != starting {
		old.starting = starting
		m.loads[guid] = old
		c.view.started(&m.view, starting)
		c.freed()
	}
}

// unload takes a work's part back. Unknown: nothing.
func (c *Core) unload(m *Member, guid string) {
	if l, ok := m.loads[guid]; ok {
		delete(m.loads, guid)
		c.view.give(&m.view, l)
		if l.starting {
			c.freed()
		}
	}
}

// freed has those looked at that the starting limit held up.
func (c *Core) freed() {
	if c.limit <= 0 {
		return
	}
	free := c.limit - c.view.starting
	for _, id := range sorted(c.limited) {
		if free--; free < 0 {
			return
		}
		c.dirty[id] = struct{}{}
	}
	c.retryTasks()
}

// manyUnplaced is from where on what has no place is not tried again at every change.
const manyUnplaced = 1000

// roomier says that more may fit on a cell now.
func (c *Core) roomier(id string, now time.Time) {
	for key, by := range c.avoid {
		if delete(by, id); len(by) == 0 {
			delete(c.avoid, key)
		}
	}
	if len(c.unplaced) > manyUnplaced {
		if at, ok := c.looks["room"]; !ok || !at.After(now) {
			c.looks["room"] = now.Add(250 * time.Millisecond)
			c.set(alarm{at: c.looks["room"], kind: alarmRoom})
		}
		return
	}
	c.retryUnplaced()
}

func (c *Core) retryUnplaced() {
	for id := range c.unplaced {
		c.dirty[id] = struct{}{}
	}
	c.retryTasks()
}

func (c *Core) retryTasks() {
	for id := range c.waiting {
		c.dirtyT[id] = struct{}{}
	}
	for id, a := range c.attended {
		if a.on == nil && !a.over {
			c.dirtyA[id] = struct{}{}
		}
	}
}

// fitKey is all of a Want that Spread's rules look at, if no cell is avoided. In one Step cells
// only fill up, so what had no place has none a moment later.
type fitKey struct {
	memory, disk                  int64
	stack, image, isolation, tags string
}

// choose asks the Policy.
func (c *Core) choose(w Want) (*Member, error) {
	if c.limit > 0 && c.view.starting >= c.limit {
		return nil, &PlacementError{Text: textInFlight, limited: true}
	}
	_, alike := c.policy.(Spread)
	if alike = alike && len(w.Avoid) == 0; alike {
		if err, ok := c.memo[keyOf(w.Spec)]; ok {
			return nil, err
		}
	}
	id, err := c.policy.Place(w, &c.view)
	if err != nil {
		if p, ok := err.(*PlacementError); ok && alike { //nolint:errorlint // Spread's, which wraps none
			if c.memo == nil {
				c.memo = map[fitKey]*PlacementError{}
			}
			c.memo[keyOf(w.Spec)] = p
		}
		return nil, err
	}
	m := c.members[id]
	if m == nil {
		return nil, &PlacementError{Text: "the policy chose the cell " + id + ", which is unknown"}
	}
	return m, nil
}

func keyOf(s cell.Spec) fitKey {
	return fitKey{s.Memory, s.Disk, s.Stack, s.Image, s.Isolation, strings.Join(s.Tags, "\x00")}
}

// refusing returns the cells that a work must not be sent to, and why.
func (c *Core) refusing(key string, now time.Time) map[string]string {
	by := c.avoid[key]
	if len(by) == 0 {
		return nil
	}
	no := map[string]string{}
	for id, a := range by {
		if a.until.After(now) {
			no[id] = a.reason
		}
	}
	return no
}

// redrain reads anew which cells operators drain.
func (c *Core) redrain() {
	c.drained = drainedCells(c.db)
	for _, id := range sorted(c.members) {
		m := c.members[id]
		m.drainedBy(c, c.drained[id])
	}
}

// touchCell has every process and task looked at that has something on a cell.
func (c *Core) touchCell(id string) {
	v := c.db.View()
	for r := range rows.By(v, "cell", id) {
		c.dirty[r.LRP] = struct{}{}
	}
	for t := range tasks.By(v, "cell", id) {
		c.dirtyT[t.ID] = struct{}{}
	}
	for id, a := range c.attended {
		if a.on != nil {
			c.dirtyA[id] = struct{}{}
		}
	}
}

// presence is what Reconcile asks for.
func (c *Core) presence(id string) lrp.Presence {
	m := c.members[id]
	switch {
	case m == nil && !c.removed[id] && c.now.Before(c.strangers):
		// A cell that was there before a restart may yet be added: it has as long as one that is silent.
		if !c.awaited {
			c.awaited = true
			c.set(alarm{at: c.strangers, kind: alarmAll})
		}
		return lrp.Unknown
	case m == nil && c.phase != listening, m != nil && m.lost:
		return lrp.Lost
	case m == nil || !m.synced:
		return lrp.Unknown
	case m.view.Draining:
		return lrp.Draining
	}
	return lrp.Present
}

// starts tells whether a phase is one before a work runs.
func starts(p cell.Phase) bool {
	return slices.Contains([]cell.Phase{cell.PhaseAccepted, cell.PhaseCreating, cell.PhaseStarting}, p)
}
