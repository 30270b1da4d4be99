package scheduler

import (
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/state"
)

// attendedTask is a task that lives only as long as somebody waits for it, and only in memory.
type attendedTask struct {
	work   cell.Work
	on     *Member
	status cell.Status
	err    error // why it has no cell
	lost   bool
	over   bool
	left   bool // nobody waits any more
	taken  bool // a cell has it
}

// Told is what is told to the one who attends a task.
type Told struct {
	On     *Member // nil: no cell has it
	Status cell.Status
	Over   bool
	Lost   bool  // its outcome cannot be learned
	Err    error // why it was not placed
}

func (c *Core) tell(a *attendedTask) {
	told := Told{Status: a.status, Over: a.over, Lost: a.lost, Err: a.err}
	if a.taken {
		told.On = a.on
	}
	c.do(Effect{Op: OpTell, On: a.on, ID: a.work.ID, Told: told})
	if a.over && a.left {
		delete(c.attended, a.work.ID)
	}
}

// Attend has a work done as long as somebody waits for it: until Leave. What becomes of it is
// told by OpTell. It is not stored, so that after a restart nobody wants it. A work that is
// known already: false.
func (c *Core) Attend(w cell.Work) bool {
	if c.attended[w.ID] != nil {
		return false
	}
	c.attended[w.ID] = &attendedTask{work: w, status: cell.Status{ID: w.ID}}
	c.dirtyA[w.ID] = struct{}{}
	return true
}

// Leave says that nobody waits for an attended task any more. It is stopped and forgotten;
// OpTell says when it is over.
func (c *Core) Leave(id string) {
	a := c.attended[id]
	if a == nil {
		return
	}
	a.left = true
	if a.over || a.on == nil {
		a.over = true
		c.tell(a)
	}
	if a.on != nil {
		c.checks.add(check{a.on, id})
	}
}

// loseAttended ends the attended tasks of a cell that is lost.
func (c *Core) loseAttended(m *Member) {
	for _, id := range sorted(c.attended) {
		if a := c.attended[id]; a.on == m && !a.over {
			a.lost, a.over = true, true
			c.tell(a)
		}
	}
}

// decideTasks looks at tasks.
func (c *Core) decideTasks(tx *state.Tx, t *turn, all bool, ids, attends []string) {
	if all {
		for x := range tasks.All(tx) {
			c.decideTask(t, x)
		}
	} else {
		for _, id := range ids {
			if x, ok := tasks.Get(tx, id); ok {
				c.decideTask(t, x)
			}
		}
	}
	if all {
		attends = sorted(c.attended)
	}
	for _, id := range attends {
		if a := c.attended[id]; a != nil && !a.over {
			c.decideAttended(t, a)
		}
	}
}

func (c *Core) decideTask(t *turn, was Task) {
	x, wake, gone := c.taskTruth(was, t.now).due(t.now)
	if !wake.IsZero() {
		c.setFor(alarmTask, x.ID, wake)
	}
	switch {
	case gone:
		t.delT = append(t.delT, x)
		t.beforeT = append(t.beforeT, was)
	case x.State == TaskPending && x.GUID == "":
		t.place = append(t.place, placing{want: Want{Spec: x.Work.Spec}, task: &x, taskWas: was})
	default:
		c.putTask(t, x, was)
	}
}

func (c *Core) putTask(t *turn, x, was Task) {
	if x.State != TaskPending {
		delete(c.avoid, taskKey(x.ID))
	}
	if x.State == was.State && x.GUID == was.GUID && x.Rejections == was.Rejections && x.PlacementError == was.PlacementError {
		return
	}
	t.putT = append(t.putT, x)
	t.beforeT = append(t.beforeT, was)
}

// taskKey is by which cells that refuse a task are avoided; no row has such a key.
func taskKey(id string) string { return "/task/" + id }

