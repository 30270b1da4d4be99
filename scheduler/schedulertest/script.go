package schedulertest

import (
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// Works returns what the cell knows, in order of LRP and index.
func (c *Cell) Works() []cell.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statuses()
}

// Live returns the works that have not ended and are not asked to.
func (c *Cell) Live() []cell.Status {
	var live []cell.Status
	for _, s := range c.Works() {
		if s.Phase != cell.PhaseDone && s.Phase != cell.PhaseStopping {
			live = append(live, s)
		}
	}
	return live
}

// Calls returns how often Start and Stop were called and answered.
func (c *Cell) Calls() (starts, stops int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starts, c.stops
}

func (c *Cell) with(id string, fn func(*work)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	x, ok := c.works[id]
	if !ok {
		return false
	}
	fn(x)
	close(x.changed)
	x.changed = make(chan struct{})
	c.mark(mark{id: id})
	return true
}

// Advance makes a held work run. It tells whether the cell knows the work.
func (c *Cell) Advance(id string) bool { return c.with(id, c.run) }

// Finish ends a work: well if code is 0 and it has no Health, else as a crash. It tells
// whether the cell knows the work.
func (c *Cell) Finish(id string, code int) bool {
	return c.with(id, func(x *work) {
		now := time.Now()
		x.status.Phase, x.status.Since = cell.PhaseDone, now
		x.status.Exit = &cell.Exit{Code: code, Time: now}
		if code != 0 || x.status.Work.Health != nil {
			x.status.Reason = cell.ReasonExit
		}
		for _, l := range x.lines[max(0, len(x.lines)-20):] {
			x.status.Last = append(x.status.Last, l.Text)
		}
	})
}

// Print says a line as a work. It tells whether the cell knows the work.
func (c *Cell) Print(id, text string) bool {
	return c.with(id, func(x *work) {
		tag := x.status.Work.Log
		x.lines = append(x.lines, logs.Line{App: tag.App, Source: tag.Source, Index: tag.Index, Instance: id,
			Time: time.Now(), Text: text, Pos: logs.Position(len(x.lines) + 1)})
	})
}

// Forget makes a work vanish, as if its machine had lost it.
func (c *Cell) Forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(id)
}

// Bury lets works end that Linger keeps in PhaseStopping.
func (c *Cell) Bury() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, x := range c.works {
		if x.status.Phase == cell.PhaseStopping {
			c.forget(id)
		}
	}
}

// Silence makes the cell hang on every call, and its streams stand still, until Speak.
func (c *Cell) Silence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent == nil {
		c.silent = make(chan struct{})
	}
}

// Speak ends Silence.
func (c *Cell) Speak() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent != nil {
		close(c.silent)
		c.silent = nil
	}
}

// Cut breaks every stream that is open; new ones work.
func (c *Cell) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.cuts)
	c.cuts = make(chan struct{})
}

// Stick has every Watch that is open say nothing more, though it does not end; new ones work.
func (c *Cell) Stick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.deaf)
	c.deaf = make(chan struct{})
}

// Refuse makes Start refuse with what fn returns unless that is ""; nil: refuse nothing.
func (c *Cell) Refuse(fn func(cell.Work) string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = fn
}

// FailStart makes Start fail with what fn returns. done says whether the work is taken
// nevertheless: "failed, not done" and "failed, but done". nil: no failures.
func (c *Cell) FailStart(fn func(cell.Work) (done bool, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = fn
}

// FailStop makes Stop fail with what fn returns. done says whether the work is stopped
// nevertheless: "failed, not done" and "failed, but done". nil: no failures.
func (c *Cell) FailStop(fn func(id string) (done bool, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failStop = fn
}

// Drain sets whether the cell says that it is draining.
func (c *Cell) Drain(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = on
}
