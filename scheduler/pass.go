package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/state"
)

// turn is what one Step decided, to be done when it is durable.
type turn struct {
	now    time.Time
	put    []lrp.Row
	del    []lrp.Row
	before []lrp.Row // as they were, those of put and del
	place  []placing
	claims []*starter
	fail   []lrp.ID // without a place
	held   []lrp.ID // by the starting limit

	putT    []Task
	delT    []Task
	beforeT []Task
	failT   []string
	heldT   []string
	tell    []*attendedTask
	moves   []Move
}

// pass looks at all that was touched and stores what follows, in one Update.
func (c *Core) pass(ctx context.Context, now time.Time) (stored bool, fatal error) {
	if !c.all && len(c.dirty)+len(c.dirtyT)+len(c.dirtyA)+c.budget == 0 && !c.balancing {
		return c.phase == ready && !c.failed, nil
	}
	all, ids, taskIDs, attends := c.all, sorted(c.dirty), sorted(c.dirtyT), sorted(c.dirtyA)
	others := c.before
	c.all, c.before = false, nil
	clear(c.dirty)
	clear(c.dirtyT)
	clear(c.dirtyA)
	for _, r := range others {
		delete(c.avoid, r.Key()) // what comes begins anew
	}
	t := &turn{now: now}
	err := c.db.Update(ctx, func(tx *state.Tx) error {
		if all {
			c.decideAll(tx, t)
		}
		for _, id := range ids {
			if !all || !c.exists(tx, id) {
				c.decideOne(tx, t, id)
			}
		}
		c.decideTasks(tx, t, all, taskIDs, attends)
		// A refusal of what was not looked at is seen anyway: the cell lacks the work.
		clear(c.refused)
		c.place(t)
		c.rebalance(tx, t)
		return t.write(tx)
	})
	if err != nil {
		c.undo(t, others, all, ids, taskIDs, attends)
		if errors.Is(err, state.ErrFenced) || errors.Is(err, state.ErrClosed) {
			return false, fmt.Errorf("scheduler: store changes of instances: %w", err)
		}
		if ctx.Err() == nil {
			c.log.Error("changes of instances could not be stored; they are tried again", "error", err)
		}
		return false, nil
	}
	c.done(t, others, ids, taskIDs)
	return true, nil
}

// retryStore is how long to wait after the journal failed.
const retryStore = time.Second

// undo takes back what was decided and could not be stored.
func (c *Core) undo(t *turn, others []lrp.Row, all bool, ids []lrp.ID, taskIDs, attends []string) {
	for _, s := range t.claims {
		delete(c.starting, s.work.ID)
		c.unload(s.m, s.work.ID)
		if a := c.attended[s.work.ID]; a != nil {
			a.on = nil
		}
	}
	// It may be stored all the same. Until that is certain the rows that can be read hold what
	// they held before.
	for i := range t.before {
		all, n := t.before[i].Occupants()
		c.unsure = append(c.unsure, all[:n]...)
	}
	for _, was := range t.beforeT {
		c.unsure = append(c.unsure, lrp.Occupancy{Cell: was.Cell, GUID: was.GUID})
	}
	// All of it is looked at again, but not at once: what is taken back here seems to make room.
	c.retry = t.now.Add(retryStore)
	c.all = c.all || all
	for _, id := range ids {
		c.dirty[id] = struct{}{}
	}
	for _, id := range taskIDs {
		c.dirtyT[id] = struct{}{}
	}
	for _, id := range attends {
		c.dirtyA[id] = struct{}{}
	}
	for _, a := range t.tell {
		c.tell(a) // nothing of it is to be stored
	}
	c.before = append(c.before, others...)
	c.recount = true
}

// done takes note of what was stored, and has it carried out.
func (c *Core) done(t *turn, others []lrp.Row, ids []lrp.ID, taskIDs []string) {
	for _, id := range ids {
		delete(c.unplaced, id)
		delete(c.limited, id)
	}
	for _, id := range taskIDs {
		delete(c.waiting, id)
	}
	for _, id := range t.fail {
		c.unplaced[id] = struct{}{}
		c.setFor(alarmLRP, string(id), t.now.Add(retryPlacement))
	}
	for _, id := range t.held {
		c.limited[id] = struct{}{}
	}
	for _, id := range t.failT {
		c.waiting[id] = struct{}{}
		c.setFor(alarmTask, id, t.now.Add(retryPlacement))
	}
	for _, id := range t.heldT {
		c.waiting[id] = struct{}{}
	}
	for _, list := range [][]lrp.Row{t.del, others} {
		for _, r := range list {
			delete(c.avoid, r.Key())
			delete(c.moving, r.Key())
		}
	}
	for _, r := range t.put {
		if len(c.moving) > 0 && (r.Evacuating == nil || !r.Evacuating.Moving) {
			delete(c.moving, r.Key())
		}
	}
	for _, x := range c.unsure { // by name: a cell that had not answered then may have by now
		c.check(x.Cell, x.GUID)
	}
	c.unsure = nil
	for _, list := range [][]lrp.Row{t.before, others} {
		for i := range list {
			all, n := list[i].Occupants()
			for _, x := range all[:n] {
				c.check(x.Cell, x.GUID)
			}
		}
	}
	for _, was := range t.beforeT {
		c.check(was.Cell, was.GUID)
	}
	for _, x := range t.putT {
		if x.State == TaskCompleted {
			delete(c.outcomes, x.GUID)
		}
	}
	for _, s := range t.claims {
		c.send(s)
	}
	for _, a := range t.tell {
		c.tell(a)
	}
	c.moved = append(c.moved, t.moves...)
	if c.recount {
		c.moving, c.recount = movingRows(c.db), false
	}
}

func (t *turn) write(tx *state.Tx) error {
	for _, r := range t.del {
		rows.Delete(tx, r.Key())
	}
	for _, r := range t.put {
		if err := rows.Put(tx, r); err != nil {
			return err
		}
	}
	for _, x := range t.delT {
		tasks.Delete(tx, x.ID)
	}
	for _, x := range t.putT {
		if err := tasks.Put(tx, x); err != nil {
			return err
		}
	}
	return nil
}

// check has a work looked at, whether anybody wants it.
func (c *Core) check(cellID, guid string) {
	if m := c.members[cellID]; m != nil && guid != "" {
		c.checks.add(check{m, guid})
	}
}
