package sim

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
)

// observed is what was seen, to hold the platform to.
type observed struct {
	rows  map[string]lrp.Row        // by key, as stored last
	tasks map[string]scheduler.Task // by id, those that are over
	runs  map[string]int            // how often the work of a task began, by cell and id
	exits map[string]int            // how works ended, as their cells know
	stray map[string]time.Time      // works that nobody wants, and since when
	sent  map[string]bool           // works that were sent once
	heard map[string]time.Time      // works of whose end this life of the platform has heard, and when
	told  map[string]bool           // and stored
	// excused are works that their cell lost by itself, or that were cancelled: they may begin a
	// second time if a Start was made twice, and are stopped then.
	excused map[string]bool
}

func newObserved() observed {
	return observed{
		rows: map[string]lrp.Row{}, tasks: map[string]scheduler.Task{}, runs: map[string]int{}, exits: map[string]int{}, stray: map[string]time.Time{},
		sent: map[string]bool{}, heard: map[string]time.Time{}, told: map[string]bool{}, excused: map[string]bool{},
	}
}

func (o *observed) newLife() { clear(o.heard) }

// tells takes note of what the platform hears.
func (o *observed) tells(w *world, e cell.Event) {
	if _, had := o.heard[e.Status.ID]; !had && e.Status.Phase == cell.PhaseDone && !e.Gone && e.Status.Work != nil && e.Status.Work.LRP == "" {
		o.heard[e.Status.ID] = w.now
	}
}

// ran: a work begins at most once where it was placed.
func (o *observed) ran(w *world, m *machine, work *cell.Work) {
	if work.LRP == "" {
		key := m.id + " " + work.ID
		if o.runs[key]++; o.runs[key] > 1 && !o.excused[work.ID] {
			w.problem("%s, a task, runs a second time", key)
		}
	}
}

// checkAllowed: no work on a cell that may not have it.
func (w *world) checkAllowed(m *machine, work *cell.Work) {
	for _, t := range m.tags {
		if !slices.Contains(work.Spec.Tags, t) {
			w.problem("%s requires the tag %s, which %s of %s has not", m.id, t, work.ID, work.LRP)
		}
	}
	for _, t := range work.Spec.Tags {
		if !slices.Contains(m.tags, t) && !slices.Contains(m.optional, t) {
			w.problem("%s has not the tag %s that %s of %s wants", m.id, t, work.ID, work.LRP)
		}
	}
	if s := work.Spec.Stack; s != "" && !slices.Contains(m.stacks, s) {
		w.problem("%s has not the stack %s that %s of %s wants", m.id, s, work.ID, work.LRP)
	}
	if memory, n := m.used(); memory > m.memory || n > m.slots {
		w.problem("%s is overcommitted", m.id)
	}
}

// sends: nothing is sent to a cell that drains or lacks the room, as far as the platform knows.
func (o *observed) sends(w *world, p *platform, m *machine, e *scheduler.Effect) {
	if o.sent[e.ID] {
		return
	}
	o.sent[e.ID] = true
	if w.users.drained[m.id] || m.link.retires {
		w.problem("%s is sent to %s, which is drained", e.ID, m.id)
	}
	starting := 0
	for _, c := range p.core.Cells() {
		starting += c.Starting
		if c.ID == m.id && (c.Used.Memory > c.Total.Memory || c.Used.Containers > c.Total.Containers) {
			w.problem("%s is sent to %s, which has no room: %+v", e.ID, m.id, c)
		}
	}
	if p.limit > 0 && starting > p.limit {
		w.problem("%s is sent to %s, and then %d works start at once, of %d that may", e.ID, m.id, starting, p.limit)
	}
}

