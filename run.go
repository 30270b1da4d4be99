package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/scheduler"
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
	u.done("%s", scheduled(next))
	u.begin(StepHealthy)
	u.res.Processes, err = u.p.settle(ctx, a, next)
	u.res.App = next
	if err != nil {
		return err
	}
	stopTell()
	u.res.App, _ = u.p.App(a.ID)
	running, wanted := 0, 0
	for _, pr := range u.res.Processes {
		running, wanted = running+pr.Running(), wanted+pr.Instances
	}
	u.done("%d of %d instances are healthy, and those of web have their route", running, wanted)
	return nil
}

// scheduled says what was given to the scheduler.
func scheduled(a App) string {
	var parts []string
	for _, pr := range a.Processes {
		if pr.LRP != "" {
			parts = append(parts, fmt.Sprintf("%s: %d × %s memory", pr.Type, pr.Instances, FormatBytes(pr.Memory)))
		}
	}
	return strings.Join(parts, ", ")
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

// launchBeside applies new processes for an app, whatever runs of it, and returns the app
// with them; the row still has the old ones until settle.
func (p *Platform) launchBeside(ctx context.Context, a App) (App, error) {
	ran := len(a.lrps()) > 0
	next := a
	next.Started = true
	var all []lrp.Desired
	for _, pr := range a.Processes {
		pr.LRP = p.newLRP(a, pr)
		if pr.Next != nil {
			pr.Instances, pr.Next = *pr.Next, nil
		}
		d, err := p.desired(a, pr)
		switch {
		case errors.Is(err, ErrNoCommand) && pr.Type != Web && pr.Instances == 0:
			pr.LRP = "" // the droplet has no such process any more, and nobody misses it
		case err != nil:
			return a, err
		default:
			all = append(all, d)
		}
		next.set(pr)
	}
	if err := ctx.Err(); err != nil {
		return a, err
	}
	ctx, cancel := p.certain(ctx)
	defer cancel()
	if err := p.own(ctx, a.ID, all); err != nil {
		return a, err
	}
	for _, d := range all {
		if err := p.sched.Apply(ctx, d); err != nil {
			p.withdraw(ctx, a)
			return a, err
		}
	}
	if !ran {
		// Nothing runs: the new processes are the app's at once, so that they are healed from
		// now on even if the first start fails, as with Cloud Foundry.
		if err := p.putApp(ctx, next); err != nil {
			p.withdraw(ctx, a)
			return a, err
		}
	}
	return next, nil
}

// withdraw removes processes that did not become an app's. What fails here is done by the
// next change of the app, or the next start of the platform.
func (p *Platform) withdraw(ctx context.Context, a App) {
	ctx, cancel := p.certain(ctx)
	defer cancel()
	if err := p.disown(ctx, a); err != nil {
		p.log.Error("removing processes that are not wanted failed", "app", a.Name, "error", err)
	}
}

// settle waits for the new processes of next and lets them take the place of the old ones.
// If they do not become healthy, the old ones go on and the new ones are removed.
func (p *Platform) settle(ctx context.Context, old, next App) ([]ProcessStatus, error) {
	replaces := len(old.lrps()) > 0
	now, err := p.waitHealthy(ctx, next)
	if err != nil {
		if replaces {
			p.withdraw(ctx, old)
			if errors.Is(context.Cause(ctx), ErrStopped) {
				return now, err // nothing goes on
			}
			return now, goesOn(err)
		}
		return now, err
	}
	if replaces {
		p.awaitKnown(ctx, next) // before, so that the old ones get the requests until the new ones can
		certain, cancel := p.certain(ctx)
		defer cancel()
		if err := p.putApp(certain, next); err != nil {
			p.withdraw(ctx, old)
			return now, err
		}
	}
	if err := p.waitRouted(ctx, next); err != nil {
		p.withdraw(ctx, next)
		return now, err
	}
	certain, cancel := p.certain(ctx)
	defer cancel()
	return now, p.disown(certain, next)
}

// goesOn adds to the error of a replacement what has become of what it should replace.
func goesOn(err error) error {
	note := "what ran before goes on"
	var u *UnhealthyError
	if errors.As(err, &u) && u.Instance.PlacementError != "" {
		note += "; until the new instances serve, both need room: add a cell, scale something down, or stop the app first"
	}
	return fmt.Errorf("%w\n(%s)", err, note)
}

// replace runs an app's current droplet in place of what runs.
func (p *Platform) replace(ctx context.Context, a App) error {
	next, err := p.launchBeside(ctx, a)
	if err != nil {
		return err
	}
	_, err = p.settle(ctx, a, next)
	return err
}

// watch is the scheduler's Watch that begins anew where changes were missed: then all
// that is comes again, and a second Synced. begin is called before each beginning.
func (p *Platform) watch(ctx context.Context, begin func()) iter.Seq2[lrp.Event, error] {
	return func(yield func(lrp.Event, error) bool) {
		for {
			missed := false
			begin()
			for e, err := range p.sched.Watch(ctx, 0) {
				if missed = errors.Is(err, lrp.ErrCompacted); missed {
					break
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
			if !missed {
				return
			}
		}
	}
}

// pumpRoutes keeps the router's table as routes and instances are. Until the cells have
// told what they run there is none: what an earlier run left may be somebody else's by now.
func (p *Platform) pumpRoutes(ctx context.Context) error {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return nil
	}
	events := make(chan struct{}, 1)
	failed := make(chan error, 1)
	set := newInstanceSet()
	go func() {
		defer close(failed)
		for e, err := range p.watch(ctx, set.begin) {
			if err != nil {
				failed <- fmt.Errorf("watch instances: %w", err)
				return
			}
			if !set.apply(e) {
				continue
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	defer func() {
		for range failed { // until the watcher has ended
		}
	}()
	for {
		changed := p.db.Changed(apps, routes)
		p.publish(set.list())
		select {
		case <-ctx.Done():
			return nil
		case err, ok := <-failed:
			if !ok {
				return nil
			}
			return err
		case <-changed:
		case <-events:
		}
	}
}

// publish brings the router's table up to date with what there is.
func (p *Platform) publish(ins []lrp.Instance) {
	v := p.db.View()
	byLRP := map[lrp.ID][]lrp.Instance{}
	known := map[lrp.ID]int{}
	for _, in := range ins {
		byLRP[in.LRP] = append(byLRP[in.LRP], in)
		if serves(in) {
			known[in.LRP]++
		}
	}
	var changes []router.Change
	next := map[string]router.Route{}
	served := map[lrp.ID]bool{}
	guids := map[string]bool{}
	for r := range routes.All(v) {
		route := router.Route{Host: r.Host, Path: r.Path, Options: r.Options}
		if a, ok := apps.Get(v, r.App); ok && a.Started {
			web := a.Process(Web)
			served[web.LRP] = true
			for _, in := range byLRP[web.LRP] {
				for _, b := range backends(a, web, in) {
					if r.HTTP2 {
						b.Protocol = "http2"
					}
					route.Backends = append(route.Backends, b)
					guids[b.Instance] = true
				}
			}
		}
		next[r.key()] = route
		if old, ok := p.table[r.key()]; !ok || !sameRoute(old, route) {
			changes = append(changes, router.Change{Route: route})
		}
	}
	for key, old := range p.table {
		if _, ok := next[key]; !ok {
			changes = append(changes, router.Change{Route: old, Gone: true})
		}
	}
	p.table = next
	if len(changes) > 0 {
		p.router.SetTable(p.router.Table().With(changes...))
	}
	p.routed.set(served, guids, known)
}

// sameRoute compares what this file makes.
func sameRoute(a, b router.Route) bool {
	return a.Options == b.Options && slices.EqualFunc(a.Backends, b.Backends, func(x, y router.Backend) bool {
		return x.Instance == y.Instance && x.Addr == y.Addr && x.Protocol == y.Protocol && x.App == y.App && x.Process == y.Process && x.Index == y.Index
	})
}

// backends are the works of an instance that serve: its own, and those that stand for it on
// a cell that is lost or drained until it runs elsewhere.
func backends(a App, pr Process, in lrp.Instance) []router.Backend {
	var all []router.Backend
	add := func(guid string, addresses []cell.Address) {
		if len(addresses) > 0 {
			all = append(all, router.Backend{App: a.ID, Process: string(pr.LRP), Instance: guid, Index: in.Index, Addr: addresses[0].Host})
		}
	}
	if serves(in) {
		add(in.GUID, in.Addresses)
	}
	for _, o := range in.Others {
		if o.Routable {
			add(o.GUID, o.Addresses)
		}
	}
	return all
}

// serves tells whether an instance itself may be sent requests.
func serves(in lrp.Instance) bool { return in.State == lrp.Running && in.Routable }

// recover ends what an earlier run left in the middle: builds, whose callers are gone, and
// processes that were not yet, or no longer, an app's.
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
	for _, a := range p.Apps() { // what was being started, stopped or scaled
		if err := p.disown(ctx, a); err != nil {
			return err
		}
		for _, id := range a.lrps() {
			if d, ok := launched.Get(p.db.View(), string(id)); ok {
				if err := p.sched.Apply(ctx, d); err != nil {
					return err
				}
			}
		}
	}
	_, err := p.catalog.Sweep(ctx)
	return err
}

// keptBuilds is how many builds of an app are remembered, as in Cloud Foundry.
const keptBuilds = 100

// used are the sources that an app's processes and tasks need, now or to begin anew. It may be
// an older droplet's: that which runs goes on while newer ones fail.
func (p *Platform) used(tx *state.Tx, a App) map[cell.Source]bool {
	all := map[cell.Source]bool{}
	note := func(w cell.Work) {
		for _, l := range w.Layers {
			all[l.Source] = true
		}
	}
	for _, id := range a.Owned {
		if d, ok := launched.Get(tx, string(id)); ok {
			note(d.Work)
		}
	}
	if k, ok := p.sched.(taskKeeper); ok {
		for _, t := range tasksOf(k, a) {
			if t.State != scheduler.TaskCompleted {
				note(t.Work)
			}
		}
	}
	return all
}

// expire lets go of old builds and of all but the newest packages and droplets of an app; its current
// ones, and what runs, stay.
func (p *Platform) expire(tx *state.Tx, a App) {
	byAge := func(x, y time.Time) int { return y.Compare(x) }
	ds := slices.Collect(droplets.By(tx, "app", a.ID))
	slices.SortFunc(ds, func(x, y Droplet) int { return byAge(x.Created, y.Created) })
	keep := map[string]bool{a.Package: true}
	used := p.used(tx, a)
	n := 0
	for _, d := range ds {
		if d.ID == a.Droplet || used[blobSource(d.Key)] {
			keep[d.Package] = true
			continue
		}
		if n++; n <= p.cfg.Keep {
			continue
		}
		p.catalog.Unuse(tx, "droplet:"+d.ID)
		droplets.Delete(tx, d.ID)
	}
	bs := slices.Collect(builds.By(tx, "app", a.ID))
	slices.SortFunc(bs, func(x, y Build) int { return byAge(x.Created, y.Created) })
	for _, b := range bs[min(len(bs), keptBuilds):] {
		if b.State != BuildStaging {
			builds.Delete(tx, b.ID)
		}
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
