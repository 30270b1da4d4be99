//go:build unix

package lifecycle

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killAll   = syscall.SIGWINCH // asks init to kill; harmless to a process that does not know
	killWait  = 5 * time.Second  // for all that was killed to be gone
	drainWait = time.Second      // for the pipes to end after that
)

func initSignal(s syscall.Signal) syscall.Signal {
	if s == syscall.SIGKILL {
		return killAll
	}
	return s
}

func signalProcess(pid int, s syscall.Signal) error {
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// initRole is one run of the role: init -state DIR [-dir CWD] [-output BYTES] [-nofile N] [-jail FILE] [-group FILE]… [-inner] [-line] -- prog args…
type initRole struct {
	state, dir string
	jail       string // a file with a jail.Spec as JSON: what the process shall see; "": what init sees
	inner      bool   // the machine's numbers of processes are not known here
	output     int64
	nofile     uint64
	groups     []string // files of control groups to go to (cgroup.procs)
	args       []string
	env        environ // of the process

	lined   bool     // who has asked for the process holds a line
	line    *farLine // nil: the output is recorded
	out     *outputWriter
	readers sync.WaitGroup
	pipes   []*os.File // read ends
	signals chan os.Signal
	main    int  // PID; 0: did not start
	reaped  bool // main's number may be another's now
}

func runInit(args []string, ready func(error)) int {
	r := &initRole{signals: make(chan os.Signal, 64)}
	keepFiles()
	exit, err := r.start(args)
	if exit != nil && r.line != nil { // who has asked looks why at once
		r.leave(exit)
		ready(nil)
		return 0
	}
	ready(err)
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		return 1
	}
	silence()
	if r.line != nil {
		go r.line.hold(r.signals)
	}
	if exit == nil {
		e := r.wait()
		exit = &e
	}
	r.leave(exit)
	return 0
}

// leave writes down how the process ended. Nobody can know it but from here, so it is tried
// until it succeeds, somebody wants all this killed, or the folder is no more.
func (r *initRole) leave(exit *Exit) {
	lost := r.out.close(time.Now())
	for recordExit(r.state, *exit, lost) != nil {
		if _, err := os.Stat(r.state); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case s := <-r.signals:
			if s == killAll {
				return
			}
		case <-time.After(time.Second):
		}
	}
}

