package scheduler

import "fmt"

// Audit compares the accounts with what the cells said last, and looks for what was left behind.
func (s *Scheduler) Audit() (problems []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	spread := 0
	for _, m := range s.members {
		if len(m.loads) != len(m.works) {
			bad("%s: %d loads for %d works", m.id, len(m.loads), len(m.works))
		}
		var memory int64
		for _, l := range m.loads {
			memory += l.memory
		}
		if m.view.Used.Memory != memory || m.view.Used.Containers != len(m.loads) || m.view.Starting != 0 {
			bad("%s: the view says %+v, loads are %d with %d bytes", m.id, m.view, len(m.loads), memory)
		}
		for id, l := range m.loads {
			if k := m.works[id]; l.starting || k == nil {
				bad("%s: load %s is %+v, the work %+v", m.id, id, l, k)
			}
		}
		spread += len(m.loads)
	}
	for _, by := range s.view.spread {
		for _, h := range by.cells {
			spread -= h.n
		}
	}
	if spread != 0 {
		bad("the spread is off by %d", spread)
	}
	for name, n := range map[string]int{"starting": len(s.starting), "refused": len(s.refused), "unplaced": len(s.unplaced), "avoid": len(s.avoid), "tasks": len(s.tasks)} {
		if n != 0 {
			bad("%d %s are left", n, name)
		}
	}
	if len(s.alarms) > 10 {
		bad("%d alarms are set", len(s.alarms))
	}
	return problems
}
