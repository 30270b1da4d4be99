package scheduler

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// Watch is lrp.Scheduler's.
func (st Store) Watch(ctx context.Context, after uint64) iter.Seq2[lrp.Event, error] {
	return watch(ctx, st.DB, after, rows, func(rev uint64) lrp.Event { return lrp.Event{Synced: true, Rev: rev} },
		func(old, now *lrp.Row, rev uint64) (lrp.Event, bool) {
			if now == nil {
				return lrp.Event{Instance: old.Shown(), Gone: true, Rev: rev}, true
			}
			e := lrp.Event{Instance: now.Shown(), Rev: rev}
			if old == nil {
				return e, true
			}
			was := old.Shown()
			return e, !was.Equal(&e.Instance)
		})
}

// WatchTasks is Watch for tasks: with after 0 it yields every task, then Synced, then each
// change; with a revision each change since, or lrp.ErrCompacted.
func (st Store) WatchTasks(ctx context.Context, after uint64) iter.Seq2[TaskEvent, error] {
	return watch(ctx, st.DB, after, tasks, func(rev uint64) TaskEvent { return TaskEvent{Synced: true, Rev: rev} },
		func(old, now *Task, rev uint64) (TaskEvent, bool) {
			if now == nil {
				return TaskEvent{Task: *old, Gone: true, Rev: rev}, true
			}
			return TaskEvent{Task: *now, Rev: rev}, true
		})
}

// watch yields the rows of a table and their changes as events.
func watch[T, E any](ctx context.Context, db *state.DB, after uint64, table *state.Table[T],
	synced func(rev uint64) E, event func(old, now *T, rev uint64) (E, bool),
) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		var none E
		if after == 0 {
			v := db.View()
			after = v.Rev()
			for r := range table.All(v) {
				if e, ok := event(nil, &r, 0); ok && !yield(e, nil) {
					return
				}
			}
			if !yield(synced(after), nil) {
				return
			}
		}
		for {
			changed := db.Changed(table)
			list, err := db.Changes(after, table)
			if errors.Is(err, state.ErrCompacted) {
				yield(none, lrp.ErrCompacted)
				return
			}
			if err != nil {
				yield(none, fmt.Errorf("scheduler: watch: %w", err))
				return
			}
			for i, c := range list {
				rev := after
				if last := i == len(list)-1 || list[i+1].Rev != c.Rev; last {
					rev, after = c.Rev, c.Rev
				}
				var old, now *T
				if r, ok := c.Old.(T); ok {
					old = &r
				}
				if r, ok := c.New.(T); ok {
					now = &r
				}
				if old == nil && now == nil {
					continue
				}
				if e, ok := event(old, now, rev); ok && (ctx.Err() != nil || !yield(e, nil)) {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}
