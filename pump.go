package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/state"
)

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

// confirmed returns what of the instances may be sent requests: until all cells have told what
// they run, only what those that have told confirm. What an earlier run left elsewhere may be
// somebody else's by now. changed is closed when there are more.
func (p *Platform) confirmed(ins []lrp.Instance) (sure []lrp.Instance, changed <-chan struct{}) {
	select {
	case <-p.ready:
		return ins, nil
	default:
	}
	c, ok := p.sched.(lrp.Confirmer)
	if !ok {
		return nil, p.ready
	}
	guids, changed := c.Confirmed()
	for _, in := range ins {
		if in.Others = nil; guids[in.GUID] {
			sure = append(sure, in)
		}
	}
	return sure, changed
}

// pumpRoutes keeps the router's table as routes and instances are.
func (p *Platform) pumpRoutes(ctx context.Context) error {
	ready := p.ready
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
		var confirmed <-chan struct{}
		if ready == nil {
			p.follow(set)
		} else {
			var sure []lrp.Instance
			sure, confirmed = p.confirmed(set.list())
			p.publish(sure)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ready:
			ready = nil
			set.renew()
		case <-confirmed:
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

// follow brings the router's table up to date with what has changed since.
func (p *Platform) follow(set *instanceSet) {
	changed, whole := set.take()
	rev := p.db.View().Rev()
	list, err := p.db.Changes(p.routed.rev, apps, routes)
	if whole || err != nil { // they are no longer kept
		p.publish(set.list())
		return
	}
	ids := map[string]bool{}
	for _, c := range list {
		rev = max(rev, c.Rev)
		for _, row := range []any{c.Old, c.New} {
			switch row := row.(type) {
			case App:
				ids[row.ID] = true
			case Route:
				ids[row.App] = true
			}
		}
	}
	known := map[lrp.ID]int{}
	for _, id := range changed {
		known[id] = serving(set.of(id))
		if app := p.routed.lrps[id]; app != "" { // only this goroutine changes it
			ids[app] = true
		}
	}
	if len(ids)+len(known) > 0 {
		p.show(p.db.View(), ids, set.of, known, false)
	}
	p.routed.rev = rev
}

// publish brings the router's table up to date with all that there is.
func (p *Platform) publish(ins []lrp.Instance) {
	v := p.db.View()
	byLRP := map[lrp.ID][]lrp.Instance{}
	for _, in := range ins {
		byLRP[in.LRP] = append(byLRP[in.LRP], in)
	}
	known := map[lrp.ID]int{}
	for id, all := range byLRP {
		known[id] = serving(all)
	}
	ids := map[string]bool{}
	for r := range routes.All(v) {
		ids[r.App] = true
	}
	for id := range p.routed.apps {
		ids[id] = true
	}
	p.show(v, ids, func(id lrp.ID) []lrp.Instance { return byLRP[id] }, known, true)
	p.routed.rev = v.Rev()
}

// show makes the routes of apps anew and gives the router those that have changed. known says how
// many instances of processes serve: of all, or of those that have changed.
func (p *Platform) show(v *state.Snapshot, ids map[string]bool, instances func(lrp.ID) []lrp.Instance, known map[lrp.ID]int, whole bool) {
	made := map[string]bool{}
	next := map[string]routedApp{}
	var changes []router.Change
	for id := range ids {
		ra := routedApp{guids: map[string]bool{}}
		for r := range routes.By(v, "app", id) {
			route := router.Route{Host: r.Host, Path: r.Path, Options: r.Options}
			if a, ok := apps.Get(v, id); ok && a.Started {
				web := a.Process(Web)
				ra.lrps = web.serving()
				for _, id := range ra.lrps {
					for _, in := range instances(id) {
						for _, b := range backends(a, in) {
							if r.HTTP2 {
								b.Protocol = "http2"
							}
							route.Backends = append(route.Backends, b)
							ra.guids[b.Instance] = true
						}
					}
				}
			}
			key := r.key()
			ra.keys, made[key] = append(ra.keys, key), true
			if old, ok := p.table[key]; !ok || !sameRoute(old, route) {
				changes = append(changes, router.Change{Route: route})
			}
		}
		next[id] = ra
	}
	for id := range ids {
		for _, key := range p.routed.apps[id].keys {
			if old, ok := p.table[key]; ok && !made[key] {
				changes = append(changes, router.Change{Route: old, Gone: true})
			}
		}
	}
	if p.table == nil {
		p.table = map[string]router.Route{}
	}
	for _, c := range changes {
		if key := c.Route.Host + c.Route.Path; c.Gone {
			delete(p.table, key)
		} else {
			p.table[key] = c.Route
		}
	}
	if len(changes) > 0 {
		p.router.SetTable(p.router.Table().With(changes...))
	}
	p.routed.update(next, known, whole)
}

func serving(ins []lrp.Instance) (n int) {
	for _, in := range ins {
		if serves(in) {
			n++
		}
	}
	return n
}

// sameRoute compares what this file makes.
func sameRoute(a, b router.Route) bool {
	return a.Options == b.Options && slices.EqualFunc(a.Backends, b.Backends, func(x, y router.Backend) bool {
		return x.Instance == y.Instance && x.Addr == y.Addr && x.Protocol == y.Protocol && x.App == y.App && x.Process == y.Process && x.Index == y.Index
	})
}

// backends are the works of an instance that serve: its own, and those that stand for it on
// a cell that is lost or drained until it runs elsewhere.
func backends(a App, in lrp.Instance) []router.Backend {
	var all []router.Backend
	add := func(guid string, addresses []cell.Address) {
		if len(addresses) > 0 {
			at := addresses[0]
			all = append(all, router.Backend{App: a.ID, Process: string(in.LRP), Instance: guid, Index: in.Index, Addr: at.Host, Dial: at.Dial})
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
