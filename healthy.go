package dewpoint

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
)

// placementGrace is how long an instance may be without a place before a push gives up:
// what is being stopped still takes room.
const placementGrace = 15 * time.Second

// readyGrace is how long the instances of web may be healthy and not ready, if their health
// check has no StartTimeout.
const readyGrace = time.Minute

// waitHealthy returns the processes of an app when all instances that are wanted run, and
// those of web are ready for requests.
func (p *Platform) waitHealthy(ctx context.Context, a App) ([]ProcessStatus, error) {
	return p.await(ctx, a, placementGrace, func(now []ProcessStatus) (bool, error) {
		for _, pr := range now {
			if pr.Running() < pr.Instances {
				return false, nil
			}
			for _, in := range pr.Now {
				if pr.Type == Web && in.State == lrp.Running && !in.Routable {
					return false, nil
				}
			}
		}
		return true, nil
	})
}

// await asks done about the processes of an app at first and whenever an instance of theirs, or of also,
// has changed, until it says so. An instance that has crashed so often that it has to pause, that finds no
// place for as long as grace, or does not get ready, ends that: *UnhealthyError.
func (p *Platform) await(ctx context.Context, a App, grace time.Duration, done func([]ProcessStatus) (bool, error), also ...lrp.ID) ([]ProcessStatus, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pending := limits{} // by GUID; without a place: by ""
	defer pending.keep(nil)
	mine := append(a.lrps(), also...)
	for e, err := range p.watch(ctx, func() {}) {
		if err != nil {
			return nil, err
		}
		if !e.Synced && !slices.Contains(mine, e.Instance.LRP) {
			continue
		}
		now, err := p.processes(ctx, a)
		if err != nil {
			return nil, err
		}
		late := map[string]bool{}
		for _, pr := range now {
			for _, in := range pr.Now {
				giveUp := func() { cancel(&UnhealthyError{App: a.Name, Process: pr.Type, Instance: in}) }
				switch {
				case in.State == lrp.Crashed:
					return now, &UnhealthyError{App: a.Name, Process: pr.Type, Instance: in}
				case in.PlacementError != "":
					late[""] = true
					pending.begin("", grace, giveUp)
				case pr.Type == Web && in.State == lrp.Running && !in.Routable:
					late[in.GUID] = true
					pending.begin(in.GUID, readyWithin(pr), giveUp)
				}
			}
		}
		pending.keep(late)
		if ok, err := done(now); ok || err != nil {
			return now, err
		}
	}
	return nil, fmt.Errorf("waiting for instances of %s: %w", a.Name, context.Cause(ctx))
}

// readyWithin is how long an instance may take from being healthy to being ready; negative: as
// long as it likes.
func readyWithin(pr ProcessStatus) time.Duration {
	if pr.Health.StartTimeout != 0 {
		return pr.Health.StartTimeout
	}
	return readyGrace
}

// limits are times after which something is given up, from its first begin on.
type limits map[string]*time.Timer

func (l limits) begin(what string, d time.Duration, giveUp func()) {
	if l[what] == nil && d >= 0 {
		l[what] = time.AfterFunc(d, giveUp)
	}
}

// keep ends all others.
func (l limits) keep(late map[string]bool) {
	for what, t := range l {
		if !late[what] {
			t.Stop()
			delete(l, what)
		}
	}
}

// knownWithin bounds the wait for what is known at once, unless an instance fails just then.
const knownWithin = time.Second

// awaitKnown waits until those who make the router's table have heard of so many instances of web.
func (p *Platform) awaitKnown(ctx context.Context, id lrp.ID, instances int) {
	ctx, cancel := context.WithTimeout(ctx, knownWithin)
	defer cancel()
	_ = p.routed.knows(ctx, id, instances) // else the table gets those that it knows
}

// waitRouted returns when the router's table is made for what runs of the app.
func (p *Platform) waitRouted(ctx context.Context, a App) error {
	web := a.Process(Web)
	if web.Instances == 0 || web.LRP == "" {
		return nil
	}
	p.awaitKnown(ctx, web.LRP, web.Instances)
	return p.routed.until(ctx, func() bool { return p.routed.lrps[web.LRP] != "" || len(p.hosts(a.ID)) == 0 })
}

// waitUnrouted returns when the router's table is made without a process.
func (p *Platform) waitUnrouted(ctx context.Context, id lrp.ID) error {
	return p.routed.until(ctx, func() bool { return p.routed.lrps[id] == "" })
}
