package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dewpoint-go/dewpoint/lrp"
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
