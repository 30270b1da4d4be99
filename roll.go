package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
)

// Strategy says how a new version of an app takes the place of the one that runs.
type Strategy string

// The strategies. If the new version does not get healthy, each gives the place back to the old one.
const (
	// Rolling starts new instances a few at a time, which get requests as soon as they serve, and for
	// each an old one goes. It needs room for those few, not for two whole versions.
	Rolling Strategy = "rolling"
	// BlueGreen starts all new instances beside all old ones, which get the requests until the new
	// ones all serve: a client never sees both. It needs room for both.
	BlueGreen Strategy = "blue-green"
	// Recreate stops the old instances before it starts new ones: it needs no further room, and the app
	// is away meanwhile. An old instance may take its grace to end while a new one begins.
	Recreate Strategy = "recreate"
)

// roll is how far a process has got to its new version, in instances.
type roll struct {
	was, want     int // of the old version before, and of the new one after
	old, new      int // as they were applied last
	left, serving int // old ones that there are, and new ones that serve
}

// step tells how many instances there should be now.
func (s Strategy) step(r roll, inFlight int) (old, new int) {
	switch s {
	case BlueGreen:
		return r.was, r.want
	case Recreate:
		if r.left > 0 {
			return 0, 0
		}
		return 0, r.want
	}
	if inFlight <= 0 {
		inFlight = (r.want + 9) / 10
	}
	old, new = r.old, min(max(r.new, r.serving+inFlight), r.want)
	if r.serving > 0 {
		// One stays until the whole app is over, so that there is something to go back to.
		old = min(old, max(1, r.want-r.serving))
	}
	return old, new
}

// takeover is an app under way to its new version.
type takeover struct {
	p        *Platform
	next     App
	strategy Strategy
	rolls    map[string]*rolling // by process type
	tell     func(string)
}

type rolling struct {
	roll
	from, to lrp.Desired // with the numbers of instances that they have when they are whole; from may have no ID
	applied  bool        // the scheduler knows of to
}

// takeOver lets the processes of next, which all has, take the place of what old runs. If they do not
// get healthy, the old ones go on and the new ones are removed.
func (p *Platform) takeOver(ctx context.Context, old, next App, all []lrp.Desired, tell func(string)) ([]ProcessStatus, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &takeover{p: p, next: next, strategy: cmp.Or(next.Strategy, Rolling), rolls: map[string]*rolling{}, tell: tell}
	for _, d := range all {
		for _, pr := range next.Processes {
			if pr.LRP != d.ID {
				continue
			}
			r := &rolling{to: d, roll: roll{want: d.Instances}}
			r.from, _ = launched.Get(p.db.View(), string(old.Process(pr.Type).LRP))
			r.was, r.old, r.left = r.from.Instances, r.from.Instances, r.from.Instances
			t.rolls[pr.Type] = r
		}
	}
	now, err := t.forward(ctx, old, all)
	if err != nil {
		return now, t.back(ctx, old, err)
	}
	certain, cancel := p.certain(ctx)
	defer cancel()
	return now, p.disown(certain, next)
}

