package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes a socket by the name of file, whose folder exists, in place of one that is there. Names of sockets are
// short; that of the folder may be long.
func Listen(file string) (*net.UnixListener, error) {
	short, dir, err := shorten(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // only a name
	_ = os.Remove(file)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: short, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name is another's by then
	return l, nil
}

// shorten names a file by a descriptor of its folder.
func shorten(file string) (string, *os.File, error) {
	dir, err := os.OpenFile(filepath.Dir(file), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(file)), dir, nil
}

// askWait is how long who has connected may take to say what it wants.
const askWait = 5 * time.Second

// Serve answers who asks at a socket until that is closed. Answer may be called by several goroutines at a time; it owns the
// files that came with the question, and the one that it returns is passed on and closed.
func Serve(l *net.UnixListener, answer func(question string, files []*os.File) (*os.File, error)) error {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			time.Sleep(10 * time.Millisecond) // there are too many open files; those of others are being closed
			continue
		}
		go func() {
			defer func() { _ = c.Close() }() // all was said
			_ = c.SetDeadline(time.Now().Add(askWait))
			question, files, err := Receive(c)
			if err != nil {
				return
			}
			f, err := answer(question, files)
			_ = c.SetDeadline(time.Now().Add(askWait))
			if f == nil {
				_ = Send(c, answerOf(err)) // who does not wait for it loses it
				return
			}
			_ = Send(c, answerOf(err), f)
			_ = f.Close()
		}()
	}
}

// Ask passes a question, and files with it, to who serves the socket of that name, and returns its answer; the file is nil
// if none came. An error of the kernel there is one here.
func Ask(ctx context.Context, file, question string, files ...*os.File) (*os.File, error) {
	short, dir, err := shorten(file)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", short)
	_ = dir.Close()
	if err != nil {
		return nil, err
	}
	c := conn.(*net.UnixConn)
	defer func() { _ = c.Close() }() // all was said
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := Send(c, question, files...); err != nil {
		return nil, because(ctx, err)
	}
	text, got, err := Receive(c)
	if err != nil {
		return nil, because(ctx, err)
	}
	for i, f := range got {
		if i > 0 {
			_ = f.Close()
		}
	}
	if err = errorOf(text); len(got) > 0 {
		if err != nil {
			_ = got[0].Close()
			return nil, err
		}
		return got[0], nil
	}
	return nil, err
}

func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Pair makes two ends of a line, by which Send and Receive pass texts and files: one for this program, and one for another that it starts.
func Pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "line")
	c, err := Conn(os.NewFile(uintptr(fds[0]), "line"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c, theirs, nil
}

// Conn makes a connection of one end of a line, and closes the file.
func Conn(f *os.File) (*net.UnixConn, error) {
	defer func() { _ = f.Close() }() // the connection has its own
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixConn); ok {
		return u, nil
	}
	return nil, errors.Join(errors.New("not a local socket"), c.Close())
}

// Send sends a text and files with it; they stay the caller's.
func Send(c *net.UnixConn, text string, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	// An empty packet is like the end of the connection to who reads.
	_, _, err := c.WriteMsgUnix(append([]byte{' '}, text...), oob, nil)
	return err
}

// Receive gets what Send has sent, and files for the caller to close. At the end: io.ErrUnexpectedEOF.
func Receive(c *net.UnixConn) (string, []*os.File, error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return "", nil, err
	}
	files, err := passed(oob[:oobn])
	switch {
	case err != nil:
	case n == 0:
		err = io.ErrUnexpectedEOF // it has ended
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = fmt.Errorf("a message of more than %d bytes or %d files", maxMessage, maxFiles)
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return "", nil, err
	}
	return string(b[1:n]), files, nil
}

// passed are the files of a message.
func passed(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range all {
		fds, err := unix.ParseUnixRights(&all[i])
		if err != nil {
			continue // something else came
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}