// look compares what is stored now with what was stored before.
func (o *observed) look(w *world, p *platform, before map[string]lrp.Row) {
	next := make(map[string]lrp.Row, len(before))
	for r := range p.store.Rows() {
		key := r.Key()
		next[key] = r
		o.checkRow(w, p, &r)
		old, had := before[key]
		if !had || old.State != r.State || old.GUID != r.GUID || old.Suspect != r.Suspect || old.Evacuating != r.Evacuating {
			w.note("%s", rowText(&r))
		}
		o.checkCount(w, &old, &r)
		back := old.Suspect != nil && old.Suspect.GUID == r.GUID || old.Evacuating != nil && old.Evacuating.GUID == r.GUID
		switch {
		case !had || old.State != lrp.Crashed || r.State == lrp.Crashed || r.Crashes < old.Crashes || back:
		case old.Next.IsZero():
			w.problem("%s is tried again, though it had crashed %d times", key, old.Crashes)
		case w.now.Before(old.Next):
			w.problem("%s is tried again %v too soon", key, old.Next.Sub(w.now))
		case w.now.Sub(old.Next) > 5*time.Millisecond && !p.ready.IsZero() && p.ready.Before(old.Next) && w.now.Sub(p.trouble) > 5*time.Second:
			w.problem("%s is tried again %v too late", key, w.now.Sub(old.Next))
		}
	}
	o.rows = next
	for _, t := range p.store.Tasks() {
		if t.State != scheduler.TaskCompleted {
			continue
		}
		if old, had := o.tasks[t.ID]; had && !reflect.DeepEqual(old, t) {
			w.problem("the outcome of %s was %+v and is %+v", t.ID, old, t)
		}
		if _, had := o.tasks[t.ID]; !had {
			o.excused[t.GUID] = o.excused[t.GUID] || t.Exit == nil
			w.note("%s is over, failed %v %s", t.ID, t.Failed, t.Failure)
			o.checkOutcome(w, &t)
		}
		o.tasks[t.ID] = t
	}
	if p.core.Settled() {
		for id := range o.heard {
			o.told[id] = true
		}
	}
}

func rowText(r *lrp.Row) string {
	text := fmt.Sprintf("%s/%d is %s", r.LRP, r.Index, r.State)
	if r.GUID != "" {
		text += " as " + r.GUID + " on " + r.Cell
	}
	if o := r.Suspect; o != nil {
		text += fmt.Sprintf(", suspect %s on %s", o.GUID, o.Cell)
	}
	if o := r.Evacuating; o != nil {
		text += fmt.Sprintf(", evacuating %s on %s, moving %v", o.GUID, o.Cell, o.Moving)
	}
	return text
}

// checkCount: each crash counts, and those before it unless it ran for five minutes.
func (o *observed) checkCount(w *world, old, r *lrp.Row) {
	if r.LastCrash == nil || old.LastCrash != nil && old.LastCrash.Time.Equal(r.LastCrash.Time) || old.GUID == "" {
		return
	}
	want := old.Crashes + 1
	if old.State == lrp.Running && r.LastCrash.Time.Sub(old.Since) > 5*time.Minute {
		want = 1
	}
	if r.Crashes != want {
		w.problem("%s has crashed %d times after %d, running since %v until %v", r.Key(), r.Crashes, old.Crashes, old.Since, r.LastCrash.Time)
	}
}

// checkRow: a crash is waited for as long as the policy says, and no row says what it cannot.
func (o *observed) checkRow(w *world, p *platform, r *lrp.Row) {
	if r.State == lrp.Crashed {
		wait, again := lrp.Backoff(r.Crashes)
		if again != !r.Next.IsZero() || again && !r.Next.Equal(r.LastCrash.Time.Add(wait)) {
			w.problem("%s crashed %d times, the last time at %v, and is tried again at %v", r.Key(), r.Crashes, r.LastCrash.Time, r.Next)
		}
	}
	if (r.GUID == "") != (r.State == lrp.Unclaimed || r.State == lrp.Crashed) || (r.GUID == "") != (r.Cell == "") {
		w.problem("%s is %s on %q as %q", r.Key(), r.State, r.Cell, r.GUID)
	}
}

// knew tells whether the end of a work was heard of before what is stored now was decided: what could
// not be stored at first is stored as it was.
func (o *observed) knew(w *world, id string) bool {
	at, heard := o.heard[id]
	return heard && (at.Before(w.journal.began) || at.After(w.journal.ended))
}

// checkOutcome: what is stored of a task is what its cell said.
func (o *observed) checkOutcome(w *world, t *scheduler.Task) {
	code, ended := o.exits[t.GUID]
	switch {
	case t.Exit != nil && (!ended || t.Exit.Code != code || t.Failed != (code != 0)):
		w.problem("%s is stored as %+v, its cell said %d %v", t.ID, t, code, ended)
	case !t.Failed && t.Exit == nil:
		w.problem("%s is a success without an exit", t.ID)
	case t.Exit == nil && (o.told[t.GUID] || o.knew(w, t.GUID)) && (strings.Contains(t.Failure, "disappeared") || strings.Contains(t.Failure, "does not exist")):
		w.problem("%s: its end was told, and it is stored as %q", t.ID, t.Failure)
	}
}

// strayTime is how long a work may go on that nobody wants, while all can be reached: a Stop may be
// lost and waited for, and so may its Start.
const strayTime = 50 * time.Second

// tick looks at everything now and then.
func (w *world) tick() {
	w.checkStray()
	w.checkAcknowledged()
	period := time.Second
	if !w.chaos {
		period = 15 * time.Second
	}
	w.after(period, w.tick)
}

