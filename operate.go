package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
)

// operator is what a Scheduler can do for those who look after cells; package scheduler's can.
type operator interface {
	Explain(ctx context.Context, w scheduler.Want) (scheduler.Explanation, error)
	Drain(ctx context.Context, cellID string, on bool) error
	Rebalance(ctx context.Context, n int) ([]scheduler.Move, error)
	Check(ctx context.Context) error
	Cells(ctx context.Context) ([]scheduler.CellInfo, error)
}

func (p *Platform) operator() (operator, error) {
	o, ok := p.sched.(operator)
	if !ok {
		return nil, fmt.Errorf("the scheduler %T cannot do this: %w", p.sched, errors.ErrUnsupported)
	}
	return o, nil
}

// Watch yields every instance of every process with after 0, then Synced, and then each
// change; with a revision each change since, or lrp.ErrCompacted: then begin with 0 again. It
// ends when ctx does. The id of an instance's app is found by AppOf.
func (p *Platform) Watch(ctx context.Context, after uint64) iter.Seq2[lrp.Event, error] {
	return p.sched.Watch(ctx, after)
}

// AppOf finds the app and the type of the process that an instance is of; false: none runs it now.
func (p *Platform) AppOf(id lrp.ID) (App, string, bool) {
	for a := range apps.By(p.db.View(), "lrp", string(id)) {
		for _, pr := range a.Processes {
			if pr.LRP == id || pr.Successor == id {
				return a, pr.Type, true
			}
		}
	}
	return App{}, "", false
}

// Explain says where a further instance of an app's process ("": web) would be placed, and why,
// or which rules refuse it on how many cells. Nothing is placed.
func (p *Platform) Explain(ctx context.Context, app, process string) (scheduler.Explanation, error) {
	process = cmp.Or(process, Web)
	o, err := p.operator()
	if err != nil {
		return scheduler.Explanation{}, fmt.Errorf("explain %s: %w", app, err)
	}
	a, err := p.App(app)
	if err != nil {
		return scheduler.Explanation{}, err
	}
	pr := a.Process(process)
	if pr.Memory == 0 {
		return scheduler.Explanation{}, fmt.Errorf("explain %s: %w", a.Name, a.hasNo(process))
	}
	d, err := p.desired(a, pr)
	if err != nil {
		return scheduler.Explanation{}, fmt.Errorf("explain %s: %w", a.Name, err)
	}
	return o.Explain(ctx, scheduler.Want{Spec: d.Work.Spec, LRP: string(pr.LRP), Index: pr.Instances})
}

// Drain has a cell emptied, or lets it take work again. Its instances go on until their
// replacements run elsewhere. Durable on return; Cells tells when it is empty. A cell that is not
// known is no error: it is drained when it comes.
func (p *Platform) Drain(ctx context.Context, cellID string, on bool) error {
	o, err := p.operator()
	if err != nil {
		return fmt.Errorf("drain %s: %w", cellID, err)
	}
	return o.Drain(ctx, cellID, on)
}

// Rebalance moves at most n instances at a time to cells that have more room, each to run there
// before it ends where it was. It returns the moves that were begun.
func (p *Platform) Rebalance(ctx context.Context, n int) ([]scheduler.Move, error) {
	o, err := p.operator()
	if err != nil {
		return nil, fmt.Errorf("rebalance: %w", err)
	}
	return o.Rebalance(ctx, n)
}

// Check compares all that is wanted with all that is, and returns when what differs is decided.
// It is never needed: changes and deadlines are acted on when they come.
func (p *Platform) Check(ctx context.Context) error {
	o, err := p.operator()
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return o.Check(ctx)
}

// Cells tells what the scheduler knows of each cell, those that do not answer included.
func (p *Platform) Cells(ctx context.Context) ([]scheduler.CellInfo, error) {
	o, err := p.operator()
	if err != nil {
		return nil, fmt.Errorf("cells: %w", err)
	}
	return o.Cells(ctx)
}
