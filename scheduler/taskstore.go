package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// ErrTaskExists says that a task was desired under the id of another one.
var ErrTaskExists = errors.New("scheduler: another task has this id; use a new one")

// ErrTaskState says that a task is not in a state in which it can be cancelled or forgotten.
var ErrTaskState = errors.New("scheduler: the task is not in the right state")

var taskForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

func validateTask(id string, w cell.Work, annotation string) error {
	switch {
	case !taskForm.MatchString(id):
		return fmt.Errorf("scheduler: task %q: its id must be 1 to 128 of a-z, A-Z, 0-9, \"-\" and \"_\"", id)
	case w.ID != "" || w.LRP != "" || w.Index != 0 || w.Health != nil:
		return fmt.Errorf("scheduler: task %s: leave the id, lrp, index and health of its work empty", id)
	case w.Timeout < 0:
		return fmt.Errorf("scheduler: task %s: its timeout is %v; use 0 (none) or more", id, w.Timeout)
	}
	// What holds for a process holds for a task, but for its ends.
	d := lrp.Desired{ID: "task", Work: w, Annotation: annotation}
	d.Work.Timeout, d.Work.Outputs = 0, nil
	if len(w.Spec.Ports) == 0 {
		d.Work.Health = &cell.Health{Type: "process"}
	}
	if err := lrp.Validate(d); err != nil {
		return fmt.Errorf("scheduler: task %s: %w", id, err)
	}
	return nil
}

// DesireTask has a work done once. Durable on return; the effect follows. Idempotent by id:
// another work under it is ErrTaskExists.
func (st Store) DesireTask(ctx context.Context, id string, w cell.Work, annotation string, now time.Time) (Change, error) {
	if err := validateTask(id, w, annotation); err != nil {
		return Change{}, err
	}
	t := Task{ID: id, Work: w, Annotation: annotation, State: TaskPending, Created: now, Since: now}
	err := st.DB.Update(ctx, func(tx *state.Tx) error {
		if old, ok := tasks.Get(tx, id); ok {
			if !sameWork(old.Work, w) {
				return ErrTaskExists
			}
			return nil
		}
		return tasks.Put(tx, t)
	})
	return taskChange(t), wrapTask("desire", id, err)
}

func taskChange(t Task) Change { return Change{tasks: []Task{t}} }

func wrapTask(what, id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("scheduler: %s task %s: %w", what, id, err)
}

// CancelTask fails a task that is not over: "task was cancelled". Durable on return; its work
// is stopped after that. Unknown: fs.ErrNotExist; over: ErrTaskState.
func (st Store) CancelTask(ctx context.Context, id string, now time.Time) (Change, error) {
	was := Task{ID: id}
	err := st.DB.Update(ctx, func(tx *state.Tx) error {
		t, ok := tasks.Get(tx, id)
		if !ok {
			return fs.ErrNotExist
		}
		if t.State == TaskCompleted {
			return fmt.Errorf("it is over: %w", ErrTaskState)
		}
		was = t
		return tasks.Put(tx, t.complete(failCancelled, now))
	})
	return taskChange(was), wrapTask("cancel", id, err)
}

// ForgetTask removes a task that is over. Unknown: nil; not over: ErrTaskState, so cancel it
// first.
func (st Store) ForgetTask(ctx context.Context, id string) (Change, error) {
	was := Task{ID: id}
	err := st.DB.Update(ctx, func(tx *state.Tx) error {
		t, ok := tasks.Get(tx, id)
		if !ok {
			return nil
		}
		if t.State != TaskCompleted {
			return fmt.Errorf("it is not over, cancel it first: %w", ErrTaskState)
		}
		was = t
		tasks.Delete(tx, id)
		return nil
	})
	return taskChange(was), wrapTask("forget", id, err)
}

// Task returns one task; unknown: fs.ErrNotExist.
func (st Store) Task(id string) (Task, error) {
	t, ok := tasks.Get(st.DB.View(), id)
	if !ok {
		return Task{}, wrapTask("read", id, fs.ErrNotExist)
	}
	return t, nil
}

// Tasks returns every task, in order of id.
func (st Store) Tasks() []Task { return slices.Collect(tasks.All(st.DB.View())) }
