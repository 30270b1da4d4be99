package scheduler

import "github.com/dewpoint-go/dewpoint/cell"

// load counts a work as taking its part of a cell. The caller holds mu.
func (s *Scheduler) load(m *member, w cell.Work, guid string, starting bool) {
	old, ok := m.loads[guid]
	if !ok {
		l := loadOf(w.LRP, w.Spec, starting)
		m.loads[guid] = l
		s.view.take(&m.view, l)
		return
	}
	if old.starting != starting {
		old.starting = starting
		m.loads[guid] = old
		s.view.started(&m.view, starting)
	}
}

// unload takes a work's part back. Unknown: nothing. The caller holds mu.
func (s *Scheduler) unload(m *member, guid string) {
	if l, ok := m.loads[guid]; ok {
		delete(m.loads, guid)
		s.view.give(&m.view, l)
	}
}

// roomier says that more may fit on a cell now. The caller holds mu.
func (s *Scheduler) roomier(id string) {
	for key, by := range s.avoid {
		if delete(by, id); len(by) == 0 {
			delete(s.avoid, key)
		}
	}
	for id := range s.unplaced {
		s.dirty[id] = struct{}{}
	}
	s.wake()
}
