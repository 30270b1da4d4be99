package sim

import (
	"slices"
	"sort"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// machine is a simulated cell.
type machine struct {
	w        *world
	id, zone string
	stacks   []string
	tags     []string
	optional []string
	memory   int64
	squeezed int64 // memory that is not there for a while
	slots    int

	works    map[string]*work
	up       bool
	parted   bool // nothing comes through
	mute     bool // it answers, but its Watch hangs
	retiring bool // it says that it is draining
	link     *link
	calm     time.Time // since when nothing disturbed what goes between it and the platform
	starts   int
	stops    int
	changes  uint64 // as State counts them
}

type work struct {
	status cell.Status
	w      cell.Work
	born   int // tells it from another one of the same id
}

func (w *work) live() bool {
	return w.status.Phase != cell.PhaseDone && w.status.Phase != cell.PhaseStopping
}

func (m *machine) reachable() bool { return m.up && !m.parted }

func (m *machine) total() cell.Resources {
	return cell.Resources{Memory: m.memory - m.squeezed, Containers: m.slots, Stacks: m.stacks, Isolation: "memory"}
}

func (m *machine) state() cell.State {
	return cell.State{ID: m.id, Zone: m.zone, Tags: m.tags, OptionalTags: m.optional, Total: m.total(), Draining: m.retiring, Changes: m.changes + 1}
}

func (m *machine) used() (memory int64, n int) {
	for _, x := range m.works {
		if x.status.Phase != cell.PhaseDone {
			memory += x.w.Spec.Memory
			n++
		}
	}
	return memory, n
}

// ids returns the works in order.
func (m *machine) ids() []string {
	ids := make([]string, 0, len(m.works))
	for id := range m.works {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// start is the cell's Start; refused says why not.
func (m *machine) start(w cell.Work) (refused string) {
	m.starts++
	if m.works[w.ID] != nil {
		return ""
	}
	memory, n := m.used()
	switch {
	case m.retiring:
		return "the cell is draining"
	case memory+w.Spec.Memory > m.memory-m.squeezed:
		return "insufficient resources: memory"
	case n >= m.slots:
		return "insufficient resources: containers"
	case m.w.chaos && m.w.oneIn(40):
		return "no"
	}
	m.w.note("%s takes %s", m.id, w.ID)
	x := &work{w: w, status: cell.Status{ID: w.ID, Work: &w, Phase: cell.PhaseAccepted, Since: m.w.now}, born: m.w.ids}
	m.works[w.ID] = x
	m.emit(x)
	m.w.checkAllowed(m, &w)
	slow := m.w.between(5*time.Millisecond, 800*time.Millisecond)
	if m.w.chaos && m.w.oneIn(12) {
		slow = m.w.between(time.Second, 50*time.Second)
	}
	m.later(slow, w.ID, x, func() { m.runs(x) })
	return ""
}

// later does something with a work if it is still there, and as it was.
func (m *machine) later(d time.Duration, id string, x *work, fn func()) {
	m.w.after(d, func() {
		if m.up && m.works[id] == x && x.live() {
			fn()
		}
	})
}

// runs is the moment in which the process of a work begins.
func (m *machine) runs(x *work) {
	w := m.w
	x.status.Phase, x.status.Since = cell.PhaseRunning, w.now
	x.status.Addresses = []cell.Address{{Port: 8080, Host: m.id + ":" + x.w.ID}}
	w.note("%s runs %s", m.id, x.w.ID)
	w.watch.ran(w, m, &x.w)
	m.emit(x)
	if x.w.LRP == "" {
		m.later(w.between(time.Second, 40*time.Second), x.w.ID, x, func() { m.finish(x, w.rng.IntN(2)) })
	} else if w.now.Before(w.users.sick[x.w.LRP]) {
		m.later(w.between(10*time.Millisecond, 20*time.Second), x.w.ID, x, func() { m.finish(x, 1) })
	}
}

func (m *machine) finish(x *work, code int) {
	x.status.Phase, x.status.Since = cell.PhaseDone, m.w.now
	x.status.Exit = &cell.Exit{Code: code, Time: m.w.now}
	if code != 0 || x.w.LRP != "" {
		x.status.Reason = cell.ReasonExit
	}
	m.w.watch.exits[x.w.ID] = code
	m.w.note("%s: %s exits %d", m.id, x.w.ID, code)
	m.emit(x)
}

// stop is the cell's Stop.
func (m *machine) stop(id string) {
	m.stops++
	x := m.works[id]
	switch {
	case x == nil || x.status.Phase == cell.PhaseStopping:
	case x.status.Phase == cell.PhaseDone:
		m.forget(id)
	default:
		x.status.Phase, x.status.Since = cell.PhaseStopping, m.w.now
		m.emit(x)
		m.w.after(m.w.between(time.Millisecond, 3*time.Second), func() {
			if m.up && m.works[id] == x {
				m.forget(id)
			}
		})
	}
}

// forget removes a work and tells so.
func (m *machine) forget(id string) {
	delete(m.works, id)
	m.w.note("%s forgets %s", m.id, id)
	m.tell(cell.Event{Status: cell.Status{ID: id, Phase: cell.PhaseDone}, Gone: true})
}

func (m *machine) emit(x *work) { m.tell(cell.Event{Status: x.status}) }

func (m *machine) tell(e cell.Event) {
	m.changes++
	if e.Changes = m.changes + 1; m.link != nil {
		m.link.push(e)
	}
}

// all returns what a Watch begins with.
func (m *machine) all() []cell.Event {
	var events []cell.Event
	for _, id := range m.ids() {
		events = append(events, cell.Event{Status: m.works[id].status})
	}
	return append(events, cell.Event{Synced: true, Changes: m.changes + 1})
}

// The faults of a cell.

func (m *machine) partition(d time.Duration) {
	if m.parted || !m.up {
		return
	}
	m.w.note("%s is cut off for %v", m.id, d)
	m.parted = true
	m.w.after(d, m.join)
}

func (m *machine) join() {
	if !m.parted {
		return
	}
	m.parted, m.calm = false, m.w.now
	m.w.note("%s can be reached again", m.id)
	if m.link != nil {
		m.link.resume(m.w.oneIn(2))
	}
}

// hush has the Watch hang while all else is answered.
func (m *machine) hush(d time.Duration) {
	if m.mute {
		return
	}
	m.w.note("%s does not tell for %v", m.id, d)
	m.mute = true
	m.breakStream()
	m.w.after(d, func() { m.mute = false })
}

// stick has the Watch that is open tell nothing any more.
func (m *machine) stick() {
	if l := m.link; l != nil && l.open {
		m.w.note("the Watch of %s is stuck", m.id)
		l.stuck = true
	}
}

// reboot loses all works.
func (m *machine) reboot(d time.Duration) {
	if !m.up {
		return
	}
	m.w.note("%s is lost with %d works", m.id, len(m.works))
	m.up = false
	clear(m.works)
	m.w.after(d, m.boot)
}

func (m *machine) boot() {
	if m.up {
		return
	}
	m.up, m.calm = true, m.w.now
	m.w.note("%s is back, empty", m.id)
	if m.link != nil {
		m.link.resume(false)
	}
}

func (m *machine) breakStream() {
	if m.link != nil {
		m.calm = m.w.now
		m.link.cut()
	}
}

func (m *machine) pick(ok func(*work) bool) *work {
	ids := slices.DeleteFunc(m.ids(), func(id string) bool { return !ok(m.works[id]) })
	if len(ids) == 0 || !m.up {
		return nil
	}
	return m.works[ids[m.w.rng.IntN(len(ids))]]
}

func (m *machine) crashOne() {
	if x := m.pick(func(x *work) bool { return x.live() && x.w.LRP != "" }); x != nil {
		m.finish(x, m.w.rng.IntN(2))
		if m.w.oneIn(2) { // and it does so again and again
			m.w.users.sick[x.w.LRP] = m.w.now.Add(m.w.between(0, 2*time.Minute))
		}
	}
}

func (m *machine) loseOne() {
	if x := m.pick(func(x *work) bool { return x.live() }); x != nil {
		m.w.watch.excused[x.w.ID] = true
		m.forget(x.w.ID)
	}
}

func (m *machine) squeeze(d time.Duration) {
	m.squeezed = m.memory * 3 / 4
	m.w.note("%s has less memory", m.id)
	m.w.after(d, func() { m.squeezed = 0 })
}

func (m *machine) retire(d time.Duration) {
	m.retiring = true
	m.w.note("%s is draining", m.id)
	m.w.after(d, func() { m.retiring = false })
}

func (m *machine) heal() {
	m.squeezed, m.retiring, m.mute = 0, false, false
	m.boot()
	m.join()
}
