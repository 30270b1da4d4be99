package dewpoint

import (
	"context"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

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
