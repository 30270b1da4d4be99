//go:build unix

package lifecycle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// scripts runs programs one after another, each in a process group of its own, which ends
// with the builder.
type scripts struct {
	stdout, stderr *os.File // handed on as they are: nothing is between a script and its reader
	env            []string

	mu     sync.Mutex
	group  int // of the running script; 0: none
	killed bool
}

// run runs a program to its end.
func (s *scripts) run(name string, args ...string) error { return s.start(s.stdout, name, args) }

// maxCapture is how much of a captured output is kept.
const maxCapture = 1 << 20

// capture runs a program and returns the first of what it prints, up to maxCapture. All that
// it printed before it ended is there, and a child that it leaves behind is not waited for.
func (s *scripts) capture(name string, args ...string) ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&firstWriter{&out}, r)
	}()
	err = s.start(w, name, args)
	_ = w.Close()
	// The reader ends where nobody has the pipe any more, or else here; the rest is in the pipe.
	_ = r.SetReadDeadline(time.Now())
	<-read
	drain(r, &out)
	return out.Bytes(), err
}

// drain takes what a pipe holds, and waits for no more.
func drain(r *os.File, out *bytes.Buffer) {
	if r.SetReadDeadline(time.Time{}) != nil {
		return
	}
	c, err := r.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Read(func(fd uintptr) bool {
		b := make([]byte, 64<<10)
		for range maxCapture / len(b) { // a child may go on writing
			n, err := syscall.Read(int(fd), b)
			if err == syscall.EINTR {
				continue
			}
			if n <= 0 {
				break
			}
			_, _ = (&firstWriter{out}).Write(b[:n])
		}
		return true
	})
}

// firstWriter keeps the first maxCapture bytes and takes the rest without a word.
type firstWriter struct{ b *bytes.Buffer }

func (w *firstWriter) Write(p []byte) (int, error) {
	w.b.Write(p[:min(len(p), maxCapture-w.b.Len())])
	return len(p), nil
}

func (s *scripts) start(stdout *os.File, name string, args []string) error {
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, stdout, s.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.launch(cmd); err != nil {
		switch {
		case errors.Is(err, exec.ErrNotFound), errors.Is(err, syscall.ENOENT) && exists(name):
			return s.hint(name, err)
		case errors.Is(err, syscall.ENOEXEC):
			return fmt.Errorf("%w: has it a first line such as #!/bin/sh?", err)
		}
		return err
	}
	err := cmd.Wait()
	s.mu.Lock()
	s.group = 0
	s.mu.Unlock()
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() == 126 || exit.ExitCode() == 127) {
		return s.hint(name, err)
	}
	return err
}

func (s *scripts) launch(cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.killed {
		return errors.New("the builder was told to end")
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.group = cmd.Process.Pid
	return nil
}

// kill ends the running script and starts no other.
func (s *scripts) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killed = true
	if s.group != 0 {
		_ = syscall.Kill(-s.group, syscall.SIGKILL)
	}
}

// told reports whether kill was called.
func (s *scripts) told() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killed
}

// hint explains the statuses by which shells say that there is nothing to run.
func (s *scripts) hint(name string, err error) error {
	fmt.Fprintf(s.stderr, "hint: %s, or something that it runs, was not found or cannot be executed here. Is its interpreter "+
		"installed, and on the PATH? A script must use the folders that are its arguments: paths such as /tmp/app and "+
		"/home/vcap exist only in cells that have a root filesystem.\n", name)
	return err
}
