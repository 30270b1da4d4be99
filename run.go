package dewpoint

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/state"
)

// run puts a push's droplet in place of what runs.
func (u *push) run(ctx context.Context) error {
	a, err := u.p.App(u.res.App.ID)
	if err != nil {
		return err
	}
	u.begin(StepRun)
	stopTell := u.tellLines(ctx, a.ID)
	defer stopTell()
	next, err := u.p.launchBeside(ctx, a)
	if err != nil {
		return err
	}
	u.done("%d × %s memory as %s", next.Instances, FormatBytes(next.Memory), next.LRP)
	u.begin(StepHealthy)
	ins, err := u.p.settle(ctx, a, next)
	u.res.App, u.res.Instances = next, ins
	if err != nil {
		return err
	}
	stopTell()
	u.res.App, _ = u.p.App(a.ID)
	u.done("%d of %d instances are healthy and have their route", len(ins), next.Instances)
	return nil
}

// tellLines passes the app's lines on from now on, until the returned function was called.
func (u *push) tellLines(ctx context.Context, app string) (stop func()) {
	if u.req.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var from = lastPosition(u.p, app)
	ended := make(chan struct{})
	outer := u.tell
	lock := make(chan struct{}, 1) // Progress is called by one goroutine at a time
	u.tell = func(e Progress) {
		lock <- struct{}{}
		defer func() { <-lock }()
		outer(e)
	}
	tell := u.tell
	go func() {
		defer close(ended)
		for l, err := range u.p.logs.Read(ctx, app, from, true) {
			if err != nil {
				return
			}
			tell(Progress{Step: StepHealthy, Time: l.Time, Line: &l})
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// launch starts an app that is stopped.
func (p *Platform) launch(ctx context.Context, a App) (App, error) {
	return p.launchBeside(ctx, a)
}

// launchBeside applies a new process for an app, whatever runs of it, and returns the app
// with it; the row still has the old one until settle.
func (p *Platform) launchBeside(ctx context.Context, a App) (App, error) {
	old := a.LRP
	a.LRP = lrp.ID(a.ID + "-" + p.newID()[:8])
	a.Started = true
	d, err := p.desired(a, a.LRP)
	if err != nil {
		return a, err
	}
	if err := p.sched.Apply(ctx, d); err != nil {
		return a, err
	}
	if old == "" {
		// Nothing runs: the new process is the app's at once, so that it is healed from now on
		// even if the first start fails, as with Cloud Foundry.
		if err := p.putApp(ctx, a); err != nil {
			return a, err
		}
	}
	return a, nil
}

// settle waits for the new process of next and lets it take the place of the old one's. If
// it does not become healthy, an old one goes on and the new one is removed.
func (p *Platform) settle(ctx context.Context, old, next App) ([]lrp.Instance, error) {
	ins, err := p.waitHealthy(ctx, next)
	if err != nil {
		if old.LRP != "" {
			if rmErr := p.removeLRP(context.WithoutCancel(ctx), next.LRP); rmErr != nil {
				p.log.Error("removing a process that was not healthy failed", "lrp", next.LRP, "error", rmErr)
			}
			return ins, fmt.Errorf("%w\n(what ran before goes on)", err)
		}
		return ins, err
	}
	if old.LRP != "" {
		if err := p.putApp(ctx, next); err != nil {
			return ins, err
		}
		if err := p.waitRouted(ctx, next); err != nil {
			return ins, err
		}
		return ins, p.removeLRP(ctx, old.LRP)
	}
	return ins, p.waitRouted(ctx, next)
}

// replace runs an app's current droplet in place of what runs.
func (p *Platform) replace(ctx context.Context, a App) ([]lrp.Instance, error) {
	next, err := p.launchBeside(ctx, a)
	if err != nil {
		return nil, err
	}
	return p.settle(ctx, a, next)
}

// placementGrace is how long an instance may be without a place before a push gives up:
// what is being stopped still takes room.
const placementGrace = 15 * time.Second

// waitHealthy returns the instances of an app when all that are wanted run. An instance that
// has crashed so often that it has to pause, or that finds no place, ends the wait: *UnhealthyError.
func (p *Platform) waitHealthy(ctx context.Context, a App) ([]lrp.Instance, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var giveUp *time.Timer
	defer func() {
		if giveUp != nil {
			giveUp.Stop()
		}
	}()
	for _, err := range p.sched.Watch(ctx, 0) {
		if err != nil {
			return nil, err
		}
		ins, err := p.sched.Instances(ctx, a.LRP)
		if err != nil {
			return nil, err
		}
		running, unplaced := 0, false
		for _, in := range ins {
			switch {
			case in.State == lrp.Running:
				running++
			case in.State == lrp.Crashed:
				return ins, &UnhealthyError{App: a.Name, Instance: in}
			case in.PlacementError != "":
				unplaced = true
				if giveUp == nil {
					giveUp = time.AfterFunc(placementGrace, func() { cancel(&UnhealthyError{App: a.Name, Instance: in}) })
				}
			}
		}
		if !unplaced && giveUp != nil {
			giveUp.Stop()
			giveUp = nil
		}
		if running >= a.Instances {
			return ins, nil
		}
	}
	return nil, fmt.Errorf("waiting for instances of %s: %w", a.Name, context.Cause(ctx))
}

// pumpRoutes keeps the router's table as routes and instances are.
func (p *Platform) pumpRoutes(ctx context.Context) error {
	events := make(chan struct{}, 1)
	watchEnded := make(chan struct{})
	running := newInstanceSet()
	go func() {
		defer close(watchEnded)
		var rev uint64
		for ctx.Err() == nil {
			for e, err := range p.sched.Watch(ctx, rev) {
				if err != nil {
					rev = 0
					running.reset()
					break
				}
				rev = e.Rev
				running.apply(e)
				select {
				case events <- struct{}{}:
				default:
				}
			}
		}
	}()
	defer func() { <-watchEnded }()
	for {
		changed := p.db.Changed(apps, routes)
		p.publish(running.list())
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-events:
		}
	}
}

// publish makes the router's table of what there is.
func (p *Platform) publish(ins []lrp.Instance) {
	v := p.db.View()
	byLRP := map[lrp.ID][]lrp.Instance{}
	for _, in := range ins {
		byLRP[in.LRP] = append(byLRP[in.LRP], in)
	}
	var table []router.Route
	used := map[lrp.ID]bool{}
	for r := range routes.All(v) {
		route := router.Route{Host: r.Host}
		if a, ok := apps.Get(v, r.App); ok && a.Started {
			for _, in := range byLRP[a.LRP] {
				used[a.LRP] = true
				if len(in.Addresses) > 0 {
					route.Backends = append(route.Backends, router.Backend{App: a.ID, Instance: in.GUID, Index: in.Index, Addr: in.Addresses[0].Host})
				}
			}
		}
		table = append(table, route)
	}
	p.router.SetTable(router.NewTable(table))
	p.routed.set(used)
}

// waitRouted returns when the router's table has the app's running process.
func (p *Platform) waitRouted(ctx context.Context, a App) error {
	if a.Instances == 0 {
		return nil
	}
	return p.routed.wait(ctx, a.LRP)
}

// recover fails the builds that an earlier run left in the middle: their callers are gone.
func (p *Platform) recover(ctx context.Context) error {
	left := slices.Collect(builds.By(p.db.View(), "state", string(BuildStaging)))
	if len(left) > 0 {
		err := p.db.Update(ctx, func(tx *state.Tx) error {
			for _, b := range left {
				b.State, b.Retry, b.Ended = BuildFailed, true, p.now()
				b.Error = "the platform was restarted while this was staged; push again"
				if err := builds.Put(tx, b); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	_, err := p.catalog.Sweep(ctx)
	return err
}

// expire lets go of all but the newest packages and droplets of an app, its current ones
// aside.
func (p *Platform) expire(tx *state.Tx, a App) {
	byAge := func(x, y time.Time) int { return y.Compare(x) }
	ds := slices.Collect(droplets.By(tx, "app", a.ID))
	slices.SortFunc(ds, func(x, y Droplet) int { return byAge(x.Created, y.Created) })
	keep := map[string]bool{a.Package: true}
	n := 0
	for _, d := range ds {
		if d.ID == a.Droplet {
			keep[d.Package] = true
			continue
		}
		if n++; n <= p.cfg.Keep {
			continue
		}
		p.catalog.Unuse(tx, "droplet:"+d.ID)
		droplets.Delete(tx, d.ID)
	}
	ks := slices.Collect(packages.By(tx, "app", a.ID))
	slices.SortFunc(ks, func(x, y Package) int { return byAge(x.Created, y.Created) })
	n = 0
	for _, k := range ks {
		if keep[k.ID] {
			continue
		}
		if n++; n <= p.cfg.Keep {
			continue
		}
		p.catalog.Unuse(tx, "package:"+k.ID)
		packages.Delete(tx, k.ID)
	}
}
