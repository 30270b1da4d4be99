package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dewpoint-go/dewpoint/cell"
)

// cellTaker is a power of a Scheduler whose cells come and go.
type cellTaker interface {
	AddCell(c cell.Cell) error
	RemoveCell(id string) error
}

// NewAgent makes a cell of this machine that gets packages, droplets and buildpacks from this
// platform, and brings it what is staged: c with Open, Save, Logger and Now filled in where
// they are nil. The caller runs it (Agent.Run) and gives it to AddCell. It must not outlive Run.
func (p *Platform) NewAgent(c cell.AgentConfig) (*cell.Agent, error) {
	if c.Open == nil {
		c.Open = p.open
	}
	if c.Save == nil {
		c.Save = p.save
	}
	if c.Now == nil {
		c.Now = p.now
	}
	c.Logger = cmp.Or(c.Logger, p.log)
	return cell.New(c)
}

// AddCell has a further cell take work, from now on. A Scheduler that takes none: an error
// that wraps errors.ErrUnsupported.
func (p *Platform) AddCell(c cell.Cell) error {
	taker, ok := p.sched.(cellTaker)
	if !ok {
		return fmt.Errorf("add a cell: the scheduler %T takes none: %w", p.sched, errors.ErrUnsupported)
	}
	if err := taker.AddCell(c); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cells = append(p.cells, c)
	return nil
}

// RemoveCell takes a cell away: its instances are placed elsewhere at once and, as far as it
// answers, stopped there. Unknown: nil.
func (p *Platform) RemoveCell(ctx context.Context, id string) error {
	taker, ok := p.sched.(cellTaker)
	if !ok {
		return fmt.Errorf("remove cell %s: the scheduler %T takes none: %w", id, p.sched, errors.ErrUnsupported)
	}
	if err := taker.RemoveCell(id); err != nil {
		return err
	}
	states, cells := p.states(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cells = slices.DeleteFunc(p.cells, func(c cell.Cell) bool {
		i := slices.Index(cells, c)
		return i >= 0 && states[i].ID == id
	})
	return nil
}

// Cells describes the cells, those that answer, in the order in which they came.
func (p *Platform) Cells(ctx context.Context) []cell.State {
	all, _ := p.states(ctx)
	return slices.DeleteFunc(all, func(s cell.State) bool { return s.ID == "" })
}

// states asks all cells at the same time; one that does not answer has no ID.
func (p *Platform) states(ctx context.Context) ([]cell.State, []cell.Cell) {
	p.mu.Lock()
	cells := slices.Clone(p.cells)
	p.mu.Unlock()
	all := make([]cell.State, len(cells))
	var wg sync.WaitGroup
	for i, c := range cells {
		wg.Go(func() {
			if s, err := c.State(ctx); err == nil {
				all[i] = s
			}
		})
	}
	wg.Wait()
	return all, cells
}
