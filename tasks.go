package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
)

// TaskRequest says what to do once with an app's droplet: a migration, a report.
type TaskRequest struct {
	// Name shows in the source of its lines, APP/TASK/NAME; "": the first part of its id.
	Name    string
	Command string // required
	// Memory and Disk in bytes; 0: those of the web process.
	Memory, Disk int64
	// Timeout ends it; 0: none.
	Timeout time.Duration
	// Result is the whole path of a file whose content comes back in Task.Outputs, of at most 50 KiB; "": none.
	Result string
}

// Task is a task with what became of it; its Annotation is the id of its app.
type Task = scheduler.Task

// taskKeeper is a power of a Scheduler: tasks that outlive their callers.
type taskKeeper interface {
	DesireTask(ctx context.Context, id string, w cell.Work, annotation string) error
	CancelTask(ctx context.Context, id string) error
	ForgetTask(ctx context.Context, id string) error
	Task(id string) (Task, error)
	Tasks() []Task
	WatchTasks(ctx context.Context, after uint64) iter.Seq2[scheduler.TaskEvent, error]
}

// maxResult is the size of a result file in bytes, as in Cloud Foundry (rep:
// generator/internal/task_processor.go).
const maxResult = 50 << 10

func (p *Platform) taskKeeper() (taskKeeper, error) {
	k, ok := p.sched.(taskKeeper)
	if !ok {
		return nil, fmt.Errorf("the scheduler %T keeps no tasks: %w", p.sched, errors.ErrUnsupported)
	}
	return k, nil
}

// RunTask has a command run once with an app's current droplet, and returns at once; the app
// need not be started, and a push under way is not waited for. The task goes on if the caller leaves, and through a restart of the
// platform over the same journal. WatchTasks and Task tell its end.
func (p *Platform) RunTask(ctx context.Context, app string, r TaskRequest) (Task, error) {
	k, err := p.taskKeeper()
	if err != nil {
		return Task{}, fmt.Errorf("run a task of %s: %w", app, err)
	}
	if r.Command == "" {
		return Task{}, fmt.Errorf("run a task of %s: TaskRequest.Command is empty; say what to run", app)
	}
	if r.Memory < 0 || r.Disk < 0 || r.Timeout < 0 || r.Name != "" && !validName(r.Name) {
		return Task{}, fmt.Errorf("run a task of %s: name %q, memory %d, disk %d, timeout %v: none can be negative, and a name is of letters, digits, \"-\", \"_\" and \".\"",
			app, r.Name, r.Memory, r.Disk, r.Timeout)
	}
	if r.Result != "" && !path.IsAbs(r.Result) {
		return Task{}, fmt.Errorf("run a task of %s: result file %q: give its whole path, such as /home/vcap/app/%s", app, r.Result, path.Base(r.Result))
	}
	var id string
	a, err := p.App(app)
	if err != nil {
		return Task{}, fmt.Errorf("run a task: %w", err)
	}
	w, id, err := p.taskWork(a, r)
	if err != nil {
		return Task{}, fmt.Errorf("run a task of %s: %w", a.Name, err)
	}
	ctx, cancel := p.certain(ctx)
	defer cancel()
	if err := k.DesireTask(ctx, id, w, a.ID); err != nil {
		return Task{}, fmt.Errorf("run a task of %s: %w", a.Name, err)
	}
	// Nothing is locked. Who deletes the app ends its tasks when its row is gone: ours is among them, or
	// we see that here.
	if _, err := p.App(a.ID); err != nil {
		if err := endTask(ctx, k, id); err != nil {
			return Task{}, fmt.Errorf("run a task of %s: the app was deleted meanwhile: %w", a.Name, err)
		}
		return Task{}, fmt.Errorf("run a task of %s: %w", a.Name, absent("the app was deleted meanwhile"))
	}
	return k.Task(id)
}

// taskWork is what to run, and its id.
func (p *Platform) taskWork(a App, r TaskRequest) (cell.Work, string, error) {
	id := p.newID()
	pr := a.Process(Web)
	pr.Type, pr.Command, pr.Health = "task", r.Command, cell.Health{}
	pr.Memory, pr.Disk = cmp.Or(r.Memory, pr.Memory), cmp.Or(r.Disk, pr.Disk)
	pr.LRP = lrp.ID(id)
	d, err := p.desired(a, pr)
	if err != nil {
		return cell.Work{}, "", err
	}
	w := d.Work
	w.Health, w.Sidecars, w.Timeout = nil, nil, r.Timeout
	w.Log.Source = "APP/TASK/" + cmp.Or(r.Name, id[:min(len(id), 8)])
	if r.Result != "" {
		w.Outputs = []cell.Output{{Path: r.Result, MaxBytes: maxResult, Inline: true}}
	}
	return w, id, nil
}

// Task returns a task by its id; unknown: an error that wraps fs.ErrNotExist.
func (p *Platform) Task(id string) (Task, error) {
	k, err := p.taskKeeper()
	if err != nil {
		return Task{}, err
	}
	return k.Task(id)
}

// Tasks returns an app's tasks, those that are over included, newest last.
func (p *Platform) Tasks(app string) ([]Task, error) {
	k, err := p.taskKeeper()
	if err != nil {
		return nil, err
	}
	a, err := p.App(app)
	if err != nil {
		return nil, err
	}
	return tasksOf(k, a), nil
}

// CancelTask ends a task: it fails with "task was cancelled". Unknown: fs.ErrNotExist; over
// already: scheduler.ErrTaskState.
func (p *Platform) CancelTask(ctx context.Context, id string) error {
	k, err := p.taskKeeper()
	if err != nil {
		return err
	}
	return k.CancelTask(ctx, id)
}

// WatchTasks yields the tasks of all apps with after 0, then Synced, and then each change; with
// a revision each change since, or lrp.ErrCompacted. It ends when ctx does.
func (p *Platform) WatchTasks(ctx context.Context, after uint64) iter.Seq2[scheduler.TaskEvent, error] {
	k, err := p.taskKeeper()
	if err != nil {
		return func(yield func(scheduler.TaskEvent, error) bool) { yield(scheduler.TaskEvent{}, err) }
	}
	return k.WatchTasks(ctx, after)
}

// tasksOf are the tasks of an app, in the order in which they were asked for.
func tasksOf(k taskKeeper, a App) []Task {
	var all []Task
	for _, t := range k.Tasks() {
		if t.Annotation == a.ID {
			all = append(all, t)
		}
	}
	slices.SortStableFunc(all, func(x, y Task) int { return x.Created.Compare(y.Created) })
	return all
}

// endTasks cancels and forgets the tasks of an app that goes.
func (p *Platform) endTasks(ctx context.Context, a App) error {
	k, ok := p.sched.(taskKeeper)
	if !ok {
		return nil
	}
	for _, t := range tasksOf(k, a) {
		if err := endTask(ctx, k, t.ID); err != nil {
			return err
		}
	}
	return nil
}

// endTask cancels and forgets a task. One that is not there: nil.
func endTask(ctx context.Context, k taskKeeper, id string) error {
	if err := k.CancelTask(ctx, id); err != nil && !errors.Is(err, scheduler.ErrTaskState) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := k.ForgetTask(ctx, id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