// start returns an exit if the process could not be started, which is the process's
// failure, and an error for init's own.
func (r *initRole) start(args []string) (*Exit, error) {
	if err := r.parse(args); err != nil {
		return nil, err
	}
	for _, g := range r.groups { // first of all: what is taken before counts for another group
		if err := os.WriteFile(g, []byte("0"), 0); err != nil {
			return nil, fmt.Errorf("go to its control group: %w", err)
		}
	}
	// Not the folders above: they were removed if whoever started us has ended, and its
	// successor has cleaned up, before we came here.
	if err := os.Mkdir(r.state, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	var err error
	if r.env, err = takeEnvironment(r.state); err != nil {
		return nil, fmt.Errorf("environment of the process: %w", err)
	}
	if r.lined {
		if r.line, err = openFarLine(); err != nil {
			return nil, fmt.Errorf("the line of who has asked: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(r.state, startedFile)); err == nil {
		return nil, fmt.Errorf("%s is the state of another process; each needs a folder of its own", r.state)
	}
	_, _ = syscall.Setsid() // fails if we lead a group already: as good
	becomeSubreaper()
	// SIGPIPE is caught, not ignored: what is ignored stays so in the process.
	signal.Notify(r.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE, killAll)
	r.out = newOutputWriter(r.state, r.output)
	if r.nofile > 0 && r.jail == "" { // else it is no limit of init's
		if err := limitFiles(r.nofile); err != nil {
			return nil, fmt.Errorf("set nofile to %d: %w", r.nofile, err)
		}
	}
	self := started{PID: ownPID(), Boot: bootID(), Time: time.Now().UTC(), Inner: r.inner}
	self.Start, _ = processStart(self.PID)
	if err := reserveExit(r.state); err != nil {
		return nil, err
	}
	if err := recordStarted(r.state, self); err != nil {
		return nil, err
	}
	if err := reserveStarted(r.state); err != nil {
		return nil, err
	}
	code, err := r.exec()
	if err != nil && code == 0 {
		return nil, err
	} else if err != nil {
		return r.refuse(code, err), nil
	}
	self.Process = outerPID(self.PID, r.main)
	self.ProcessStart, _ = processStart(self.Process)
	if err := recordStarted(r.state, self); err != nil {
		r.killRest()
		return nil, err
	}
	return nil, nil
}

func (r *initRole) parse(args []string) (err error) {
	fl := flag.NewFlagSet("init", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	fl.StringVar(&r.state, "state", "", "")
	fl.StringVar(&r.dir, "dir", "", "")
	fl.Int64Var(&r.output, "output", 0, "")
	fl.Uint64Var(&r.nofile, "nofile", 0, "")
	fl.StringVar(&r.jail, "jail", "", "")
	fl.Func("group", "", func(s string) error { r.groups = append(r.groups, s); return nil })
	fl.BoolVar(&r.inner, "inner", false, "")
	fl.BoolVar(&r.lined, "line", false, "")
	if err := fl.Parse(args); err != nil {
		return err
	}
	if r.args = fl.Args(); r.state == "" || len(r.args) == 0 {
		return errors.New("usage: init -state DIR [-dir DIR] [-output BYTES] [-nofile N] [-jail FILE] [-group FILE]… [-inner] [-line] -- PROGRAM [ARG…]")
	}
	r.state, err = filepath.Abs(r.state)
	return err
}

// exec starts the process; the code is what a shell gives when it cannot, or 0 if init is at fault.
func (r *initRole) exec() (code int, err error) {
	var path string
	if r.jail == "" {
		if path, code, err = r.find(); err != nil {
			return code, err
		}
	}
	files, done, err := r.stdio()
	if err != nil {
		return 126, err
	}
	defer done()
	if r.jail != "" {
		return r.enter(files)
	}
	env := r.env
	env.set(markEnv, r.state)
	attr := &syscall.ProcAttr{Env: env, Files: files, Sys: childAttr()}
	attr.Sys.Setctty = r.line != nil && r.line.size != ""
	r.main, err = syscall.ForkExec(path, r.args, attr)
	if errors.Is(err, syscall.ENOEXEC) { // a script without an interpreter line, as execvp does
		r.main, err = syscall.ForkExec("/bin/sh", append([]string{"sh", path}, r.args[1:]...), attr)
	}
	switch {
	case err == nil:
		preferToEnd(r.main)
	case errors.Is(err, syscall.ENOENT):
		return 127, fmt.Errorf("%s: its interpreter or loader is not there", path)
	case err != nil:
		return 126, fmt.Errorf("%s: %w", path, err)
	}
	return 0, nil
}

// stdio is what the process reads and writes; done lets go of it here.
func (r *initRole) stdio() (files []uintptr, done func(), err error) {
	var opened []*os.File
	done = func() {
		for _, f := range opened {
			_ = f.Close() // the process has it
		}
	}
	if r.line != nil && (r.line.size == "" || r.jail == "") {
		opened = r.line.files
		if r.line.size != "" {
			t, err := r.line.terminal()
			if err != nil {
				return nil, nil, err
			}
			opened = []*os.File{t}
			return []uintptr{t.Fd(), t.Fd(), t.Fd()}, done, nil
		}
		for _, f := range opened {
			files = append(files, f.Fd())
		}
		return files, done, nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	opened = append(opened, null)
	files = []uintptr{null.Fd(), null.Fd(), null.Fd()}
	if r.line != nil { // where the program will be it gets a terminal
		return files, done, nil
	}
	for i, kind := range []byte{frameStdout, frameStderr} {
		pr, pw, err := os.Pipe()
		if err != nil {
			done()
			return nil, nil, err
		}
		opened = append(opened, pw)
		files[1+i] = pw.Fd()
		r.pipes = append(r.pipes, pr)
		r.readers.Go(func() { r.copy(kind, pr) })
	}
	return files, done, nil
}

// find goes to the process's folder and finds its program.
func (r *initRole) find() (path string, code int, err error) {
	if r.dir != "" {
		if err := os.Chdir(r.dir); err != nil {
			return "", 126, err
		}
	}
	if err := os.Setenv("PATH", r.env.get("PATH")); err != nil {
		return "", 126, err
	}
	path, err = r.program()
	switch {
	case err == nil:
		return path, 0, nil
	case errors.Is(err, os.ErrPermission):
		return "", 126, fmt.Errorf("%s: permission denied", r.args[0])
	}
	return "", 127, fmt.Errorf("%s: not found", r.args[0])
}

// program returns the file to run. "lifecycle:ROLE" is a role of this very program.
func (r *initRole) program() (string, error) {
	if role, ok := strings.CutPrefix(r.args[0], "lifecycle:"); ok {
		r.args[0] = role
		return os.Executable()
	}
	path, err := exec.LookPath(r.args[0])
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	return path, err
}

func (r *initRole) copy(kind byte, from *os.File) {
	buf := make([]byte, frameHeader+maxFrame)
	for {
		n, err := from.Read(buf[frameHeader:])
		if n > 0 {
			r.out.write(kind, time.Now(), buf[:frameHeader+n])
		}
		if err != nil {
			return
		}
	}
}

// refuse tells on standard error why there is no process.
func (r *initRole) refuse(code int, err error) *Exit {
	r.drain()
	now := time.Now().UTC()
	r.out.write(frameStderr, now, append(make([]byte, frameHeader), err.Error()+"\n"...))
	return &Exit{Code: code, Time: now}
}

// wait forwards signals until the process has ended, then ends all that it left.
func (r *initRole) wait() Exit {
	ended := make(chan Exit, 1)
	none := make(chan struct{})
	go reap(r.main, ended, none)
	for {
		select {
		case s := <-r.signals:
			r.forward(s.(syscall.Signal))
		case e := <-ended:
			r.reaped = true
			r.killRest()
			timeout := time.After(killWait)
			for left := true; left; {
				select {
				case <-none:
					left = false
				case <-timeout: // stuck in the kernel
					left = false
				case <-time.After(10 * time.Millisecond):
					r.killRest()
				}
			}
			r.drain()
			return e
		}
	}
}

func (r *initRole) forward(s syscall.Signal) {
	switch s {
	case syscall.SIGPIPE:
	case killAll:
		r.killRest()
	default:
		_ = syscall.Kill(-r.main, s)
	}
}

// killRest kills the process, its group and everything that descends from it.
func (r *initRole) killRest() {
	if os.Getpid() == 1 {
		_ = syscall.Kill(-1, syscall.SIGKILL)
		return
	}
	if !r.reaped || !hasSubreaper {
		_ = syscall.Kill(-r.main, syscall.SIGKILL)
	}
	killDescendants(os.Getpid())
}

// drain waits for the rest of the output. Somebody may hold a pipe for ever: a child that
// the kernel won't kill or, where there is no subreaper, one that left the group.
func (r *initRole) drain() {
	done := make(chan struct{})
	go func() { r.readers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainWait):
	}
	for _, p := range r.pipes {
		_ = p.Close()
	}
	<-done
}

// reap waits for all children. The process's end goes to ended; none closes when no child
// is left after it.
func reap(main int, ended chan<- Exit, none chan<- struct{}) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // no child
			close(none)
			return
		case pid == main:
			ended <- exitOf(ws, time.Now().UTC())
		}
	}
}

func exitOf(ws syscall.WaitStatus, now time.Time) Exit {
	if ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: strings.TrimPrefix(unix.SignalName(ws.Signal()), "SIG"), Time: now}
	}
	return Exit{Code: ws.ExitStatus(), Time: now}
}

// silence lets go of whoever started us, so that its end does not reach us.
func silence() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	for fd := range 3 {
		_ = unix.Dup2(int(null.Fd()), fd)
	}
	_ = null.Close()
}
