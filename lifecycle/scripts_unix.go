//go:build unix

package lifecycle

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
		return s.explain(name, err)
	}
	err := cmd.Wait()
	s.mu.Lock()
	s.group = 0
	s.mu.Unlock()
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() == 126 || exit.ExitCode() == 127) {
		return s.explain(name, err)
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

// explain says why a program did not start, or ended with a status by which shells and env say
// that there is nothing to run.
func (s *scripts) explain(name string, err error) error {
	var exit *exec.ExitError
	ran := errors.As(err, &exit)
	switch {
	case !filepath.IsAbs(name) && errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s is not on the PATH; install it on the cell", name)
	case !filepath.IsAbs(name):
		return err
	}
	short := filepath.Join(filepath.Base(filepath.Dir(name)), filepath.Base(name))
	if why := unfit(name, s.env); why != "" {
		return fmt.Errorf("%s %s", short, why)
	}
	if ran {
		fmt.Fprintf(s.stderr, "hint: %s, or a program that it runs, is missing or cannot be executed: is it installed, and on the PATH?\n", short)
		return fmt.Errorf("%s: %w", short, err)
	}
	var path *os.PathError // it would name our folders
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("%s: %w", short, err)
}

// unfit says what is wrong with a script that could not be run, "" if nothing is to be seen.
func unfit(file string, env environ) string {
	fi, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "is missing"
	case err != nil:
		return ""
	case !fi.Mode().IsRegular():
		return "is no file"
	case fi.Mode()&0o111 == 0:
		return "is not executable; allow that (chmod +x), also in the archive or repository that it comes from"
	}
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	line, err := bufio.NewReaderSize(f, 4<<10).ReadString('\n')
	switch {
	case err != nil && line == "":
		return "is empty"
	case strings.HasPrefix(line, "\x7fELF"):
		return ""
	case !strings.HasPrefix(line, "#!"):
		return "has no first line such as #!/bin/sh"
	case strings.HasSuffix(line, "\r\n"):
		return "has the line endings of Windows; save it with LF alone (git: core.autocrlf=input, or eol=lf in .gitattributes)"
	}
	words := strings.Fields(line[2:])
	if len(words) == 0 {
		return "has no first line such as #!/bin/sh"
	}
	if _, err := os.Stat(words[0]); err != nil {
		return "needs " + words[0] + ", as its first line says, which does not exist here; install it on the cell"
	}
	if filepath.Base(words[0]) == "env" && len(words) > 1 && !strings.HasPrefix(words[1], "-") && !strings.ContainsAny(words[1], "=/") && !onPath(words[1], env.get("PATH")) {
		return "needs " + words[1] + ", as its first line says, which is not on the PATH; install it on the cell"
	}
	return ""
}

func onPath(name, path string) bool {
	return slices.ContainsFunc(filepath.SplitList(path), func(dir string) bool {
		fi, err := os.Stat(filepath.Join(dir, name))
		return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
	})
}
