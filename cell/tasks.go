package cell

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// ErrLost says that the outcome of a work cannot be learned: its cell is gone or has forgotten
// it. It may have run.
var ErrLost = errors.New("the outcome of the task is lost")

// Tasks runs works to their end on one Cell, without a scheduler: it is the
// staging.TaskRunner of a program that stages and runs nothing else. A work that does not
// fit is refused at once, not queued.
type Tasks struct{ Cell Cell }

// RunTask starts w, gives its lines to out (nil: nobody), waits for its end, and makes the
// cell forget it. A failure of the work itself is in the Status; errors are for a work that
// was refused (*RefusedError), or whose outcome is lost (ErrLost). When ctx ends the work is stopped,
// and what is returned wraps ctx's error. Out is called by one goroutine at a time, and not
// after the return.
func (t Tasks) RunTask(ctx context.Context, w Work, out func(logs.Line)) (Status, error) {
	// The talk with the cell goes on after ctx has ended, until the work has been stopped.
	talk, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	if err := t.Cell.Start(ctx, w); err != nil {
		var refused *RefusedError
		if !errors.As(err, &refused) { // perhaps it was taken after all
			stop, cancel := context.WithTimeout(talk, 5*time.Second)
			defer cancel()
			err = errors.Join(err, t.Cell.Stop(stop, w.ID))
		}
		return Status{}, fmt.Errorf("run task %s: %w", w.ID, err)
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		for l, err := range t.Cell.Logs(talk, w.ID, 0) {
			if err != nil {
				return // its lines are lost; its end is what Watch tells
			}
			if out != nil {
				out(l)
			}
		}
	}()
	unhook := context.AfterFunc(ctx, func() {
		// If this fails, so does Watch.
		_ = t.Cell.Stop(talk, w.ID)
	})
	defer unhook()
	status, err := t.end(talk, w.ID)
	if err != nil {
		hangUp()
	}
	<-logged
	if err != nil {
		return status, fmt.Errorf("run task %s: %w", w.ID, err)
	}
	if err := t.Cell.Stop(talk, w.ID); err != nil {
		return status, fmt.Errorf("run task %s: forget it: %w", w.ID, err)
	}
	t.forgotten(talk, w.ID)
	if ctx.Err() != nil && status.Reason == ReasonStopped {
		return status, fmt.Errorf("run task %s: %w", w.ID, context.Cause(ctx))
	}
	return status, nil
}

// forgotten waits until the cell has nothing left of a work. A cell that cannot be asked
// any more, or that does not come to it, keeps its own house.
func (t Tasks) forgotten(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	seen := false
	for e, err := range t.Cell.Watch(ctx) {
		switch {
		case err != nil, e.Synced && !seen:
			return
		case e.Status.ID != id:
		case e.Gone:
			return
		default:
			seen = true
		}
	}
}

// end waits for the end of a work.
func (t Tasks) end(ctx context.Context, id string) (Status, error) {
	seen := false
	for e, err := range t.Cell.Watch(ctx) {
		switch {
		case err != nil:
			return Status{}, fmt.Errorf("%w: %w", ErrLost, err)
		case e.Synced && !seen:
			return Status{}, fmt.Errorf("%w: the cell has forgotten it", ErrLost)
		case e.Status.ID != id:
		case e.Gone, e.Status.Phase == PhaseDone:
			return e.Status, nil
		default:
			seen = true
		}
	}
	return Status{}, fmt.Errorf("%w: the cell tells no more", ErrLost)
}