// checkStray: never two of an index, nor one that nobody wants, for longer than allowed.
func (w *world) checkStray() {
	p := w.p
	if p == nil || p.ready.IsZero() {
		clear(w.watch.stray)
		return
	}
	wanted := map[string]bool{}
	for _, r := range w.watch.rows {
		all, n := r.Occupants()
		for _, o := range all[:n] {
			wanted[o.Cell+" "+o.GUID] = true
		}
	}
	for _, t := range p.store.Tasks() {
		if t.State != scheduler.TaskCompleted {
			wanted[t.Cell+" "+t.GUID] = true
		}
	}
	for _, m := range w.cells {
		disturbed := !m.reachable() || m.link == nil || m.link.left || m.link.hangs || m.link.stuck || w.users.removed[m.id]
		for _, id := range m.ids() {
			key := m.id + " " + id
			if x := m.works[id]; !x.live() || wanted[key] || w.users.attends[id] || disturbed {
				delete(w.watch.stray, key)
				continue
			}
			since, was := w.watch.stray[key]
			if since = latest(since, m.calm, p.ready, p.trouble); !was {
				since = latest(since, w.now)
			}
			w.watch.stray[key] = since
			if w.now.Sub(since) > strayTime {
				w.problem("%s runs %s of %q/%d for %v, which nobody wants", m.id, id, m.works[id].w.LRP, m.works[id].w.Index, w.now.Sub(since))
			}
		}
	}
}

func latest(all ...time.Time) time.Time {
	return slices.MaxFunc(all, time.Time.Compare)
}

// checkAcknowledged: what was acknowledged is stored.
func (w *world) checkAcknowledged() {
	if w.p == nil {
		return
	}
	have := map[lrp.ID]int{}
	for d := range w.p.store.Desired() {
		have[d.ID] = d.Instances
	}
	for id, n := range w.users.want {
		if got, ok := have[id]; ok != (n >= 0) || ok && got != n {
			w.problem("%s was acknowledged with %d instances, stored are %d (%v)", id, n, got, ok)
		}
	}
	for id := range w.users.wanted {
		if _, err := w.p.store.Task(id); err != nil {
			w.problem("%s was acknowledged: %v", id, err)
		}
	}
}

// checkServed: all that is wanted runs, once, where it may.
func (w *world) checkServed(when string, crashed bool) {
	if len(w.problems) > 0 {
		return
	}
	run := map[string]string{}
	for _, m := range w.cells {
		for _, id := range m.ids() {
			x := m.works[id]
			key := lrp.RowKey(lrp.ID(x.w.LRP), x.w.Index)
			if x.w.LRP == "" {
				continue
			}
			if other := run[key]; other != "" {
				w.problem("%s, %s runs twice: as %s and %s on %s", when, key, other, id, m.id)
			}
			run[key] = id
			if r := w.watch.rows[key]; r.GUID != id || r.Cell != m.id {
				w.problem("%s, %s runs %s as %s, the row says %s on %s", when, m.id, key, id, r.GUID, r.Cell)
			} else if r.State == lrp.Running && x.status.Phase != cell.PhaseRunning {
				w.problem("%s, %s says that %s is %s as %s, the row that it runs", when, m.id, key, x.status.Phase, id)
			}
			if w.users.drained[m.id] {
				w.problem("%s, %s runs %s though it is drained", when, m.id, key)
			}
		}
	}
	for d := range w.p.store.Desired() {
		for i := range d.Instances {
			r := w.watch.rows[lrp.RowKey(d.ID, i)]
			if r.State != lrp.Running && !(crashed && r.State == lrp.Crashed) || !r.Routable && r.State == lrp.Running {
				w.problem("%s, %s/%d is %s: %s", when, d.ID, i, cmp.Or(string(r.State), "not there"), r.PlacementError)
			}
		}
	}
}

// checkEnd: nothing is left behind.
func (w *world) checkEnd() {
	if len(w.problems) > 0 {
		return
	}
	for _, t := range w.p.store.Tasks() {
		if t.State != scheduler.TaskCompleted {
			w.problem("%s is %s on %q after half an hour: %s", t.ID, t.State, t.Cell, t.PlacementError)
		}
	}
	for _, text := range w.p.core.Audit() {
		w.problem("the accounts: %s", text)
	}
}

// calls counts what the cells were asked to do.
func (w *world) calls() (starts, stops int) {
	for _, m := range w.cells {
		starts += m.starts
		stops += m.stops
	}
	return starts, stops
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
