package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"sync"
)

// maxMemPipe is how many bytes wait to be read, as in a pipe of Linux (pipe(7)).
const maxMemPipe = 64 << 10

// memPipe is like a pipe of the machine: what is written waits to be read.
type memPipe struct {
	mu      sync.Mutex
	changed sync.Cond
	waiting []byte
	closed  bool // no more comes
	deaf    bool // nobody reads any more
}

func newMemPipe() *memPipe {
	p := &memPipe{}
	p.changed.L = &p.mu
	return p
}

func (p *memPipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.waiting) == 0 && !p.closed && !p.deaf {
		p.changed.Wait()
	}
	switch {
	case p.deaf:
		return 0, io.ErrClosedPipe
	case len(p.waiting) == 0:
		return 0, io.EOF
	}
	n := copy(b, p.waiting)
	p.waiting = p.waiting[n:]
	p.changed.Broadcast()
	return n, nil
}

func (p *memPipe) Write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for len(p.waiting) == maxMemPipe && !p.closed && !p.deaf {
			p.changed.Wait()
		}
		if p.closed || p.deaf {
			return n, io.ErrClosedPipe
		}
		some := min(len(b), maxMemPipe-len(p.waiting))
		p.waiting = append(p.waiting, b[:some]...)
		b, n = b[some:], n+some
		p.changed.Broadcast()
	}
	return n, nil
}

// Close ends what is written; what waits can be read.
func (p *memPipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
	return nil
}

// stop ends reading, too.
func (p *memPipe) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.deaf = true, true
	p.changed.Broadcast()
}

// memSession is a program of Exec.
type memSession struct {
	*memProc
	id string
}

// Exec implements [Execer]. There are no terminals here.
func (c *memContainer) Exec(_ context.Context, p Process, size *TerminalSize) (Session, error) {
	if err := c.here("exec"); err != nil {
		return nil, err
	}
	if size != nil {
		return nil, fmt.Errorf("run %q in container %s: a terminal: %w", p.Path, c.info.ID, errors.ErrUnsupported)
	}
	program := c.m.cfg.Programs[p.Path]
	if program == nil {
		return nil, fmt.Errorf("run %q in container %s: %w: add it to MemoryConfig.Programs", p.Path, c.info.ID, fs.ErrNotExist)
	}
	s := &memSession{memProc: newMemProc(c, p)}
	s.pipes = &[3]*memPipe{newMemPipe(), newMemPipe(), newMemPipe()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return nil, c.gone
	}
	c.sessions++
	s.id = "~" + strconv.Itoa(c.sessions) // no process has such an id
	c.procs[s.id] = s.memProc
	s.start(program)
	return s, nil
}

func (s *memSession) Stdin() io.WriteCloser { return s.pipes[0] }
func (s *memSession) Stdout() io.Reader     { return s.pipes[1] }
func (s *memSession) Stderr() io.Reader     { return s.pipes[2] }

func (s *memSession) Resize(TerminalSize) error {
	return fmt.Errorf("resize: %w: it has no terminal", errors.ErrUnsupported)
}

// Close implements [Session].
func (s *memSession) Close() error {
	_ = s.Signal(context.Background(), "KILL") // never fails
	for _, p := range s.pipes {
		p.stop()
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	delete(s.c.procs, s.id)
	return nil
}
