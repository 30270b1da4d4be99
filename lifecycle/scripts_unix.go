//go:build unix

package lifecycle

import (
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

// capture runs a program and keeps what it prints.
func (s *scripts) capture(to io.Writer, name string, args ...string) error {
	return s.start(to, name, args)
}

func (s *scripts) start(stdout io.Writer, name string, args []string) error {
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, stdout, s.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second // a child left behind may hold a captured pipe
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
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
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

// hint explains the statuses by which shells say that there is nothing to run.
func (s *scripts) hint(name string, err error) error {
	fmt.Fprintf(s.stderr, "hint: %s, or something that it runs, was not found or cannot be executed here. Is its interpreter "+
		"installed, and on the PATH? A script must use the folders that are its arguments: paths such as /tmp/app and "+
		"/home/vcap exist only in cells that have a root filesystem.\n", name)
	return err
}
