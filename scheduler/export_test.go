package scheduler

import "context"

// Audit asks the Core, which a Scheduler that runs owns.
func (s *Scheduler) Audit() (problems []string) {
	if err := s.ask(context.Background(), func(c *Core) {
		if problems = c.Audit(); len(c.alarms.list) > 10 {
			problems = append(problems, "many alarms are set")
		}
	}); err != nil {
		return []string{err.Error()}
	}
	return problems
}
