package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/internal/handover"
)

// A Line gives the process of an init to who has asked for it: what it reads and writes is the caller's, and it lasts no longer than
// the line. Nothing of its output is recorded. Make one with OpenLine.
type Line struct {
	// In is what the process reads, Out and Err are what it writes. With a terminal In and Out are that, and Err is nil.
	In, Out, Err *os.File

	conn     *net.UnixConn
	terminal bool
}

// lineFD is where an init finds its end of the line.
const lineFD = 4

// lineWait is for what the other end does at once.
const lineWait = 5 * time.Second

// OpenLine makes a line, and the end for the init: its descriptor 4, and the flag -line. With a size, columns and rows, the
// process has a terminal of that size; else pipes. The caller closes theirs when the init was started.
func OpenLine(size *[2]uint16) (*Line, *os.File, error) {
	conn, theirs, err := handover.Pair()
	if err != nil {
		return nil, nil, err
	}
	l := &Line{conn: conn, terminal: size != nil}
	if size != nil {
		err = handover.Send(conn, fmt.Sprintf("terminal %dx%d", size[0], size[1]))
	} else {
		err = l.pipes()
	}
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close(), l.Close())
	}
	return l, theirs, nil
}

// pipes makes pipes, and sends their other ends.
func (l *Line) pipes() (err error) {
	var far [3]*os.File
	defer func() {
		for _, f := range far {
			_ = f.Close() // the init has got it
		}
	}()
	if far[0], l.In, err = os.Pipe(); err != nil {
		return err
	}
	if l.Out, far[1], err = os.Pipe(); err != nil {
		return err
	}
	if l.Err, far[2], err = os.Pipe(); err != nil {
		return err
	}
	return handover.Send(l.conn, "pipes", far[:]...)
}

// Begin gets the terminal of the process, which was started.
func (l *Line) Begin(ctx context.Context) error {
	if !l.terminal {
		return nil
	}
	_ = l.conn.SetDeadline(time.Now().Add(lineWait))
	defer context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })()
	_, files, err := handover.Receive(l.conn)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case len(files) != 1:
		return errors.New("no terminal came")
	}
	// As one whose Read ends with Close.
	fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	l.In = os.NewFile(uintptr(fd), "terminal")
	l.Out = l.In
	return err
}

// Resize sets the size of its terminal.
func (l *Line) Resize(columns, rows uint16) error {
	if !l.terminal {
		return errors.New("it has no terminal")
	}
	return control(l.In, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
}

// Close ends the process with all that it has started, if it still runs.
func (l *Line) Close() error {
	err := l.conn.Close()
	for _, f := range []*os.File{l.In, l.Out, l.Err} {
		if f == nil {
			continue
		}
		if e := f.Close(); !errors.Is(e, os.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func control(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	e := raw.Control(func(fd uintptr) { err = call(int(fd)) })
	return errors.Join(e, err)
}

// farLine is the end of a line that an init has.
type farLine struct {
	conn  *net.UnixConn
	files []*os.File // what its process reads and writes; none: it gets a terminal
	size  string
}

func openFarLine() (*farLine, error) {
	conn, err := handover.Conn(os.NewFile(lineFD, "line"))
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(lineWait))
	text, files, err := handover.Receive(conn)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	f := &farLine{conn: conn, files: files}
	if size, ok := strings.CutPrefix(text, "terminal "); ok {
		f.size = size
	} else if len(files) != 3 {
		return nil, errors.New("who has asked sends no files")
	}
	return f, nil
}

// hold waits until who has asked is not there any more.
func (f *farLine) hold(signals chan<- os.Signal) {
	_, _ = io.Copy(io.Discard, f.conn)
	signals <- killAll
}

// terminal makes one, and returns the end for the process.
func (f *farLine) terminal() (*os.File, error) { return giveTerminal(f.conn, f.size) }

// giveTerminal makes a terminal as this process, gives it away, and returns the end for programs.
func giveTerminal(conn *net.UnixConn, size string) (*os.File, error) {
	ours, theirs, err := openTerminal(size)
	if err != nil {
		return nil, fmt.Errorf("make a terminal: %w", err)
	}
	if err = errors.Join(handover.Send(conn, "terminal", ours), ours.Close()); err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	return theirs, nil
}

// openTerminal makes a pseudo terminal (pty(7)): the end of who sits before it, and that of programs.
func openTerminal(size string) (ours, theirs *os.File, err error) {
	var w unix.Winsize
	if _, err := fmt.Sscanf(size, "%dx%d", &w.Col, &w.Row); err != nil {
		return nil, nil, err
	}
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(ours.Fd())
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &w)
	}
	if err == nil {
		var peer uintptr
		var errno syscall.Errno
		if peer, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC); errno == 0 {
			return ours, os.NewFile(peer, "terminal"), nil
		}
		err = errno
	}
	return nil, nil, errors.Join(err, ours.Close())
}

// takeTerminal gives this process, which leads its session, a terminal by which it reads and writes.
func takeTerminal(size string) error {
	conn, err := handover.Conn(os.NewFile(enterLineFD, "line"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // init has it, too
	t, err := giveTerminal(conn, size)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetInt(int(t.Fd()), unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("take the terminal: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(int(t.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return t.Close()
}
