package sim

import (
	"context"
	"errors"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

// platform is one life of the control plane.
type platform struct {
	w       *world
	db      *state.DB
	store   scheduler.Store
	core    *scheduler.Core
	cancel  context.CancelFunc // of the Update under way
	dead    bool
	stepped bool // a Step is to come at once
	alarm   uint64
	steps   int       // at one moment
	at      time.Time // that moment
	ready   time.Time // zero: not yet
	rev     uint64    // of the rows that were looked at last
	trouble time.Time // when the journal failed last
	limit   int       // of works that start at once; 0: none
}

func (j *journal) Commit(ctx context.Context, b state.Batch) error {
	out := j.w.now.Before(j.out)
	if !j.planned && !out {
		if j.failing {
			j.failing, j.ended = false, j.w.now
		}
		return j.Memory.Commit(ctx, b)
	}
	if !j.failing {
		j.failing, j.began = true, j.w.now
	}
	if !j.planned {
		j.done, j.fatal = false, false
	}
	j.planned = false
	j.w.note("the journal fails, done %v, fatal %v", j.done, j.fatal)
	if j.done {
		if err := j.Memory.Commit(ctx, b); err != nil {
			return err
		}
	}
	if p := j.w.p; p != nil {
		p.trouble = j.w.now
		if p.cancel != nil {
			p.cancel() // or else it would ask again, on a clock that is not ours
		}
		p.dead = p.dead || j.fatal
	}
	return errors.New("the connection broke")
}

// begin starts the platform over the journal.
func (w *world) begin() {
	w.lives++
	w.note("life %d begins", w.lives)
	clock := func() time.Time { return w.now }
	db, err := state.Open(context.Background(), state.Config{Journal: w.journal, Now: clock}, scheduler.Tables()...)
	if err != nil {
		w.problem("the journal cannot be read: %v", err)
		return
	}
	limit := 0
	if w.ids%3 == 0 {
		limit = 4
	}
	core, err := scheduler.NewCore(scheduler.Config{DB: db, NewID: w.newID, Moves: w.lives % 3, StartingLimit: limit, Evacuation: time.Minute}, w.now)
	if err != nil {
		w.problem("no core: %v", err)
		return
	}
	w.p = &platform{w: w, db: db, store: scheduler.Store{DB: db}, core: core, limit: limit}
	core.Begin(w.now)
	w.users.resume(w)
	for _, m := range w.cells {
		w.p.add(m)
	}
	w.p.kick()
}

// crash ends the platform; the journal and the cells stay.
func (w *world) crash(why string) {
	if w.p == nil {
		return
	}
	w.note("the platform is %s", why)
	w.p.dead = true
	w.p = nil
	w.watch.newLife()
	for _, m := range w.cells {
		m.link, m.calm = nil, w.now
	}
	w.after(w.between(100*time.Millisecond, 20*time.Second), func() {
		if w.p == nil {
			w.begin()
		}
	})
}

// update runs a change of a user's; sure: it is made, or it is not.
func (p *platform) update(fn func(ctx context.Context) (scheduler.Change, error)) (err error, sure bool) {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	ch, err := fn(ctx)
	p.cancel = nil
	cancel()
	if p.dead {
		p.w.crash("dead of the journal")
		return err, false
	}
	p.core.Changed(ch)
	p.kick()
	return err, !errors.Is(err, state.ErrUncertain)
}

// kick has the Core step soon.
func (p *platform) kick() {
	if p.stepped || p.dead {
		return
	}
	p.stepped = true
	p.w.after(p.w.between(0, 2*time.Millisecond), p.step)
}

func (p *platform) step() {
	w := p.w
	if p.dead {
		return
	}
	p.stepped = false
	if p.at != w.now {
		p.at, p.steps = w.now, 0
	}
	if p.steps++; p.steps > 50 {
		w.problem("the core is stepped again and again in one moment")
		return
	}
	before := w.watch.rows
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	e, err := p.core.Step(ctx, w.now)
	p.cancel = nil
	cancel()
	if p.dead {
		w.crash("dead of the journal")
		return
	}
	if err != nil {
		w.problem("Step: %v", err)
		return
	}
	if p.ready.IsZero() && p.core.Ready() {
		p.ready = w.now
	}
	if rev := p.db.View().Rev(); rev != p.rev {
		p.rev = rev
		w.watch.look(w, p, before)
	}
	for i := range e.Do {
		p.carryOut(&e.Do[i])
	}
	p.alarm++
	if alarm := p.alarm; !e.Wake.IsZero() {
		w.after(max(0, e.Wake.Sub(w.now)), func() {
			if p.alarm == alarm && !p.stepped {
				p.step()
			}
		})
	}
}

func (p *platform) carryOut(e *scheduler.Effect) {
	if e.Op == scheduler.OpTell {
		p.w.users.told(p.w, e.ID, e.Told)
		return
	}
	l := e.On.Handle.(*link)
	m, member, id := l.m, e.On, e.ID
	switch e.Op {
	case scheduler.OpStart:
		p.w.starts++
		p.w.note("start %s on %s", id, m.id)
		p.w.watch.sends(p.w, p, m, e)
		work, outcome, why := e.Work, scheduler.Unknown, ""
		l.call(p.w.oneIn(15), func() {
			if why = m.start(work); why != "" {
				outcome = scheduler.Refused
			} else {
				outcome = scheduler.Accepted
			}
		}, func(ok bool) {
			o := outcome
			if !ok {
				o = scheduler.Unknown
			}
			p.core.Started(member, id, o, why, p.w.now)
		})
	case scheduler.OpStop:
		p.w.note("stop %s on %s", id, m.id)
		l.call(false, func() { m.stop(id) }, func(ok bool) {
			if !e.Away {
				p.core.Stopped(member, id, ok, p.w.now)
			}
		})
	case scheduler.OpWatch:
		l.rewatch()
	case scheduler.OpLeave:
		l.left = true
	}
}

// link is what goes between the platform and a cell.
type link struct {
	p       *platform
	m       *machine
	member  *scheduler.Member
	left    bool
	watched bool // OpWatch came
	stream  uint64
	open    bool
	hangs   bool         // the stream that was asked for never comes
	stuck   bool         // the open one tells nothing any more
	pending []cell.Event // that a partition holds back
	last    time.Time    // when the newest event arrives
	retires bool         // what the cell said last of its draining
	seen    bool
	total   cell.Resources
}

func (p *platform) add(m *machine) {
	l := &link{p: p, m: m}
	l.member = &scheduler.Member{Handle: l}
	m.link, m.calm = l, p.w.now
	p.core.Add(l.member, p.w.now)
	l.beat()
	p.kick()
}

func (l *link) gone() bool { return l.p.dead || l.left }

// beat asks for the State again and again.
func (l *link) beat() {
	w := l.p.w
	if l.gone() {
		return
	}
	period := 1500 * time.Millisecond
	if !w.chaos {
		period = 20 * time.Second
	}
	if l.m.reachable() && !(w.chaos && w.oneIn(10)) {
		st := l.m.state()
		w.after(w.between(time.Millisecond, 50*time.Millisecond), func() {
			if l.gone() {
				return
			}
			l.retires, l.seen, l.total = st.Draining, true, st.Total
			l.p.core.Answered(l.member, st, w.now)
			if l.p.core.Pending() {
				l.p.kick()
			}
		})
		w.after(period, l.beat)
		return
	}
	w.after(1500*time.Millisecond, func() {
		if !l.gone() {
			l.p.core.Silent(l.member, "no answer", w.now)
			l.p.kick()
			w.after(250*time.Millisecond, l.beat)
		}
	})
}

// call makes a call to the cell: it may be lost, late, or made twice, and its answer likewise.
func (l *link) call(twice bool, do func(), done func(ok bool)) {
	w := l.p.w
	over := false
	end := func(ok bool) {
		if !over && !l.p.dead {
			over = true
			done(ok)
			l.p.kick()
		}
	}
	there, back := l.delay(), l.delay()
	arrive := func(answer bool) func() {
		return func() {
			if !l.m.reachable() {
				return
			}
			do()
			w.after(back, func() {
				if l.m.reachable() && answer {
					end(true)
				}
			})
		}
	}
	if l.m.reachable() {
		w.after(there, arrive(true))
		if twice && w.chaos {
			w.after(there+w.between(0, 300*time.Millisecond), arrive(false))
		}
	}
	w.after(10*time.Second, func() { end(false) })
}

func (l *link) delay() time.Duration {
	w := l.p.w
	if w.chaos && w.oneIn(25) {
		l.m.calm = w.now.Add(12 * time.Second)
		return w.between(time.Second, 12*time.Second)
	}
	return w.between(time.Millisecond, 30*time.Millisecond)
}

// rewatch ends the stream and begins a new one.
func (l *link) rewatch() {
	l.watched = true
	l.cut()
}

// cut breaks the stream; another one is tried soon.
func (l *link) cut() {
	if l.gone() || !l.watched {
		return
	}
	l.stream++
	l.open, l.hangs, l.stuck, l.pending = false, false, false, nil
	l.p.core.Unwatched(l.member)
	l.p.kick()
	l.connect(l.stream)
}

func (l *link) connect(stream uint64) {
	w := l.p.w
	w.after(w.between(20*time.Millisecond, time.Second), func() {
		switch {
		case l.gone() || stream != l.stream:
		case !l.m.reachable():
			l.connect(stream)
		case l.m.mute:
			l.p.core.Watching(l.member)
			l.hangs = true
		default:
			l.p.core.Watching(l.member)
			l.open, l.m.calm = true, latest(l.m.calm, w.now)
			for _, e := range l.m.all() {
				l.push(e)
			}
		}
	})
}

// push sends an event down the stream, where it keeps its place.
func (l *link) push(e cell.Event) {
	if l.gone() || !l.open {
		return
	}
	w := l.p.w
	d := w.between(time.Millisecond, 20*time.Millisecond)
	if w.chaos && w.oneIn(60) {
		d = w.between(time.Second, 5*time.Second)
		l.m.calm = w.now.Add(d)
	}
	if at := w.now.Add(d); at.Before(l.last) {
		d = l.last.Sub(w.now)
	}
	l.last = w.now.Add(d)
	stream := l.stream
	w.after(d, func() {
		switch {
		case l.gone() || stream != l.stream || l.stuck:
		case !l.m.reachable() || len(l.pending) > 0:
			l.pending = append(l.pending, e)
		default:
			l.deliver(e)
		}
	})
}

func (l *link) deliver(e cell.Event) {
	l.p.w.watch.tells(l.p.w, e)
	l.p.core.Event(l.member, e, l.p.w.now)
	l.p.kick()
}

// resume goes on after a partition: with what was held back, or with a new stream.
func (l *link) resume(whole bool) {
	if l.gone() || !l.watched {
		return
	}
	if !whole || !l.open {
		l.cut()
		return
	}
	held := l.pending
	l.pending = nil
	if l.stuck {
		return
	}
	for _, e := range held {
		l.deliver(e)
	}
}
