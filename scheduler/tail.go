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

// reading names a work whose lines are read.
type reading struct {
	on *Member
	id string
}

// read gives the lines of a work to the sink, and tells the Core when it has the last.
func (s *Scheduler) read(ctx context.Context, p *peer, m *Member, id string) {
	done := make(chan struct{})
	s.mu.Lock()
	s.readers[reading{m, id}] = done
	s.mu.Unlock()
	s.wg.Go(func() {
		readLines(ctx, p.cell, id, done, s.sink)
		s.endReading(reading{m, id})
		s.post(func(c *Core) { c.LinesRead(m, id) })
	})
}

// endReading says that a work has ended, so that its lines come to an end.
func (s *Scheduler) endReading(r reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done, ok := s.readers[r]; ok {
		close(done)
		delete(s.readers, r)
	}
}

// readLines gives every line of a work to out, once and in order, through any number of
// broken streams. It returns after the last line, a while after done is closed, or when
// ctx ends.
func readLines(ctx context.Context, c cell.Cell, id string, done <-chan struct{}, out func(logs.Line)) {
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
