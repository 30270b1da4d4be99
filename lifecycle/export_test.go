package lifecycle

import "time"

// SetPatience sets how long Start waits for the role to say that it runs.
func (p *Program) SetPatience(d time.Duration) { p.patience = d }
