package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// UnhealthyError says that an app was started but an instance did not become healthy.
type UnhealthyError struct {
	App      string
	Process  string // its type
	Instance lrp.Instance
}

// Error says which instance it is, how it ended, and its last lines.
func (e *UnhealthyError) Error() string {
	in := e.Instance
	name := e.App
	if e.Process != Web {
		name += "'s process " + e.Process
	}
	switch {
	case in.State == lrp.Running && !in.Routable:
		return fmt.Sprintf("instance %d of %s runs, but its readiness check does not pass, so it gets no requests; its log says what the check was answered", in.Index, name)
	case in.LastCrash != nil:
		s := fmt.Sprintf("instance %d of %s does not stay up: %s", in.Index, name, in.LastCrash.Failure)
		if len(in.LastCrash.Last) > 0 {
			s += "; its last lines:\n  " + strings.Join(in.LastCrash.Last, "\n  ")
		}
		return s
	case in.PlacementError != "":
		return fmt.Sprintf("instance %d of %s found no place: %s", in.Index, name, in.PlacementError)
	}
	return fmt.Sprintf("instance %d of %s is %s", in.Index, name, in.State)
}

// Status is an app with what runs of it.
type Status struct {
	App       App
	Hosts     []string
	Droplet   Droplet
	Processes []ProcessStatus // in the order of App.Processes
}

// ProcessStatus is a process with its instances, in order of their index.
type ProcessStatus struct {
	Process
	Now []lrp.Instance
	// Coming are the instances of the version that is taking its place.
	Coming []lrp.Instance
}

// Running counts the instances that are healthy.
func (p ProcessStatus) Running() int {
	n := 0
	for _, in := range p.Now {
		if in.State == lrp.Running {
			n++
		}
	}
	return n
}

// Web is the status of the web process.
func (s Status) Web() ProcessStatus { return webOf(s.Processes) }

func webOf(all []ProcessStatus) ProcessStatus {
	for _, p := range all {
		if p.Type == Web {
			return p
		}
	}
	return ProcessStatus{Process: Process{Type: Web}}
}

// App finds an app by its name or id; absent: an error that wraps fs.ErrNotExist.
func (p *Platform) App(nameOrID string) (App, error) {
	v := p.db.View()
	if a, ok := apps.Get(v, nameOrID); ok {
		return a, nil
	}
	if a, ok := first(apps.By(v, "name", nameKey(nameOrID))); ok {
		return a, nil
	}
	return App{}, absent("there is no app %q", nameOrID)
}

