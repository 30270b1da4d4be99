//go:build linux || darwin

package folder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// sessionPrefix begins the names of the states of sessions; no id of a process does.
const sessionPrefix = "~"

// session is a process of Exec.
type session struct {
	*running
	line     *lifecycle.Line
	terminal bool
	once     sync.Once
	closed   chan struct{} // when what follows is known, and the process has ended
	exit     cell.Exit
	exitErr  error
	closeErr error
}

var _ cell.Execer = (*container)(nil)

// Exec implements cell.Execer.
func (c *container) Exec(ctx context.Context, p cell.Process, size *cell.TerminalSize) (cell.Session, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	s, err := c.exec(ctx, p, size)
	if err != nil {
		return nil, fmt.Errorf("run %s in container %s: %w", p.Path, c.info.ID, err)
	}
	return s, nil
}

func (c *container) exec(ctx context.Context, p cell.Process, size *cell.TerminalSize) (*session, error) {
	var wide *[2]uint16
	if size != nil {
		wide = &[2]uint16{size.Columns, size.Rows}
	}
	line, theirs, err := lifecycle.OpenLine(wide)
	if err != nil {
		return nil, err
	}
	state := filepath.Join(c.dir, c.meta.State, sessionPrefix+strings.ToLower(rand.Text()))
	ended, err := c.start(ctx, state, p, theirs)
	_ = theirs.Close() // the init has it
	if err != nil {
		return nil, errors.Join(err, line.Close())
	}
	// Its output is not what init records: it is read by who has asked.
	done := make(chan struct{})
	close(done)
	s := &session{running: &running{c: c, state: state, ended: ended, followed: done}, line: line, terminal: size != nil, closed: make(chan struct{})}
	if err = s.refused(); err == nil {
		err = line.Begin(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// refused is why there is no process: all that an init has recorded of one with a line.
func (s *session) refused() error {
	st, err := lifecycle.InitState(s.state)
	if err != nil || st.Exit == nil || st.Exit.Code != 126 && st.Exit.Code != 127 {
		return err
	}
	out, err := lifecycle.OpenOutput(s.state)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // it was only read
	said, err := out.Next(context.Background())
	if errors.Is(err, io.EOF) { // it is the process's own status
		return nil
	} else if err != nil {
		return err
	}
	return errors.New(strings.TrimSpace(string(said.Data)))
}

func (s *session) Stdin() io.WriteCloser { return (*typing)(s) }

func (s *session) Stdout() io.Reader { return (*screen)(s) }

func (s *session) Stderr() io.Reader {
	if s.terminal {
		return strings.NewReader("")
	}
	return s.line.Err
}

func (s *session) Resize(size cell.TerminalSize) error {
	if !s.terminal {
		return fmt.Errorf("resize: %w: it has no terminal", errors.ErrUnsupported)
	}
	return s.line.Resize(size.Columns, size.Rows)
}

// Wait implements cell.Running.
func (s *session) Wait(ctx context.Context) (cell.Exit, error) {
	e, err := s.running.Wait(ctx)
	if err == nil || ctx.Err() != nil {
		return e, err
	}
	select {
	case <-s.closed: // what was recorded may have gone in the middle
		return s.exit, s.exitErr
	default:
		return e, err
	}
}

// Close implements cell.Session: its init ends all as the line does.
func (s *session) Close() error {
	s.once.Do(func() {
		s.closeErr = s.line.Close()
		_ = s.c.awaitInit(context.Background(), s.state) // it fails with its context alone
		s.exit, s.exitErr = s.running.Wait(context.Background())
		close(s.closed)
		s.c.mu.Lock()
		delete(s.c.children, filepath.Base(s.state))
		s.c.mu.Unlock()
		s.closeErr = errors.Join(s.closeErr, removeAll(s.state))
	})
	return s.closeErr
}

// typing is what is typed.
type typing session

func (t *typing) Write(b []byte) (int, error) { return t.line.In.Write(b) }

// endOfTransmission is Ctrl-D, VEOF of termios(3).
const endOfTransmission = 4

func (t *typing) Close() error {
	if !t.terminal {
		return t.line.In.Close()
	}
	_, err := t.line.In.Write([]byte{endOfTransmission})
	return err
}

// screen is what the process writes to its terminal. Where nobody has that open any more the kernel says EIO.
type screen session

func (s *screen) Read(b []byte) (int, error) {
	n, err := s.line.Out.Read(b)
	if s.terminal && errors.Is(err, syscall.EIO) {
		err = io.EOF
	}
	return n, err
}

// dropSessions removes what killed programs have left of sessions, whose processes have ended with them.
func (c *container) dropSessions() error {
	all, err := filepath.Glob(filepath.Join(c.dir, c.meta.State, sessionPrefix+"*"))
	for _, state := range all {
		if st, e := lifecycle.InitState(state); e == nil && st.Alive {
			continue // it is about to end
		}
		err = errors.Join(err, removeAll(state))
	}
	return err
}
