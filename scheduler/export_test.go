package scheduler

import (
	"context"
	"fmt"
)

// Audit asks the Core, which a Scheduler that runs owns.
func (s *Scheduler) Audit() (problems []string) {
	if err := s.ask(context.Background(), func(c *Core) {
		if problems = c.Audit(); len(c.alarms.list) > 10 || len(c.looks) > 1 {
			problems = append(problems, fmt.Sprintf("%d alarms and %d looks are set", len(c.alarms.list), len(c.looks)))
		}
	}); err != nil {
		return []string{err.Error()}
	}
	return problems
}
