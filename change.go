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

// change runs fn with the app, one change of what an app runs at a time.
func (p *Platform) change(ctx context.Context, verb, app string, fn func(context.Context, App) error) error {
	return p.changeApp(ctx, verb, app, false, fn)
}

// interrupt is change for what need not wait: a change, push or staging under way is given up.
func (p *Platform) interrupt(ctx context.Context, verb, app string, fn func(context.Context, App) error) error {
	return p.changeApp(ctx, verb, app, true, fn)
}

func (p *Platform) changeApp(ctx context.Context, verb, app string, urgent bool, fn func(context.Context, App) error) error {
	a, err := p.App(app)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if urgent { // what is pushed or staged is given up, too
		_, unlock, err := p.lockApp(ctx, p.pushes, a.Name, true)
		if err != nil {
			return fmt.Errorf("%s %s: %w", verb, a.Name, err)
		}
		defer unlock()
	}
	ctx, unlock, err := p.lockApp(ctx, p.changes, a.Name, urgent)
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
	for _, all := range []map[string]*change{p.pushes, p.changes} {
		for _, c := range all {
			c.giveUp(errEnded)
		}
	}
}

// lockApp waits until nobody else is at the app of that name, which those are whom pushes or changes
// has; urgent: what others do is given up. The context that it returns ends when somebody urgent comes.
func (p *Platform) lockApp(ctx context.Context, locked map[string]*change, name string, urgent bool) (context.Context, func(), error) {
	name = nameKey(name)
	for {
		p.mu.Lock()
		if p.over {
			p.mu.Unlock()
			return ctx, nil, errEnded
		}
		busy, ok := locked[name]
		if !ok {
			mine := &change{ended: make(chan struct{})}
			ctx, mine.giveUp = context.WithCancelCause(ctx)
			locked[name] = mine
			p.mu.Unlock()
			return ctx, func() {
				p.mu.Lock()
				delete(locked, name)
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

// edit changes an app's row, and notes what the scheduler is told of what the app owns. Others may
// have changed the row since it was read: fn is given it as it is.
func (p *Platform) edit(ctx context.Context, app string, fn func(*App), owned ...lrp.Desired) error {
	return p.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := apps.Get(tx, app)
		if !ok {
			return absent("the app was deleted meanwhile")
		}
		for _, d := range owned {
			if err := launched.Put(tx, d); err != nil {
				return err
			}
		}
		fn(&row)
		row.Updated = p.now()
		return apps.Put(tx, row)
	})
}

// own notes what the scheduler is about to hear of.
func (p *Platform) own(ctx context.Context, app string, all []lrp.Desired) error {
	return p.edit(ctx, app, func(a *App) {
		a.Owned = slices.Clone(a.Owned)
		for _, d := range all {
			a.Owned = append(a.Owned, d.ID)
		}
	}, all...)
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
		for _, pr := range row.Processes {
			if slices.Contains(gone, pr.Successor) {
				pr.Successor = ""
				row.set(pr)
			}
		}
		for _, id := range gone {
			launched.Delete(tx, string(id))
		}
		return apps.Put(tx, row)
	})
}
