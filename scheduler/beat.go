package scheduler

import (
	"context"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// beatAnswer is what became of one question.
type beatAnswer struct {
	asked time.Time
	state cell.State
	err   error
}

// beat asks the cell for its State again and again, to learn what it is and whether it answers. A
// question that is not answered soon is followed by others, while it is still waited for: so many in
// a row are not lost on a bad network before the cell counts as lost, even if it stood still for half of
// that time.
func (s *Scheduler) beat(ctx context.Context, p *peer) {
	period, soon, limit := s.lostAfter/6, s.lostAfter/60, s.lostAfter/4
	answers := make(chan beatAnswer)
	open := 0
	ask := func() {
		open++
		asked := time.Now()
		go func() {
			bctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			st, err := p.cell.State(bctx)
			answers <- beatAnswer{asked, st, err}
		}()
	}
	defer func() {
		for ; open > 0; open-- {
			<-answers
		}
	}()
	heard := time.Now()
	ask()
	next := time.NewTimer(soon)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			open--
			if ctx.Err() != nil {
				return
			}
			now := s.now()
			switch {
			case a.err == nil:
				heard = time.Now()
				s.postBeat(p, func(c *Core) { c.Answered(p.m, a.state, now) })
				next.Reset(period)
			case a.asked.After(heard): // nor has it answered since
				s.postBeat(p, func(c *Core) { c.Silent(p.m, a.err.Error(), now) })
			}
		case <-next.C:
			ask()
			if next.Reset(soon); time.Since(heard) > s.lostAfter {
				next.Reset(period) // there is no hurry any more
			}
		}
	}
}