// taskTruth brings a task up to date with what its cell says.
func (c *Core) taskTruth(t Task, now time.Time) Task {
	if t.State == TaskCompleted {
		delete(c.outcomes, t.GUID)
		return t
	}
	if t.GUID == "" {
		return t
	}
	if why, ok := c.refused[t.GUID]; ok {
		return t.reject(why, now)
	}
	if st, ok := c.outcomes[t.GUID]; ok {
		return t.step(&st, now)
	}
	m := c.members[t.Cell]
	switch {
	case m == nil && c.phase == listening:
	case m == nil, m.lost:
		return t.complete(failCellLost, now)
	case m.works[t.GUID] != nil:
		k := m.works[t.GUID]
		before := t.State
		if t = t.step(&k.status, now); before == TaskPending && t.State == TaskPending && t.GUID == "" {
			c.avoidFor(taskKey(t.ID), m.id, t.PlacementError, now)
		}
	case !m.synced || c.starting[t.GUID] != nil:
	case t.State == TaskPending: // it never arrived there
		return t.unclaim(now)
	default:
		return t.complete(failGone, now)
	}
	return t
}

func (c *Core) avoidFor(key, cellID, why string, now time.Time) {
	if c.avoid[key] == nil {
		c.avoid[key] = map[string]avoidance{}
	}
	c.avoid[key][cellID] = avoidance{why, now.Add(retryPlacement)}
}

func (c *Core) placeTask(t *turn, p *placing) {
	x := *p.task
	key := taskKey(x.ID)
	p.want.Avoid = c.refusing(key, t.now)
	m, err := c.choose(p.want)
	switch {
	case err == nil:
		guid, why := c.newID(), c.why(&p.want, m)
		w := x.Work
		w.ID = guid
		c.launch(t, m, w, key)
		x = x.claim(m.id, guid, why, t.now)
	case heldUp(err):
		x.PlacementError = stored(err.Error())
		t.heldT = append(t.heldT, x.ID)
	default:
		// Each half minute without a place counts. That nobody answers is not the task's fault:
		// for that it has its time limit.
		if e, ok := err.(*PlacementError); x.PlacementError == "" || !t.now.Before(x.Since.Add(retryPlacement)) { //nolint:errorlint // choose made it
			if !ok || e.Text != textSilent {
				x = x.reject(err.Error(), t.now)
			} else {
				x.Since = t.now
			}
		}
		if x.State == TaskPending {
			x.PlacementError = stored(err.Error())
			t.failT = append(t.failT, x.ID)
		}
	}
	c.putTask(t, x, p.taskWas)
	if x.State == TaskCompleted {
		c.setFor(alarmTask, x.ID, t.now.Add(taskKept))
	}
}

func (c *Core) decideAttended(t *turn, a *attendedTask) {
	id := a.work.ID
	if why, ok := c.refused[id]; ok && a.on != nil {
		c.avoidFor(id, a.on.id, why, t.now)
		a.on = nil
	}
	if a.on == nil {
		if a.left {
			a.over = true
			t.tell = append(t.tell, a)
			return
		}
		t.place = append(t.place, placing{want: Want{Spec: a.work.Spec}, attended: a})
		return
	}
	k, known := a.on.works[id]
	switch {
	case known:
		a.taken, a.status = true, k.status
		a.over = k.status.Phase == cell.PhaseDone
	case c.starting[id] != nil || a.on.id == "" || !a.on.synced && !a.on.lost:
		return
	default:
		a.lost, a.over = true, true
	}
	if a.over {
		delete(c.avoid, id)
	}
	t.tell = append(t.tell, a)
}

func (c *Core) placeAttended(t *turn, p *placing) {
	a := p.attended
	id := a.work.ID
	p.want.Avoid = c.refusing(id, t.now)
	m, err := c.choose(p.want)
	switch {
	case err == nil:
		a.on = m
		c.launch(t, m, a.work, id)
	case heldUp(err):
	default:
		delete(c.avoid, id)
		a.err, a.over = err, true
		t.tell = append(t.tell, a)
	}
}
