package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dewpoint-go/dewpoint/lrp"
)

// run puts a push's droplet in place of what runs.
func (u *push) run(ctx context.Context) error {
	ctx, unlock, err := u.p.lockApp(ctx, u.p.changes, u.req.Name, false)
	if err != nil {
		return err
	}
	defer unlock()
	a, err := u.p.App(u.res.App.ID)
	if err != nil {
		return err
	}
	u.begin(StepRun)
	stopTell := u.tellLines(ctx, a.ID)
	defer stopTell()
	next, all, err := u.p.prepare(a)
	if err != nil {
		return err
	}
	u.done("%s", scheduled(a, next))
	u.begin(StepHealthy)
	u.res.Processes, err = u.p.run(ctx, a, next, all, func(text string) { u.p.logs.Append(u.p.apiLine(a.ID, text)) })
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

// run runs next instead of old, which is the same app with what runs of it now, and returns when all
// instances are healthy.
func (p *Platform) run(ctx context.Context, old, next App, all []lrp.Desired, tell func(string)) ([]ProcessStatus, error) {
	if len(old.lrps()) > 0 {
		return p.takeOver(ctx, old, next, all, tell)
	}
	if err := p.launch(ctx, next, all); err != nil {
		return nil, err
	}
	now, err := p.waitHealthy(ctx, next)
	if err != nil {
		return now, err
	}
	return now, p.waitRouted(ctx, next)
}

// scheduled says what is given to the scheduler, and how it takes over.
func scheduled(old, next App) string {
	var parts []string
	for _, pr := range next.Processes {
		if pr.LRP != "" {
			parts = append(parts, fmt.Sprintf("%s: %d × %s memory", pr.Type, pr.Instances, FormatBytes(pr.Memory)))
		}
	}
	text := strings.Join(parts, ", ")
	if len(old.lrps()) > 0 {
		text += "; " + string(cmp.Or(next.Strategy, Rolling)) + " in place of what runs"
	}
	return text
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

// prepare makes new processes for an app, whatever runs of it, and returns the app with them. Nobody
// knows of them so far.
func (p *Platform) prepare(a App) (next App, all []lrp.Desired, err error) {
	next = a
	next.Started = true
	for _, pr := range a.Processes {
		pr.LRP, pr.Successor = p.newLRP(a, pr), ""
		if pr.Next != nil {
			pr.Instances, pr.Next = *pr.Next, nil
		}
		d, err := p.desired(a, pr)
		switch {
		case errors.Is(err, ErrNoCommand) && pr.Type != Web && pr.Instances == 0:
			pr.LRP = "" // the droplet has no such process any more, and nobody misses it
		case err != nil:
			return a, nil, err
		default:
			all = append(all, d)
		}
		next.set(pr)
	}
	return next, all, nil
}

// launch runs the processes of an app of which nothing runs. They are the app's at once, so that they
// are healed from now on even if the first start fails, as with Cloud Foundry.
func (p *Platform) launch(ctx context.Context, next App, all []lrp.Desired) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := p.certain(ctx)
	defer cancel()
	if err := p.own(ctx, next.ID, all); err != nil {
		return err
	}
	for _, d := range all {
		if err := p.sched.Apply(ctx, d); err != nil {
			p.withdraw(ctx, next)
			return err
		}
	}
	if err := p.install(ctx, next); err != nil {
		p.withdraw(ctx, next)
		return err
	}
	return nil
}

// install makes the processes of next those that the app runs.
func (p *Platform) install(ctx context.Context, next App) error {
	return p.edit(ctx, next.ID, func(row *App) {
		row.Started = true
		for _, pr := range next.Processes {
			now := row.Process(pr.Type)
			now.LRP, now.Successor, now.Instances = pr.LRP, "", pr.Instances
			if now.Next != nil && *now.Next == pr.Instances {
				now.Next = nil
			}
			row.set(now)
		}
	})
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