// Apps lists all apps in order of their names.
func (p *Platform) Apps() []App {
	out := slices.Collect(apps.All(p.db.View()))
	slices.SortFunc(out, func(a, b App) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Status tells what runs of an app.
func (p *Platform) Status(ctx context.Context, app string) (Status, error) {
	a, err := p.App(app)
	if err != nil {
		return Status{}, err
	}
	s := Status{App: a, Hosts: p.hosts(a.ID)}
	s.Droplet, _ = droplets.Get(p.db.View(), a.Droplet)
	if s.Processes, err = p.processes(ctx, a); err != nil {
		return s, fmt.Errorf("status of %s: %w", a.Name, err)
	}
	return s, nil
}

func (p *Platform) processes(ctx context.Context, a App) ([]ProcessStatus, error) {
	var all []ProcessStatus
	for _, pr := range a.Processes {
		st := ProcessStatus{Process: pr}
		if pr.LRP != "" {
			var err error
			if st.Now, err = p.sched.Instances(ctx, pr.LRP); err != nil {
				return all, err
			}
		}
		if pr.Successor != "" {
			var err error
			if st.Coming, err = p.sched.Instances(ctx, pr.Successor); err != nil {
				return all, err
			}
		}
		all = append(all, st)
	}
	return all, nil
}

// Start runs an app's current droplet and returns when every instance is healthy.
// Started already: it waits for that.
func (p *Platform) Start(ctx context.Context, app string) error {
	return p.change(ctx, "start", app, func(ctx context.Context, a App) error {
		if !a.Started {
			next, all, err := p.prepare(a)
			if err != nil {
				return err
			}
			if a, err = next, p.launch(ctx, next, all); err != nil {
				return err
			}
		}
		if _, err := p.waitHealthy(ctx, a); err != nil {
			return err
		}
		return p.waitRouted(ctx, a)
	})
}

// Stop ends an app's instances gracefully; what is kept is its record. Stopped: nil. A push,
// start, restart or staging of the app that is under way is given up: it fails with ErrStopped.
func (p *Platform) Stop(ctx context.Context, app string) error {
	return p.interrupt(ctx, "stop", app, func(ctx context.Context, a App) error {
		ctx, cancel := p.certain(ctx)
		defer cancel()
		err := p.edit(ctx, a.ID, func(row *App) {
			row.Started = false
			for _, pr := range row.Processes {
				pr.LRP, pr.Successor = "", ""
				row.set(pr)
			}
		})
		if err != nil {
			return err
		}
		return p.disown(ctx, a)
	})
}

// Restart runs the current droplet with the current settings in place of what runs, as App.Strategy
// says, and returns when every instance is healthy. If they do not get so, what ran before goes on.
// While a new version takes over, it waits for that; a push that has not come so far is not waited for.
func (p *Platform) Restart(ctx context.Context, app string) error {
	return p.change(ctx, "restart", app, func(ctx context.Context, a App) error {
		next, all, err := p.prepare(a)
		if err != nil {
			return err
		}
		_, err = p.run(ctx, a, next, all, func(text string) { p.logs.Append(p.apiLine(a.ID, text)) })
		return err
	})
}

// Scale sets how many instances of a process ("": web) are wanted, from 0 on, and returns
// at once. What runs is of the droplet and settings that it was started with; those that are
// newer wait for Restart. While a new version takes over, Scale waits for that; a push that has not
// come so far is not waited for, and then goes on with that number.
func (p *Platform) Scale(ctx context.Context, app, process string, instances int) error {
	process = cmp.Or(process, Web)
	if instances < 0 || instances > lrp.MaxInstances {
		return fmt.Errorf("scale %s: %d instances: use 0 to %d", app, instances, lrp.MaxInstances)
	}
	return p.change(ctx, "scale", app, func(ctx context.Context, a App) error {
		pr := a.Process(process)
		if pr.Memory == 0 {
			return a.hasNo(process)
		}
		pr.Instances = instances
		ctx, cancel := p.certain(ctx)
		defer cancel()
		put := func(owned ...lrp.Desired) error {
			return p.edit(ctx, a.ID, func(row *App) {
				now := row.Process(process)
				now.Instances, now.Next, now.LRP = instances, nil, pr.LRP
				row.set(now)
			}, owned...)
		}
		if !a.Started {
			return put()
		}
		d, ok := launched.Get(p.db.View(), string(pr.LRP))
		if !ok { // it had no command so far
			pr.LRP = p.newLRP(a, pr)
			var err error
			if d, err = p.desired(a, pr); err != nil {
				return err
			}
			if err := p.own(ctx, a.ID, []lrp.Desired{d}); err != nil {
				return err
			}
		}
		// Noted first: if the scheduler is not reached, the next start of the platform tells it.
		d.Instances = instances
		if err := put(d); err != nil {
			return err
		}
		return p.sched.Apply(ctx, d)
	})
}

// RestartInstance stops one instance of a process ("": web) and starts it anew; its crashes
// are forgotten. It returns at once. No such instance: an error that wraps fs.ErrNotExist; a
// Scheduler that cannot: errors.ErrUnsupported.
func (p *Platform) RestartInstance(ctx context.Context, app, process string, index int) error {
	process = cmp.Or(process, Web)
	return p.change(ctx, "restart instance", app, func(ctx context.Context, a App) error {
		r, ok := p.sched.(lrp.Restarter)
		if !ok {
			return fmt.Errorf("the scheduler %T restarts no single instances: %w", p.sched, errors.ErrUnsupported)
		}
		pr := a.Process(process)
		switch {
		case pr.Memory == 0:
			return a.hasNo(process)
		case pr.LRP == "":
			return absent("there is no instance %d of %s: the app is stopped", index, process)
		}
		err := r.Restart(ctx, pr.LRP, index)
		if errors.Is(err, fs.ErrNotExist) {
			return absent("there is no instance %d of %s, which has %d", index, process, pr.Instances)
		}
		return err
	})
}

func (a App) hasNo(process string) error {
	return absent("it has no process %q; it has %s", process, names(a.Processes, func(pr Process) string { return pr.Type }))
}

// Delete ends an app and forgets it with its routes, packages, droplets and tasks. Absent: nil.
// What is under way with the app is given up, as with Stop.
func (p *Platform) Delete(ctx context.Context, app string) error {
	if _, err := p.App(app); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := p.interrupt(ctx, "delete", app, func(ctx context.Context, a App) error {
		ctx, cancel := p.certain(ctx)
		defer cancel()
		if err := p.endTasks(ctx, a); err != nil {
			return err
		}
		for _, id := range a.Owned {
			if err := p.sched.Remove(ctx, id); err != nil {
				return err
			}
		}
		err := p.db.Update(ctx, func(tx *state.Tx) error {
			for _, r := range slices.Collect(routes.By(tx, "app", a.ID)) {
				routes.Delete(tx, r.key())
			}
			for _, b := range slices.Collect(builds.By(tx, "app", a.ID)) {
				builds.Delete(tx, b.ID)
			}
			for _, k := range slices.Collect(packages.By(tx, "app", a.ID)) {
				p.catalog.Unuse(tx, "package:"+k.ID)
				packages.Delete(tx, k.ID)
			}
			for _, d := range slices.Collect(droplets.By(tx, "app", a.ID)) {
				p.catalog.Unuse(tx, "droplet:"+d.ID)
				droplets.Delete(tx, d.ID)
			}
			p.catalog.Unuse(tx, "cache:"+a.ID)
			caches.Delete(tx, a.ID)
			logins.Delete(tx, a.ID)
			for _, id := range a.Owned {
				launched.Delete(tx, string(id))
			}
			apps.Delete(tx, a.ID)
			return nil
		})
		if err != nil {
			return err
		}
		if err := p.endTasks(ctx, a); err != nil { // those that came meanwhile
			return err
		}
		p.forgetLogin(a.ID)
		p.logs.Drop(a.ID)
		_, err = p.catalog.Sweep(ctx)
		return err
	})
	if _, gone := p.App(app); errors.Is(err, fs.ErrNotExist) && gone != nil {
		return nil //nolint:nilerr // somebody else deleted it meanwhile
	}
	return err
}

// Logs yields an app's lines after a position; with follow it waits for more until ctx ends.
func (p *Platform) Logs(ctx context.Context, app string, from logs.Position, follow bool) iter.Seq2[logs.Line, error] {
	a, err := p.App(app)
	if err != nil {
		return func(yield func(logs.Line, error) bool) { yield(logs.Line{}, err) }
	}
	return p.logs.Read(ctx, a.ID, from, follow)
}

// Tail returns at most n of the newest lines of an app, oldest first; none for an unknown app.
func (p *Platform) Tail(app string, n int) []logs.Line {
	a, err := p.App(app)
	if err != nil {
		return nil
	}
	return p.logs.Tail(a.ID, n)
}

func first[T any](seq iter.Seq[T]) (T, bool) {
	for v := range seq {
		return v, true
	}
	var zero T
	return zero, false
}