func (t *takeover) forward(ctx context.Context, old App, all []lrp.Desired) ([]ProcessStatus, error) {
	p := t.p
	certain, cancel := p.certain(ctx)
	defer cancel()
	if err := p.own(certain, old.ID, all); err != nil {
		return nil, err
	}
	if t.strategy != BlueGreen {
		err := p.edit(certain, old.ID, func(a *App) {
			for _, pr := range t.next.Processes {
				now := a.Process(pr.Type)
				now.Successor = pr.LRP
				a.set(now)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	now, err := t.turn(ctx, t.next, old.lrps())
	if err != nil {
		return now, err
	}
	web := t.next.Process(Web)
	p.awaitKnown(ctx, web.LRP, web.Instances) // before, so that the old ones get the requests until the new ones can
	certain, cancel = p.certain(ctx)
	defer cancel()
	if err := p.install(certain, t.next); err != nil {
		return now, err
	}
	err = p.waitRouted(ctx, t.next)
	if err == nil {
		err = p.waitUnrouted(ctx, old.Process(Web).LRP) // or the last old one would still be asked
	}
	if err != nil {
		p.withdraw(ctx, t.next)
		return now, &installedError{err}
	}
	return now, nil
}

// installedError is of what happened after the new version had become the app's.
type installedError struct{ error }

func (e *installedError) Unwrap() error { return e.error }

// turn steps until the processes of to are whole.
func (t *takeover) turn(ctx context.Context, to App, from []lrp.ID) ([]ProcessStatus, error) {
	grace := placementGrace // what makes room may take its time to end
	for _, r := range t.rolls {
		grace = max(grace, placementGrace+r.from.Work.Process.Grace-lrp.DefaultGrace)
	}
	told := -1
	return t.p.await(ctx, to, grace, func(now []ProcessStatus) (bool, error) {
		whole := true
		served, wanted := 0, 0
		for _, pr := range now {
			r := t.rolls[pr.Type]
			if r == nil {
				continue
			}
			if err := t.look(ctx, pr, r); err != nil {
				return false, err
			}
			if err := t.step(ctx, pr.Type, r); err != nil {
				return false, err
			}
			whole = whole && r.serving >= r.want
			served, wanted = served+r.serving, wanted+r.want
		}
		if t.strategy == Rolling && wanted > 1 && served > told && served > 0 {
			told = served
			t.tell(fmt.Sprintf("%d of %d new instances serve", served, wanted))
		}
		return whole, nil
	}, from...)
}

// look counts what there is of both versions.
func (t *takeover) look(ctx context.Context, pr ProcessStatus, r *rolling) error {
	r.serving = 0
	for _, in := range pr.Now {
		if in.State == lrp.Running && (in.Routable || pr.Type != Web) {
			r.serving++
		}
	}
	if r.left == 0 || t.strategy != Recreate {
		return nil
	}
	old, err := t.p.sched.Instances(ctx, r.from.ID)
	r.left = len(old)
	return err
}

// step tells the scheduler what is wanted now.
func (t *takeover) step(ctx context.Context, process string, r *rolling) error {
	old, made := t.strategy.step(r.roll, t.next.MaxInFlight)
	if old < r.old {
		if process == Web && r.serving > 0 { // the new ones have the requests before the old ones lose them
			t.p.awaitKnown(ctx, r.to.ID, r.serving)
		}
		if err := t.apply(ctx, r.from, old); err != nil {
			return err
		}
		r.old = old
	}
	if made > r.new || !r.applied {
		if err := t.apply(ctx, r.to, made); err != nil {
			return err
		}
		r.new, r.applied = made, true
	}
	return nil
}

// apply leaves the row of d in launched as it is: it says how many there are when it is whole.
func (t *takeover) apply(ctx context.Context, d lrp.Desired, instances int) error {
	if d.ID == "" {
		return nil
	}
	d.Instances = instances
	return t.p.sched.Apply(ctx, d)
}

// backWithin bounds the time in which the old version is made whole before the new one is removed.
const backWithin = 2 * time.Minute

// back gives the place back to the old version, and returns the error with what has become of it.
func (t *takeover) back(ctx context.Context, old App, why error) error {
	p := t.p
	var late *installedError
	if errors.As(why, &late) {
		return late.error
	}
	gone := errors.Is(context.Cause(ctx), ErrStopped) || errors.Is(context.Cause(ctx), errEnded)
	if ctx.Err() == nil && t.strategy == Rolling {
		t.backInSteps(ctx, old)
	}
	shrunk := false
	certain, cancel := p.certain(ctx)
	defer cancel()
	for _, r := range t.rolls {
		if r.old < r.was && !gone {
			shrunk = true
			if err := t.apply(certain, r.from, r.was); err != nil {
				p.log.Error("giving an app back the instances that it had failed; the next start of the platform does it", "app", old.Name, "error", err)
			}
		}
	}
	p.withdraw(ctx, old)
	if gone {
		return why
	}
	return t.goesOn(why, shrunk)
}

// backInSteps makes the old version whole while what there is of the new one serves. It need not come
// to its end.
func (t *takeover) backInSteps(ctx context.Context, old App) {
	ctx, cancel := context.WithTimeout(ctx, backWithin)
	defer cancel()
	now, err := t.p.processes(ctx, t.next)
	if err != nil {
		return
	}
	b := &takeover{p: t.p, next: t.next, strategy: Rolling, rolls: map[string]*rolling{}, tell: func(string) {}}
	for _, pr := range now {
		r := t.rolls[pr.Type]
		if r == nil || r.old == r.was {
			continue
		}
		lead := 0 // instances before the first that does not serve
		for lead < len(pr.Now) && pr.Now[lead].State == lrp.Running && (pr.Now[lead].Routable || pr.Type != Web) {
			lead++
		}
		if lead == 0 || t.apply(ctx, r.to, lead) != nil {
			return // nothing of it serves
		}
		b.rolls[pr.Type] = &rolling{from: r.to, to: r.from, applied: true, roll: roll{was: lead, want: r.was, old: lead, new: r.old}}
	}
	if len(b.rolls) == 0 {
		return
	}
	t.tell("the new version does not get healthy; the old one gets its place back")
	if _, err := b.turn(ctx, old, t.next.lrps()); err != nil {
		return
	}
	for process, r := range b.rolls {
		t.rolls[process].old = r.want
	}
}

// goesOn adds to the error of a replacement what has become of what it should replace.
func (t *takeover) goesOn(err error, shrunk bool) error {
	note := "what ran before goes on"
	if shrunk {
		note = "what ran before is whole again as soon as its instances have started"
	}
	var u *UnhealthyError
	if errors.As(err, &u) && u.Instance.PlacementError != "" {
		switch t.strategy {
		case Rolling:
			note += "; a further instance needs room until it serves: add a cell, scale something down, or use the strategy recreate, which stops the old ones first"
		case BlueGreen:
			note += "; until the new instances serve, both need room: add a cell, scale something down, or use the strategy rolling"
		}
	}
	return fmt.Errorf("%w\n(%s)", err, note)
}
