//go:build linux || darwin

package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// running is a process under its init.
type running struct {
	c        *container
	state    string
	ended    <-chan struct{} // closed when the init has ended; nil if it is not our child
	followed chan struct{}   // closed when the output was delivered, or is not any more
	err      error           // why it was not; set before followed closes
}

// follow delivers the output of a process from its beginning, until ctx ends.
func (c *container) follow(ctx context.Context, state string, ended <-chan struct{}, stdio cell.IO) *running {
	r := &running{c: c, state: state, ended: ended, followed: make(chan struct{})}
	c.r.wg.Go(func() {
		defer close(r.followed)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.r.closing, cancel)()
		r.err = r.deliver(ctx, stdio)
	})
	return r
}

func (r *running) deliver(ctx context.Context, stdio cell.IO) error {
	out, err := lifecycle.OpenOutput(r.state)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // it was only read
	// Reading polls ever more seldom while nothing comes: the end of the init wakes it.
	until, wake := context.WithCancel(ctx)
	defer wake()
	if r.ended != nil {
		woken := make(chan struct{})
		go func() {
			defer close(woken)
			select {
			case <-r.ended:
				wake()
			case <-until.Done():
			}
		}()
		defer func() {
			wake()
			<-woken
		}()
	}
	for {
		c, err := out.Next(until)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && until.Err() != nil && ctx.Err() == nil:
			until = ctx // the init has ended: what is left is there
			continue
		case err != nil:
			return err
		}
		w := stdio.Stdout
		if c.Stderr || c.Lost > 0 {
			w = stdio.Stderr
		}
		if c.Lost > 0 {
			c.Data = fmt.Appendf(nil, "\n%d bytes of output are missing here\n", c.Lost)
		}
		switch w := w.(type) { // a sink that fails loses its own output
		case nil:
		case cell.Stamper:
			_, _ = w.Stamp(c.Time, c.Data)
		default:
			_, _ = w.Write(c.Data)
		}
	}
}

// Wait implements cell.Running.
func (r *running) Wait(ctx context.Context) (cell.Exit, error) {
	select {
	case <-r.followed:
	default:
		select {
		case <-r.followed:
		case <-ctx.Done():
			return cell.Exit{}, ctx.Err()
		}
	}
	switch {
	case r.err == nil:
	case errors.Is(r.err, lifecycle.ErrLost), errors.Is(r.err, fs.ErrNotExist):
	case errors.Is(r.err, context.Canceled), errors.Is(r.err, context.DeadlineExceeded):
		// Nobody listens any more, but its end can still be learned.
	default:
		return cell.Exit{}, fmt.Errorf("output of a process of container %s: %w", r.c.info.ID, r.err)
	}
	return r.exit(ctx)
}

// exit waits for the exit that init records.
func (r *running) exit(ctx context.Context) (cell.Exit, error) {
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		s, err := lifecycle.InitState(r.state)
		if err != nil {
			return r.destroyed(err)
		}
		if s.Exit != nil {
			e := cell.Exit{Code: s.Exit.Code, Signal: s.Exit.Signal, Time: s.Exit.Time}
			if r.c.r.meter != nil {
				r.c.r.meter.Exit(r.c.place(), r.state, &e)
			}
			return e, nil
		}
		if !s.Alive {
			if _, err := os.Lstat(r.state); err != nil { // it has gone in the middle of the look
				return r.destroyed(err)
			}
			return cell.Exit{}, fmt.Errorf("container %s: %w", r.c.info.ID, lifecycle.ErrLost)
		}
		if err := pause(ctx, wait); err != nil {
			return cell.Exit{}, err
		}
	}
}

// destroyed is the end of a process whose container went with all that was recorded.
func (r *running) destroyed(err error) (cell.Exit, error) {
	if errors.Is(err, fs.ErrNotExist) && r.c.enter() != nil {
		return cell.Exit{Code: 137, Signal: "KILL", Time: time.Now().UTC()}, nil //nolint:nilerr // Destroy has ended it
	} else if errors.Is(err, fs.ErrNotExist) {
		r.c.leave()
	}
	return cell.Exit{}, fmt.Errorf("container %s: %w", r.c.info.ID, err)
}

var signals = map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "INT": syscall.SIGINT,
	"HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2}

// Signal implements cell.Running.
func (r *running) Signal(_ context.Context, name string) error {
	sig, ok := signals[name]
	if !ok {
		return fmt.Errorf("signal %q is not known: use TERM, KILL, INT, HUP, QUIT, USR1 or USR2", name)
	}
	if err := lifecycle.SignalInit(r.state, sig); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("signal a process of container %s: %w", r.c.info.ID, err)
	}
	return nil
}
