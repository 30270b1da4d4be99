package dewpoint

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/dewpoint-go/dewpoint/cell"
)

// cellTaker is a power of a Scheduler whose cells come and go.
type cellTaker interface {
	AddCell(c cell.Cell) error
	RemoveCell(id string) error
}

// NewAgent makes a cell of this machine that gets packages, droplets and buildpacks from this
// platform, and brings it what is staged: c with Open, Save, Login, Logger and Now filled in where
// they are nil. The caller runs it (Agent.Run) and gives it to AddCell. It must not outlive Run.
func (p *Platform) NewAgent(c cell.AgentConfig) (*cell.Agent, error) {
	if c.Open == nil {
		c.Open = p.open
	}
	if c.Save == nil {
		c.Save = p.save
	}
	if c.Login == nil {
		c.Login = p.imageLogin
	}
	if c.Now == nil {
		c.Now = p.now
	}
	c.Logger = cmp.Or(c.Logger, p.log)
	return cell.New(c)
}

// AddCell has a further cell take work, from now on. Cells on which an earlier run's instances
// may be are added before Run: what is on cells that are not known by then is replaced at once.
// A Scheduler that takes none: an error that wraps errors.ErrUnsupported.
func (p *Platform) AddCell(c cell.Cell) error {
	taker, ok := p.sched.(cellTaker)
	if !ok {
		return fmt.Errorf("add a cell: the scheduler %T takes none: %w", p.sched, errors.ErrUnsupported)
	}
	return taker.AddCell(c)
}

// RemoveCell takes a cell away: its instances are placed elsewhere at once and, as far as it
// answers, stopped there. Unknown: nil.
func (p *Platform) RemoveCell(id string) error {
	taker, ok := p.sched.(cellTaker)
	if !ok {
		return fmt.Errorf("remove cell %s: the scheduler %T takes none: %w", id, p.sched, errors.ErrUnsupported)
	}
	return taker.RemoveCell(id)
}
