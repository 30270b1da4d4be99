package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// ErrStopped is why a push, start, restart or staging was given up: somebody stopped or
// deleted the app meanwhile.
var ErrStopped = errors.New("the app was stopped or deleted meanwhile")

// errEnded is why what was under way when Run ended was given up.
var errEnded = errors.New("the platform's Run has ended")

// absentError is an error that wraps fs.ErrNotExist, without its words.
type absentError struct{ text string }

func (e *absentError) Error() string     { return e.text }
func (e *absentError) Is(err error) bool { return err == fs.ErrNotExist }

func absent(format string, args ...any) error { return &absentError{fmt.Sprintf(format, args...)} }

// change is a change of an app under way.
type change struct {
	ended  chan struct{}
	giveUp context.CancelCauseFunc
}

// change runs fn with the app, one change of an app at a time.
func (p *Platform) change(ctx context.Context, verb, app string, fn func(context.Context, App) error) error {
	return p.changeApp(ctx, verb, app, false, fn)
}

// interrupt is change for what need not wait: a change under way is given up.
func (p *Platform) interrupt(ctx context.Context, verb, app string, fn func(context.Context, App) error) error {
	return p.changeApp(ctx, verb, app, true, fn)
}

func (p *Platform) changeApp(ctx context.Context, verb, app string, urgent bool, fn func(context.Context, App) error) error {
	a, err := p.App(app)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	ctx, unlock, err := p.lockApp(ctx, a.Name, urgent)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, a.Name, err)
	}
	defer unlock()
	name := a.Name
	if a, err = p.App(a.ID); err != nil { // it may have changed while we waited
		return fmt.Errorf("%s: %w", verb, absent("there is no app %q any more", name))
	}
	if err := fn(ctx, a); err != nil {
		return fmt.Errorf("%s %s: %w", verb, a.Name, givenUp(ctx, err))
	}
	return nil
}

// givenUp adds to an error why what failed was given up, if it was.
func givenUp(ctx context.Context, err error) error {
	for _, why := range []error{ErrStopped, errEnded} {
		if err != nil && errors.Is(context.Cause(ctx), why) && !errors.Is(err, why) {
			return fmt.Errorf("%w: %w", why, err)
		}
	}
	return err
}

// giveUpAll ends what waits for a Run that has ended, now and later.
func (p *Platform) giveUpAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	for _, c := range p.locked {
		c.giveUp(errEnded)
	}
}

// lockApp waits until nobody else changes the app of that name; urgent: what others do is
// given up. The context that it returns ends when somebody urgent comes.
func (p *Platform) lockApp(ctx context.Context, name string, urgent bool) (context.Context, func(), error) {
	name = nameKey(name)
	for {
		p.mu.Lock()
		if p.over {
			p.mu.Unlock()
			return ctx, nil, errEnded
		}
		busy, ok := p.locked[name]
		if !ok {
			mine := &change{ended: make(chan struct{})}
			ctx, mine.giveUp = context.WithCancelCause(ctx)
			p.locked[name] = mine
			p.mu.Unlock()
			return ctx, func() {
				p.mu.Lock()
				delete(p.locked, name)
				p.mu.Unlock()
				close(mine.ended)
				mine.giveUp(nil)
			}, nil
		}
		p.mu.Unlock()
		if urgent {
			busy.giveUp(ErrStopped)
		}
		select {
		case <-busy.ended:
		case <-ctx.Done():
			return ctx, nil, fmt.Errorf("waiting for another change of app %s: %w", name, ctx.Err())
		}
	}
}

// certain returns a context for changes that must not be given up half-way: what is begun
// when a caller leaves is done all the same, unless the database or the scheduler hangs.
func (p *Platform) certain(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
}

// putApp stores what a change made of an app, and of what it owns. What others change stays
// as it is.
func (p *Platform) putApp(ctx context.Context, a App, owned ...lrp.Desired) error {
	a.Updated = p.now()
	return p.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := apps.Get(tx, a.ID)
		if !ok {
			return fmt.Errorf("app %s is no more: %w", a.Name, fs.ErrNotExist)
		}
		a.Package, a.Droplet, a.Owned = row.Package, row.Droplet, row.Owned
		for _, d := range owned {
			if err := launched.Put(tx, d); err != nil {
				return err
			}
		}
		return apps.Put(tx, a)
	})
}

// own notes what the scheduler is about to hear of.
func (p *Platform) own(ctx context.Context, app string, all []lrp.Desired) error {
	return p.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := apps.Get(tx, app)
		if !ok {
			return fmt.Errorf("the app is no more: %w", fs.ErrNotExist)
		}
		row.Owned = slices.Clone(row.Owned)
		for _, d := range all {
			row.Owned = append(row.Owned, d.ID)
			if err := launched.Put(tx, d); err != nil {
				return err
			}
		}
		return apps.Put(tx, row)
	})
}

// disown has the scheduler let go of all that an app owns but does not run.
func (p *Platform) disown(ctx context.Context, a App) error {
	row, ok := apps.Get(p.db.View(), a.ID)
	if !ok {
		return nil
	}
	wanted := row.lrps()
	var gone []lrp.ID
	for _, id := range row.Owned {
		if slices.Contains(wanted, id) {
			continue
		}
		if err := p.sched.Remove(ctx, id); err != nil {
			return err
		}
		gone = append(gone, id)
	}
	if len(gone) == 0 {
		return nil
	}
	return p.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := apps.Get(tx, a.ID)
		if !ok {
			return nil
		}
		row.Owned = slices.DeleteFunc(slices.Clone(row.Owned), func(id lrp.ID) bool { return slices.Contains(gone, id) })
		for _, id := range gone {
			launched.Delete(tx, string(id))
		}
		return apps.Put(tx, row)
	})
}
