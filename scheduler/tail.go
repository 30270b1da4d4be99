package scheduler

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// lastLines is how long the last lines of a work that has ended are waited for.
const lastLines = 5 * time.Second

// tail begins to read the lines of an instance for the sink. The caller holds mu.
func (s *Scheduler) tail(ctx context.Context, m *member, k *known) {
	if s.sink == nil || k.tail != nil || k.status.Work == nil || k.status.Work.LRP == "" {
		return
	}
	k.tail = make(chan struct{})
	id := k.status.ID
	s.wg.Go(func() {
		s.readLines(ctx, m.cell, id, k.done, s.sink)
		s.mu.Lock()
		close(k.tail)
		s.checks[check{m, id}] = struct{}{}
		s.mu.Unlock()
		s.wake()
	})
}

// readLines gives every line of a work to out, once and in order, through any number of
// broken streams. It returns after the last line, a while after done is closed, or when
// ctx ends.
func (s *Scheduler) readLines(ctx context.Context, c cell.Cell, id string, done <-chan struct{}, out func(logs.Line)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left := make(chan struct{})
	defer close(left)
	go func() {
		select {
		case <-done:
			sleep(ctx, lastLines)
			cancel()
		case <-left:
		}
	}()
	var from logs.Position
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 2*time.Second) {
		var failed error
		for l, err := range c.Logs(ctx, id, from) {
			if err != nil {
				failed = err
				break
			}
			from, pause = l.Pos, 50*time.Millisecond
			out(l)
		}
		if failed == nil && ctx.Err() == nil {
			return // the stream ends after the last line of a work that has ended
		}
		if errors.Is(failed, fs.ErrNotExist) && !isOpen(done) {
			return
		}
		sleep(ctx, pause)
	}
}
