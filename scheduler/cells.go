package scheduler

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// member is a cell with what is known of it. The Scheduler's mu guards all fields but cell.
type member struct {
	cell   cell.Cell
	id     string // "" until it answered for the first time
	view   CellView
	works  map[string]*known
	loads  map[string]load
	epoch  uint64 // counts the Watches; a work that was not seen in the newest is gone
	synced bool
	lost   bool
	away   bool      // RemoveCell was called
	heard  time.Time // of the last answer
	stop   context.CancelFunc
	// rewatch ends the Watch that is under way.
	rewatch context.CancelFunc
}

// known is a work on a cell.
type known struct {
	status   cell.Status
	epoch    uint64
	untold   bool          // only Start's answer says that it is there, Watch has not
	stopping bool          // Stop was called
	tail     chan struct{} // closed when its last line was read; nil: nobody reads
	done     chan struct{} // closed when it has ended
}

// AddCell adds a cell; it is served while Run runs. Of two cells with one id the one
// that answers later is left out, with an error in the log.
func (s *Scheduler) AddCell(c cell.Cell) error {
	if c == nil {
		return errors.New("scheduler: AddCell: the cell is nil")
	}
	m := &member{cell: c, works: map[string]*known{}, loads: map[string]load{}, heard: s.now()}
	s.mu.Lock()
	s.joining = append(s.joining, m)
	s.unknown = append(s.unknown, m)
	s.mu.Unlock()
	s.wake()
	return nil
}

// RemoveCell forgets a cell. Its instances are placed elsewhere at once and, as far as it
// answers, stopped there; tasks on it fail as lost. Unknown: nil.
func (s *Scheduler) RemoveCell(id string) error {
	s.mu.Lock()
	m := s.members[id]
	if m != nil {
		m.away, m.lost, m.synced = true, true, false
		s.removed[id] = true
		delete(s.members, id)
		for guid := range m.loads {
			s.unload(m, guid)
		}
		for _, k := range m.works {
			k.end() // as far as we know; who reads its lines comes to an end
		}
		s.view.leave(&m.view)
		s.touchCell(id)
		s.loseTasks(m)
		if m.stop != nil {
			m.stop()
		}
	}
	s.mu.Unlock()
	s.wake()
	return nil
}

// launch starts serving the cells that joined.
func (s *Scheduler) launch(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.joining {
		mctx, stop := context.WithCancel(ctx)
		m.stop, m.heard = stop, s.now()
		s.wg.Go(func() { s.serve(mctx, ctx, m) })
	}
	s.joining = nil
}

