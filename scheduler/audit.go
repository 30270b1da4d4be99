package scheduler

import "fmt"

// Audit compares the Core's accounts with what the cells said last, and looks for what was left
// behind. It is for simulations and tests, at a moment when nothing is under way; none: all is well.
func (c *Core) Audit() (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	spread := 0
	for _, id := range sorted(c.members) {
		m := c.members[id]
		ended := 0
		for _, k := range m.works {
			if k.ended {
				ended++
			}
		}
		if len(m.loads) != len(m.works)-ended {
			bad("%s: %d loads for %d works", m.id, len(m.loads), len(m.works)-ended)
		}
		var memory int64
		for guid, l := range m.loads {
			memory += l.memory
			if l.starting || m.works[guid] == nil {
				bad("%s: load %s is %+v, though nothing is under way", m.id, guid, l)
			}
			if l.lrp != "" {
				spread++
			}
		}
		if m.view.Used.Memory != memory || m.view.Used.Containers != len(m.loads) || m.view.Starting != 0 {
			bad("%s: the view says %+v, loads are %d with %d bytes", m.id, m.view.Used, len(m.loads), memory)
		}
	}
	for _, by := range c.view.spread {
		for _, h := range by.cells {
			spread -= h.n
		}
	}
	if spread != 0 {
		bad("the spread is off by %d", spread)
	}
	for _, left := range []struct {
		what string
		n    int
	}{{"starting", len(c.starting)}, {"refused", len(c.refused)}, {"unplaced", len(c.unplaced)}, {"waiting", len(c.waiting)},
		{"limited", len(c.limited)}, {"avoid", len(c.avoid)}, {"attended", len(c.attended)}, {"moving", len(c.moving)}, {"outcomes", len(c.outcomes)}, {"checks", len(c.checks.list)},
		{"rows to release", len(c.before)}, {"processes to look at", len(c.dirty)}, {"tasks to look at", len(c.dirtyT) + len(c.dirtyA)}} {
		if left.n != 0 {
			bad("%d %s are left", left.n, left.what)
		}
	}
	return problems
}
