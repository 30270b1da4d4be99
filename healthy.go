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
// those of web are ready for requests. An instance that has crashed so often that it has to pause,
// that finds no place, or does not get ready, ends the wait: *UnhealthyError.
func (p *Platform) waitHealthy(ctx context.Context, a App) ([]ProcessStatus, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var place, ready limit
	defer place.end()
	defer ready.end()
	giveUp := func(pr ProcessStatus, in lrp.Instance) func() {
		return func() { cancel(&UnhealthyError{App: a.Name, Process: pr.Type, Instance: in}) }
	}
	mine := a.lrps()
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
		healthy, placed, served := true, true, true
		for _, pr := range now {
			for _, in := range pr.Now {
				switch {
				case in.State == lrp.Crashed:
					return now, &UnhealthyError{App: a.Name, Process: pr.Type, Instance: in}
				case in.PlacementError != "":
					placed = false
					place.begin(placementGrace, giveUp(pr, in))
				case pr.Type == Web && in.State == lrp.Running && !in.Routable:
					served = false
					ready.begin(readyWithin(pr), giveUp(pr, in))
				}
			}
			healthy = healthy && pr.Running() >= pr.Instances
		}
		if placed {
			place.end()
		}
		if served {
			ready.end()
		}
		if healthy && served {
			return now, nil
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

// limit is a time after which something is given up, from its first begin on until end.
type limit struct{ timer *time.Timer }

func (l *limit) begin(d time.Duration, giveUp func()) {
	if l.timer == nil && d >= 0 {
		l.timer = time.AfterFunc(d, giveUp)
	}
}

func (l *limit) end() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// knownWithin bounds the wait for what is known at once, unless an instance fails just then.
const knownWithin = time.Second

// awaitKnown waits until those who make the router's table have heard of the instances of web.
func (p *Platform) awaitKnown(ctx context.Context, a App) {
	web := a.Process(Web)
	if web.Instances == 0 || web.LRP == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, knownWithin)
	defer cancel()
	_ = p.routed.knows(ctx, web.LRP, web.Instances) // else the table gets those that it knows
}

// waitRouted returns when the router's table is made for what runs of the app.
func (p *Platform) waitRouted(ctx context.Context, a App) error {
	web := a.Process(Web)
	if web.Instances == 0 || web.LRP == "" {
		return nil
	}
	p.awaitKnown(ctx, a)
	return p.routed.wait(ctx, web.LRP)
}