// serve is the pump of one cell: it beats and watches until ctx ends.
func (s *Scheduler) serve(ctx, run context.Context, m *member) {
	defer m.stop()
	beat := make(chan struct{})
	go func() { defer close(beat); s.beat(ctx, m) }()
	for pause := 50 * time.Millisecond; ctx.Err() == nil; {
		wctx, cancel := context.WithCancel(ctx)
		s.mu.Lock()
		id := m.id
		m.rewatch = cancel
		m.epoch++
		s.mu.Unlock()
		if id != "" {
			for e, err := range m.cell.Watch(wctx) {
				if err != nil {
					s.log.Warn("watching a cell failed; it is tried again", "cell", id, "error", err)
					break
				}
				s.observe(ctx, m, e)
				if e.Synced {
					pause = 50 * time.Millisecond
				}
			}
			s.mu.Lock()
			m.synced = false
			s.mu.Unlock()
		}
		cancel()
		sleep(ctx, pause)
		pause = min(2*pause, time.Second)
	}
	<-beat
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dismiss(run, m, slices.Collect(maps.Keys(m.works))...)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// beat asks the cell for its State again and again, to learn what it is and whether it answers.
func (s *Scheduler) beat(ctx context.Context, m *member) {
	period := s.lostAfter / 3
	for ctx.Err() == nil {
		bctx, cancel := context.WithTimeout(ctx, period)
		st, err := m.cell.State(bctx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		wait := period
		if err != nil {
			s.missed(m)
			// What is down may be up soon, and a call that hung has waited long enough.
			wait = period / 8
		} else if !s.answered(m, st) {
			return
		}
		sleep(ctx, wait)
	}
}

// answered notes what a cell says of itself; false: it is not to be served.
func (s *Scheduler) answered(m *member, st cell.State) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.heard = s.now()
	if m.id == "" {
		if st.ID == "" || s.members[st.ID] != nil {
			s.log.Error("a cell is left out: it has no id, or that of another cell", "cell", st.ID)
			s.unknown = slices.DeleteFunc(s.unknown, func(x *member) bool { return x == m })
			m.stop()
			s.wake()
			return false
		}
		s.join(m, st.ID)
	}
	if m.id != st.ID {
		s.log.Error("a cell changed its id; it counts as silent", "cell", m.id, "says", st.ID)
		s.view.reachable(&m.view, false)
		return true
	}
	m.lost = false
	before := m.view
	s.view.describe(&m.view, st.Zone, st.Tags, st.OptionalTags, st.Total, st.Draining, m.synced)
	if m.view.Reachable && !before.Reachable || before.Draining && !st.Draining ||
		st.Total.Memory > before.Total.Memory || st.Total.Disk > before.Total.Disk || st.Total.Containers > before.Total.Containers {
		s.roomier(m.id)
	}
	return true
}

// join makes a cell that has told its id one of ours. The caller holds mu.
func (s *Scheduler) join(m *member, id string) {
	m.id, m.view.ID = id, id
	s.members[id] = m
	delete(s.removed, id)
	s.unknown = slices.DeleteFunc(s.unknown, func(x *member) bool { return x == m })
	s.view.join(&m.view)
	if m.rewatch != nil {
		m.rewatch()
	}
}

// missed notes that a cell did not answer.
func (s *Scheduler) missed(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.id != "" {
		s.view.reachable(&m.view, false)
	}
	if m.lost || s.now().Sub(m.heard) < s.lostAfter {
		return
	}
	m.lost, m.synced = true, false
	s.log.Warn("a cell is lost; its instances are replaced", "cell", m.id, "silent", s.now().Sub(m.heard))
	s.touchCell(m.id)
	s.loseTasks(m)
	if m.rewatch != nil {
		m.rewatch()
	}
	s.wake()
}

// presence is what Reconcile asks for. The caller holds mu.
func (s *Scheduler) presence(id string) lrp.Presence {
	m := s.members[id]
	switch {
	case m == nil && s.isReady, m != nil && m.lost:
		return lrp.Lost
	case m == nil || !m.synced:
		return lrp.Unknown
	case m.view.Draining:
		return lrp.Draining
	}
	return lrp.Present
}

// touchCell has the loop look at every process with an instance on a cell. The caller holds mu.
func (s *Scheduler) touchCell(id string) {
	for r := range rows.By(s.db.View(), "cell", id) {
		s.dirty[r.LRP] = struct{}{}
	}
}

// observe takes in one event of a cell.
func (s *Scheduler) observe(ctx context.Context, m *member, e cell.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.away {
		return
	}
	m.heard = s.now()
	id := e.Status.ID
	switch {
	case e.Synced:
		s.synced(m)
	case e.Gone:
		if st := s.starting[id]; st != nil {
			st.gone = true
		}
		s.gone(m, id)
	case id != "":
		s.saw(ctx, m, e.Status)
	}
	s.wake()
}

func (s *Scheduler) synced(m *member) {
	for id, k := range m.works {
		if k.epoch < m.epoch {
			s.gone(m, id)
			continue
		}
		k.stopping = false // a Stop may have been lost with the connection
		s.checks[check{m, id}] = struct{}{}
	}
	m.synced, m.lost = true, false
	s.view.reachable(&m.view, true)
	s.touchCell(m.id)
	s.roomier(m.id)
	for id, t := range s.tasks {
		if _, on := m.works[id]; t.on == m && !on && s.starting[id] == nil {
			t.lose()
		}
	}
}

// gone forgets a work. The caller holds mu.
func (s *Scheduler) gone(m *member, id string) {
	s.unload(m, id)
	k := m.works[id]
	if k == nil {
		return
	}
	if st := s.starting[id]; st != nil {
		st.gone = true // it had arrived
	}
	delete(m.works, id)
	k.end()
	s.dirtyWork(k.status.Work)
	if t := s.tasks[id]; t != nil && t.on == m {
		t.lose()
	}
	s.roomier(m.id)
}

func (s *Scheduler) dirtyWork(w *cell.Work) {
	if w != nil && w.LRP != "" {
		s.dirty[lrp.ID(w.LRP)] = struct{}{}
	}
}

// saw takes in the status of a work. The caller holds mu.
func (s *Scheduler) saw(ctx context.Context, m *member, st cell.Status) {
	k := m.works[st.ID]
	if k == nil {
		k = &known{done: make(chan struct{})}
		m.works[st.ID] = k
	} else if st.Work == nil {
		st.Work = k.status.Work
	}
	ended := st.Phase == cell.PhaseDone && k.status.Phase != cell.PhaseDone
	k.status, k.epoch, k.untold = st, m.epoch, false
	s.checks[check{m, st.ID}] = struct{}{}
	s.dirtyWork(st.Work)
	if st.Work != nil && st.Phase != cell.PhaseDone {
		s.load(m, *st.Work, st.ID, slices.Contains([]cell.Phase{cell.PhaseAccepted, cell.PhaseCreating, cell.PhaseStarting}, st.Phase))
	}
	if t := s.tasks[st.ID]; t != nil && t.on == m {
		t.tell(st)
	}
	s.tail(ctx, m, k)
	if ended {
		k.end()
		s.unload(m, st.ID)
		s.roomier(m.id)
	}
}

// accept notes the answer of Start: a work is on the cell, though Watch has not told yet. If it never
// does, the work was gone before the Watch began, and a new one shows that. The caller
// holds mu.
func (s *Scheduler) accept(ctx context.Context, m *member, w *cell.Work) {
	s.saw(ctx, m, cell.Status{ID: w.ID, Work: w, Phase: cell.PhaseAccepted, Since: s.now()})
	m.works[w.ID].untold = true
	s.set(alarm{at: s.now().Add(s.lostAfter), check: check{m, w.ID}})
}

func (k *known) end() {
	select {
	case <-k.done:
	default:
		close(k.done)
	}
}
