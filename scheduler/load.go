package scheduler

import "github.com/dewpoint-go/dewpoint/cell"

// load is what a work takes of a cell.
type load struct {
	memory, disk int64
	lrp          string
	starting     bool
}

// load counts a work as taking its part of a cell. The caller holds mu.
func (s *Scheduler) load(m *member, w cell.Work, guid string, starting bool) {
	old, ok := m.loads[guid]
	if ok {
		if old.starting && !starting {
			m.view.Starting--
		} else if !old.starting && starting {
			m.view.Starting++
		}
		old.starting = starting
		m.loads[guid] = old
		return
	}
	l := load{memory: w.Spec.Memory, disk: w.Spec.Disk, lrp: w.LRP, starting: starting}
	m.loads[guid] = l
	m.view.Used.Memory += l.memory
	m.view.Used.Disk += l.disk
	m.view.Used.Containers++
	if starting {
		m.view.Starting++
	}
	if l.lrp == "" {
		m.view.Tasks++
		return
	}
	if s.view.spread[l.lrp] == nil {
		s.view.spread[l.lrp] = map[string]int{}
	}
	s.view.spread[l.lrp][m.id]++
}

// unload takes a work's part back. Unknown: nothing. The caller holds mu.
func (s *Scheduler) unload(m *member, guid string) {
	l, ok := m.loads[guid]
	if !ok {
		return
	}
	delete(m.loads, guid)
	m.view.Used.Memory -= l.memory
	m.view.Used.Disk -= l.disk
	m.view.Used.Containers--
	if l.starting {
		m.view.Starting--
	}
	if l.lrp == "" {
		m.view.Tasks--
		return
	}
	if n := s.view.spread[l.lrp]; n[m.id] > 1 {
		n[m.id]--
	} else if delete(n, m.id); len(n) == 0 {
		delete(s.view.spread, l.lrp)
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
