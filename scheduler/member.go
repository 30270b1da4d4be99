package scheduler

import (
	"fmt"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// Member is a cell as a Core knows it.
type Member struct {
	// Handle is whatever its user reaches the cell by. The Core does not look at it.
	Handle any

	id      string // "" until it answered for the first time
	view    CellView
	works   map[string]*known
	loads   map[string]load
	epoch   uint64 // counts the Watches; a work that was not seen in the newest is gone
	synced  bool
	lost    bool
	misses  int  // calls in a row that were not answered
	retires bool // it says of itself that it is draining
	away    bool // Remove was called, or it is left out
	heard   time.Time
	mute    time.Time // since when it has not told what it runs; zero: it has
	told    uint64    // the changes that its Watch has told, as it counts them
	owed    uint64    // more, which it has counted since; 0: none
	owes    time.Time // since when; for a cell that does not count, when it told something last
	why     string    // it is not reachable
}

// known is a work on a cell.
type known struct {
	status   cell.Status // without the work, but for an attended task
	lrp      lrp.ID      // "": a task
	index    int
	source   string // of its log tag
	epoch    uint64
	untold   bool // only Start's answer says that it is there, Watch has not
	stopping bool // Stop was called
	reading  bool // its lines are being read
	read     bool // to the last one
	ended    bool
	round    int       // of the walk that came by it last
	keep     time.Time // not to be forgotten before
}

// avoidance says why a cell is not asked again for a work, and until when.
type avoidance struct {
	reason string
	until  time.Time
}

// Add adds a cell. It belongs to the Core from now on.
func (c *Core) Add(m *Member, now time.Time) {
	m.works, m.loads, m.heard, m.why = map[string]*known{}, map[string]load{}, now, "it has not answered yet"
	c.unnamed = append(c.unnamed, m)
}

// Remove forgets a cell. Its instances are placed elsewhere at once and, as far as it answers,
// stopped there; tasks on it fail as lost. Unknown: nothing.
func (c *Core) Remove(id string) {
	m := c.members[id]
	if m == nil {
		return
	}
	c.touchCell(id)
	m.away, m.lost, m.synced = true, true, false
	c.removed[id] = true
	delete(c.members, id)
	for _, guid := range sorted(m.loads) {
		c.unload(m, guid)
	}
	for _, guid := range sorted(m.works) {
		c.end(m, guid, m.works[guid]) // as far as we know; who reads its lines comes to an end
		c.dismiss(m, guid)
	}
	for _, guid := range sorted(c.starting) {
		if s := c.starting[guid]; s.m == m && !s.flying {
			c.giveUp(s)
		}
	}
	c.view.leave(&m.view)
	c.loseAttended(m)
	c.do(Effect{Op: OpLeave, On: m})
}

func (c *Core) do(e Effect) { c.out = append(c.out, e) }

// Answered tells what a cell says of itself. Of two cells with one id the one that answers later
// is left out.
func (c *Core) Answered(m *Member, st cell.State, now time.Time) {
	if m.away {
		return
	}
	m.heard, m.misses = now, 0
	if m.id == "" && !c.name(m, st.ID) {
		return
	}
	if m.id != st.ID {
		c.log.Error("a cell changed its id; it counts as silent", "cell", m.id, "says", st.ID)
		m.why = fmt.Sprintf("it says that its id is %q", st.ID)
		c.view.reachable(&m.view, false)
		return
	}
	m.lost = m.lost && !m.synced
	c.unstick(m, st.Changes, now)
	c.listen(m, now)
	before := m.view
	m.retires = st.Draining
	drain := st.Draining || c.drained[m.id]
	c.view.describe(&m.view, st.Zone, st.Tags, st.OptionalTags, st.Total, drain, m.synced)
	if before.Draining != drain {
		c.touchCell(m.id)
	}
	if m.view.Reachable && !before.Reachable || before.Draining && !drain ||
		st.Total.Memory > before.Total.Memory || st.Total.Disk > before.Total.Disk || st.Total.Containers > before.Total.Containers {
		c.roomier(m.id, now)
		c.balancing = c.maxMoves > 0
	}
}

// recheck is after how many times LostAfter a Watch is begun anew of a cell that does not count
// its changes, and tells none: it cannot be known to be stuck.
const recheck = 50

// unstick has a Watch begun anew that does not tell what the cell says has changed. If the new
// one tells nothing either, the cell counts as lost, as any other that does not tell.
func (c *Core) unstick(m *Member, changes uint64, now time.Time) {
	switch {
	case !m.synced:
		return
	case changes == 0:
		if now.Sub(m.owes) >= recheck*c.lostAfter {
			m.owes = now
			c.do(Effect{Op: OpWatch, On: m})
		}
		return
	case m.owed <= m.told:
		if m.owed = 0; changes > m.told {
			m.owed, m.owes = changes, now
		}
		return
	case now.Sub(m.owes) < c.lostAfter:
		return
	}
	c.log.Warn("a cell's Watch is stuck; it is begun anew", "cell", m.id, "changes", changes, "told", m.told)
	m.synced, m.mute = false, m.owes
	c.do(Effect{Op: OpWatch, On: m})
}

// listen has a cell that answers, and does not tell what it runs, watched anew now and then. It
// counts as lost in twice the time in which a silent one does: much to tell takes a while.
func (c *Core) listen(m *Member, now time.Time) {
	switch limit := 2 * c.lostAfter; {
	case m.synced:
		m.why = ""
		return
	case m.mute.IsZero():
		m.mute = now
	case now.Sub(m.mute) < limit:
	case m.lost:
		m.mute = now
		c.do(Effect{Op: OpWatch, On: m})
	default:
		m.why = fmt.Sprintf("it answers, but for %v has not told what it runs: its Watch does not come to Synced", now.Sub(m.mute).Round(time.Second))
		m.mute = now
		c.lose(m)
	}
	if !m.lost {
		m.why = "it has not told yet what it runs"
	}
}

// name makes a cell that has told its id one of ours; false: it is not to be served.
func (c *Core) name(m *Member, id string) bool {
	for i, x := range c.unnamed {
		if x == m {
			c.unnamed = append(c.unnamed[:i:i], c.unnamed[i+1:]...)
			break
		}
	}
	if id == "" || c.members[id] != nil {
		c.log.Error("a cell is left out: it has no id, or that of another cell", "cell", id)
		m.away = true
		c.do(Effect{Op: OpLeave, On: m})
		return false
	}
	m.id, m.view.ID, m.lost = id, id, false
	c.members[id] = m
	delete(c.removed, id)
	c.view.join(&m.view)
	c.do(Effect{Op: OpWatch, On: m})
	return true
}

func (m *Member) drainedBy(c *Core, operator bool) {
	if drain := m.retires || operator; drain != m.view.Draining {
		m.view.Draining = drain
		c.view.changed(&m.view)
		c.touchCell(m.id)
		if !drain {
			c.roomier(m.id, m.heard)
			c.balancing = c.maxMoves > 0
		}
	}
}

// Silent tells that a call to a cell was not answered, and why. After LostAfter, and the second
// time in a row, the cell is lost: one call may hang because this program did not run.
func (c *Core) Silent(m *Member, why string, now time.Time) {
	if m.away {
		return
	}
	m.misses++
	if m.id != "" {
		c.view.reachable(&m.view, false)
	}
	silent := now.Sub(m.heard)
	if !m.lost {
		m.why = "it does not answer: " + why
	}
	// Calls end so often that it is noticed in LostAfter at most.
	if m.lost || silent < c.lostAfter-c.lostAfter/60 || m.misses < 2 {
		return
	}
	m.why = fmt.Sprintf("it has not answered for %v: %s", silent.Round(100*time.Millisecond), why)
	c.lose(m)
}

// lose has what is on a cell replaced elsewhere; why says why.
func (c *Core) lose(m *Member) {
	m.lost, m.synced = true, false
	if m.id == "" {
		m.why = "it has never answered" + strings.TrimPrefix(m.why, "it has not answered")
		c.log.Warn("a cell has never answered; it is asked on, and not waited for", "why", m.why)
		return
	}
	c.log.Warn("a cell is lost; its instances are replaced", "cell", m.id, "why", m.why)
	c.view.reachable(&m.view, false)
	c.touchCell(m.id)
	c.loseAttended(m)
	for _, guid := range sorted(c.starting) {
		if s := c.starting[guid]; s.m == m && !s.flying {
			c.giveUp(s)
		}
	}
	c.do(Effect{Op: OpWatch, On: m})
}

// Watching tells that a Watch of a cell begins.
func (c *Core) Watching(m *Member) {
	m.epoch++
	m.told, m.owed = 0, 0
}

// Unwatched tells that a Watch of a cell has ended.
func (c *Core) Unwatched(m *Member) { m.synced = false }

// Event tells one event of a cell's newest Watch.
func (c *Core) Event(m *Member, e cell.Event, now time.Time) {
	if m.away {
		return
	}
	m.heard, m.misses = now, 0
	if m.told = max(m.told, e.Changes); e.Changes == 0 {
		m.owes = now
	}
	id := e.Status.ID
	switch {
	case e.Synced:
		c.synced(m, now)
	case e.Gone:
		if s := c.starting[id]; s != nil && s.m == m {
			s.gone = true
		}
		c.gone(m, id, now)
	case id != "":
		c.saw(m, e.Status, now)
	}
}

func (c *Core) synced(m *Member, now time.Time) {
	for _, id := range sorted(m.works) {
		k := m.works[id]
		if k.epoch < m.epoch {
			c.gone(m, id, now)
			continue
		}
		k.stopping = false // a Stop may have been lost with the connection
		c.checks.add(check{m, id})
	}
	c.balancing = c.balancing || c.maxMoves > 0 && (m.lost || m.epoch == 1)
	m.synced, m.lost, m.mute, m.why = true, false, time.Time{}, ""
	c.view.reachable(&m.view, true)
	c.touchCell(m.id)
	c.roomier(m.id, now)
	if c.phase == listening {
		c.confirm(m)
	}
}

// confirm finds those of the rows of a cell that are as it says.
func (c *Core) confirm(m *Member) {
	for r := range rows.By(c.db.View(), "cell", m.id) {
		if k := m.works[r.GUID]; r.Cell == m.id && k != nil && r.Knows(&k.status) {
			c.confirmed = append(c.confirmed, r.GUID)
		}
	}
}

// gone forgets a work.
func (c *Core) gone(m *Member, id string, now time.Time) {
	c.unload(m, id)
	k := m.works[id]
	if k == nil {
		return
	}
	if s := c.starting[id]; s != nil && s.m == m {
		s.gone = true // it had arrived
	}
	delete(m.works, id)
	c.end(m, id, k)
	c.touchWork(k.lrp, id)
	c.roomier(m.id, now)
}

// touchWork has whatever a work belongs to looked at.
func (c *Core) touchWork(id lrp.ID, guid string) {
	switch {
	case id != "":
		c.dirty[id] = struct{}{}
	case c.attended[guid] != nil:
		c.dirtyA[guid] = struct{}{}
	default:
		for t := range tasks.By(c.db.View(), "guid", guid) {
			c.dirtyT[t.ID] = struct{}{}
		}
	}
}

// saw takes in the status of a work.
func (c *Core) saw(m *Member, st cell.Status, now time.Time) {
	k := m.works[st.ID]
	if k == nil {
		k = &known{}
		m.works[st.ID] = k
	}
	if w := st.Work; w != nil {
		k.lrp, k.index, k.source = lrp.ID(w.LRP), w.Index, w.Log.Source
		if st.Phase != cell.PhaseDone {
			c.load(m, w, st.ID, starts(st.Phase))
		}
		if c.attended[st.ID] == nil {
			st.Work = nil // it is large, and its owner has it
		}
	} else if l, ok := m.loads[st.ID]; ok && l.starting && !starts(st.Phase) {
		l.starting = false
		m.loads[st.ID] = l
		c.view.started(&m.view, false)
		c.freed()
	}
	done := st.Phase == cell.PhaseDone && !k.ended
	if done && st.Failure == "" && (k.lrp != "" || st.Reason != "") {
		named := st
		named.Work = &cell.Work{Log: cell.LogTag{Source: k.source}}
		st.Failure = lrp.Failure(named)
	}
	k.status, k.epoch, k.untold = st, m.epoch, false
	c.checks.add(check{m, st.ID})
	c.touchWork(k.lrp, st.ID)
	if s := c.starting[st.ID]; s != nil && s.m == m && !s.flying {
		c.taken(s, now)
	}
	if c.readsLines && !k.reading && !k.read && c.hasReader(k, st.ID) {
		k.reading = true
		c.do(Effect{Op: OpRead, On: m, ID: st.ID})
	}
	if done {
		if k.lrp == "" {
			c.keepOutcome(st)
		}
		c.end(m, st.ID, k)
		c.unload(m, st.ID)
		c.roomier(m.id, now)
	}
}

// keepOutcome keeps how a task ended until that is stored: whatever becomes of its cell now, it is
// not lost.
func (c *Core) keepOutcome(st cell.Status) {
	for t := range tasks.By(c.db.View(), "guid", st.ID) {
		if t.State != TaskCompleted && st.Reason != cell.ReasonCreate {
			c.outcomes[st.ID] = st
		}
	}
}

// hasReader tells whether the lines of a work go to the sink: those of instances and tasks do,
// those of an attended task go to the one who attends it.
func (c *Core) hasReader(k *known, guid string) bool {
	if k.lrp != "" {
		return true
	}
	for range tasks.By(c.db.View(), "guid", guid) {
		return true
	}
	return false
}

// LinesRead tells that the last line of a work was read.
func (c *Core) LinesRead(m *Member, id string) {
	if k := m.works[id]; k != nil {
		k.reading, k.read = false, true
		c.checks.add(check{m, id})
	}
}

// end notes that a work has ended.
func (c *Core) end(m *Member, id string, k *known) {
	if !k.ended {
		k.ended = true
		c.do(Effect{Op: OpEnded, On: m, ID: id})
	}
}

func drainedCells(db *state.DB) map[string]bool {
	all := map[string]bool{}
	for d := range drains.All(db.View()) {
		all[d.Cell] = true
	}
	return all
}
