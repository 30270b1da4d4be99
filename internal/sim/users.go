package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
)

// users are those who want something of the platform.
type users struct {
	want    map[lrp.ID]int // as acknowledged; an id that is not there is not certain
	drained map[string]bool
	sick    map[string]time.Time // by process: until then its instances crash
	tasks   int
	attends map[string]bool // attended tasks that are waited for
	over    map[string]bool // and that have ended
	removed map[string]bool // cells that are away
	wanted  map[string]bool // tasks that were acknowledged
}

func (u *users) begin(w *world) {
	*u = users{
		want: map[lrp.ID]int{}, drained: map[string]bool{}, sick: map[string]time.Time{}, attends: map[string]bool{}, over: map[string]bool{},
		removed: map[string]bool{}, wanted: map[string]bool{},
	}
	for i := range 4 {
		u.apply(w, i, 1+w.rng.IntN(5))
	}
}

// process returns one of the processes that there may be.
func process(i, n int) lrp.Desired {
	d := lrp.Desired{ID: lrp.ID(fmt.Sprint("app-", i)), Instances: n, Work: cell.Work{
		Spec: cell.Spec{Memory: []int64{20, 50, 90}[i%3]}, Process: cell.Process{Path: "serve"}, Log: cell.LogTag{Source: "APP/PROC/WEB"},
	}}
	switch i {
	case 5:
		d.Work.Spec.Tags = []string{"gpu"}
	case 6:
		d.Work.Spec.Tags = []string{"ssd"}
	case 7:
		d.Work.Spec.Stack = "windows"
	}
	return d
}

const processes = 8

func (u *users) apply(w *world, i, n int) {
	if w.p == nil {
		return
	}
	d := process(i, n)
	w.note("apply %s %d", d.ID, n)
	delete(u.want, d.ID)
	err, sure := w.p.update(func(ctx context.Context) (scheduler.Change, error) { return w.p.store.Apply(ctx, d) })
	switch {
	case err == nil && sure:
		u.want[d.ID] = n
	case sure:
		w.problem("apply %s: %v", d.ID, err)
	}
}

func (u *users) remove(w *world, i int) {
	if w.p == nil {
		return
	}
	id := process(i, 0).ID
	w.note("remove %s", id)
	delete(u.want, id)
	if err, sure := w.p.update(func(ctx context.Context) (scheduler.Change, error) { return w.p.store.Remove(ctx, id) }); err == nil && sure {
		u.want[id] = -1
	}
}

// act does one thing that users do.
func (u *users) act(w *world) {
	if w.p == nil {
		return
	}
	p, i := w.p, w.rng.IntN(processes)
	switch w.rng.IntN(12) {
	case 0, 1, 2, 3:
		u.apply(w, i, w.rng.IntN(7))
	case 4:
		u.remove(w, i)
	case 5:
		id, index := process(i, 0).ID, w.rng.IntN(4)
		_, _ = p.update(func(ctx context.Context) (scheduler.Change, error) { return p.store.Restart(ctx, id, index, w.now) })
	case 6, 7, 8:
		u.task(w)
	case 9:
		if u.tasks > 0 {
			id := fmt.Sprint("task-", w.rng.IntN(u.tasks))
			w.note("cancel %s", id)
			_, _ = p.update(func(ctx context.Context) (scheduler.Change, error) { return p.store.CancelTask(ctx, id, w.now) })
		}
	case 10:
		u.attend(w)
	case 11:
		w.note("check")
		p.core.Check()
		p.kick()
	}
}

func (u *users) task(w *world) {
	id := fmt.Sprint("task-", u.tasks)
	u.tasks++
	work := cell.Work{Spec: cell.Spec{Memory: 30}, Process: cell.Process{Path: "work"}}
	if w.oneIn(5) {
		work.Spec.Tags = []string{"gpu"}
	}
	w.note("desire %s", id)
	p := w.p
	err, sure := p.update(func(ctx context.Context) (scheduler.Change, error) {
		return p.store.DesireTask(ctx, id, work, "", w.now)
	})
	if err == nil && sure {
		u.wanted[id] = true
	} else if sure {
		w.problem("desire %s: %v", id, err)
	}
}

// attend runs a task as RunTask does, and perhaps leaves it midway.
func (u *users) attend(w *world) {
	id := "attended-" + w.newID()
	p := w.p
	w.note("attend %s", id)
	if !p.core.Attend(cell.Work{ID: id, Spec: cell.Spec{Memory: 40}, Process: cell.Process{Path: "build"}}) {
		w.problem("%s is known, though its id is new", id)
	}
	u.attends[id] = true
	p.kick()
	if w.oneIn(2) {
		w.after(w.between(0, 20*time.Second), func() { u.leave(w, p, id) })
	}
}

func (u *users) leave(w *world, p *platform, id string) {
	if u.attends[id] && !p.dead {
		delete(u.attends, id)
		w.note("leave %s", id)
		if !u.over[id] {
			w.watch.excused[id] = true
		}
		p.core.Leave(id)
		p.kick()
	}
}

// told hears of an attended task.
func (u *users) told(w *world, id string, t scheduler.Told) {
	var none *scheduler.PlacementError
	if t.Err != nil && !errors.As(t.Err, &none) {
		w.problem("%s ended with %v", id, t.Err)
	}
	u.over[id] = u.over[id] || t.Over && !t.Lost
	if t.Over && u.attends[id] {
		if code, ended := w.watch.exits[id]; !t.Lost && t.Err == nil && (!ended || t.Status.Exit == nil || t.Status.Exit.Code != code) {
			w.problem("%s is told to have ended as %+v, the cell said %d %v", id, t.Status.Exit, code, ended)
		}
		p := w.p
		w.after(w.between(0, 2*time.Second), func() { u.leave(w, p, id) })
	}
}

// resume forgets what does not outlive a life of the platform.
func (u *users) resume(*world) { clear(u.attends) }

// drain has a cell drained by an operator for a while.
func (u *users) drain(w *world, m *machine) {
	u.setDrain(w, m, true)
	w.after(w.between(10*time.Second, 3*time.Minute), func() {
		if w.chaos {
			u.setDrain(w, m, false)
		}
	})
}

func (u *users) setDrain(w *world, m *machine, on bool) {
	p := w.p
	if p == nil {
		return
	}
	w.note("drain %s %v", m.id, on)
	delete(u.drained, m.id)
	if err, sure := p.update(func(ctx context.Context) (scheduler.Change, error) { return p.store.Drain(ctx, m.id, on, w.now) }); err == nil && sure {
		u.drained[m.id] = on
	}
}

// removeCell takes a cell away and brings it back later.
func (u *users) removeCell(w *world, m *machine) {
	p := w.p
	if p == nil || m.link == nil || u.removed[m.id] {
		return
	}
	w.note("remove cell %s", m.id)
	p.core.Remove(m.id)
	p.kick()
	u.removed[m.id] = true
	w.after(w.between(2*time.Second, 30*time.Second), func() {
		delete(u.removed, m.id)
		if w.p == p && !p.dead && m.link != nil && m.link.left {
			w.note("add cell %s", m.id)
			p.add(m)
		}
	})
}

// calm asks for what all fits, and leaves it at that. One cell stays drained, if it is not needed.
func (u *users) calm(w *world) {
	for i := range processes {
		n := w.rng.IntN(4)
		if i == 0 {
			n = 6
		}
		u.apply(w, i, n)
	}
	for i, m := range w.cells {
		u.setDrain(w, m, i == 0 && w.oneIn(2))
	}
	for _, id := range sortedKeys(u.attends) {
		u.leave(w, w.p, id)
	}
}
