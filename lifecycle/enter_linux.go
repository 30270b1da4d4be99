package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/internal/jail"
)

func init() { RunLate("enter", runEnter) }

// ownPID is what this process is called where the machine's /proc is: as the first of its namespace it is 1 for itself.
func ownPID() int {
	if name, err := os.Readlink("/proc/self"); err == nil {
		if n, err := strconv.Atoi(name); err == nil {
			return n
		}
	}
	return os.Getpid()
}

// outerPID is what the only child of init is called there.
func outerPID(init, process int) int {
	if init == os.Getpid() {
		return process
	}
	if all := children(init); len(all) > 0 {
		return all[0]
	}
	return 0
}

// What init hands to the role enter: enteredFD, on which that answers; jailFD, a file with what it shall see; builtFD, on which one that is
// Apart says that it is here, and hears that its root is there; and, for a terminal, enterLineFD, the line.
const (
	enteredFD = 3 + iota
	jailFD
	builtFD
	enterLineFD
)

// Between init and the role enter, on that descriptor: entered, and then, if the program cannot be run, its exit code
// and why. What comes without it is why there is no container.
const entered = "entered\n"

// enter starts the process in a root of its own, by the role enter.
func (r *initRole) enter(files []uintptr) (code int, err error) {
	if err := jail.Guard(); err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer pr.Close()
	b, err := os.ReadFile(r.jail)
	if err != nil {
		return 0, err
	}
	var spec jail.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return 0, err
	}
	spec.NoFile = r.nofile
	if err := give(files, &spec); err != nil {
		return 0, fmt.Errorf("give the process its outputs: %w", err)
	}
	env, own := r.env, []string{}
	if spec.Rules != nil { // else nothing can outlive init
		env.set(markEnv, r.state)
		own = append(own, markEnv+"="+r.state)
	}
	for _, kv := range env {
		spec.Env = append(spec.Env, []byte(kv))
	}
	told, err := tell(spec)
	if err != nil {
		return 0, err
	}
	defer func() { _ = told.Close() }() // the role has it
	attr := &syscall.ProcAttr{Env: own, Files: append(files, pw.Fd(), told.Fd(), told.Fd()), Sys: spec.Child()}
	args := []string{"enter"}
	if (spec.Built || spec.Mounted) && spec.Loader != "" { // where init is, too, it is not of that root
		self, args = spec.Loader, jail.ByLoader(spec.Loader, "enter", spec.Roles)
	}
	if r.line != nil && r.line.size != "" {
		line, err := r.line.conn.File()
		if err != nil {
			return 0, err
		}
		defer func() { _ = line.Close() }() // the role has it
		attr.Files = append(attr.Files, line.Fd())
		args = append(args, "-terminal", r.line.size)
	}
	if args = append(args, r.args...); spec.Apart() {
		r.main, err = forkApart(args, attr, spec)
	} else {
		r.main, err = syscall.ForkExec(self, args, attr)
	}
	_ = pw.Close()
	if err != nil {
		return 0, fmt.Errorf("start the role enter: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(pr, 64<<10)) // it ends with the execution of the program
	if err != nil {
		return 0, err
	}
	text, ok := strings.CutPrefix(string(said), entered)
	switch {
	case ok && text == "":
		return 0, nil
	case !ok && text == "":
		text = "the role enter ended before it was inside"
	}
	_, _ = syscall.Wait4(r.main, nil, 0, nil) // it has nothing more to say
	if !ok {
		return 0, errors.New(text)
	}
	status, text, _ := strings.Cut(text, " ")
	if code, err = strconv.Atoi(status); err != nil || code == 0 {
		code = 126
	}
	return code, errors.New(text)
}

// forkApart starts the role enter, by this very program, on a thread that then builds a root for it, and stays.
func forkApart(args []string, attr *syscall.ProcAttr, spec jail.Spec) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // for ever: its mounts are others, and its end would be the process's
		pid, err = buildFor(args, attr, spec)
		close(done)
		if err == nil {
			select {}
		}
	}()
	<-done
	return pid, err
}

func buildFor(args []string, attr *syscall.ProcAttr, spec jail.Spec) (pid int, err error) {
	if err := jail.Leave(spec); err != nil {
		return 0, err
	}
	self, err := os.Open("/proc/self/exe") // by its name its user might not reach it
	if err != nil {
		return 0, err
	}
	defer func() { _ = self.Close() }()                                        // it was only read
	fd, err := unix.FcntlInt(self.Fd(), unix.F_DUPFD_CLOEXEC, len(attr.Files)) // above what the process gets
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	here := os.NewFile(uintptr(pair[0]), "built")
	defer func() { _ = here.Close() }()
	attr.Files[builtFD] = uintptr(pair[1])
	pid, err = syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", fd), args, attr)
	_ = unix.Close(pair[1])
	if err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(here, make([]byte, 1)); err != nil {
		return pid, nil //nolint:nilerr // it has ended, and said why if it could
	}
	if err = jail.Build(spec); err == nil {
		_, err = here.Write([]byte{'b'})
	}
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return 0, err
	}
	return pid, nil
}

// give makes pipes the user's who the process will be, so that it can open them by name, as /dev/stdout. Of several users each may
// that has it.
func give(files []uintptr, s *jail.Spec) error {
	user, other := s.Outside()
	if !other {
		return nil
	}
	for _, fd := range files {
		var st unix.Stat_t
		err := unix.Fstat(int(fd), &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
			if s.Users != nil {
				err = unix.Fchmod(int(fd), 0o666) // nobody else comes to it
			}
			if err == nil {
				err = unix.Fchown(int(fd), user, -1)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tell makes a file of what the role enter is to do, that nobody else sees: everybody may read its arguments.
func tell(s jail.Spec) (*os.File, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("jail", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "jail")
	if _, err := f.Write(b); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// told reads what init tells the role.
func told() (s jail.Spec, err error) {
	f := os.NewFile(jailFD, "jail")
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// runEnter is enter [-terminal SIZE] PROGRAM [ARG…].
func runEnter(args []string, _ func(error)) int {
	closeOnExec(enteredFD)
	closeOnExec(jailFD)
	closeOnExec(builtFD)
	say := os.NewFile(enteredFD, "init")
	var terminal string
	if len(args) > 1 && args[0] == "-terminal" {
		closeOnExec(enterLineFD)
		terminal, args = args[1], args[2:]
	}
	if len(args) == 0 {
		_, _ = fmt.Fprint(say, "usage: enter [-terminal SIZE] PROGRAM [ARG…]")
		return 1
	}
	s, err := told()
	if err != nil {
		_, _ = fmt.Fprint(say, "enter: ", err)
		return 1
	}
	if s.Apart() {
		built := os.NewFile(builtFD, "built")
		_, err := built.Write([]byte{'h'}) // all of this program was loaded, out of the machine's own root
		if err == nil {
			_, err = io.ReadFull(built, make([]byte, 1))
		}
		if err != nil {
			return 1 // init says why there is no root
		}
	}
	err = jail.Enter(s, args, func() error {
		if terminal != "" {
			if err := takeTerminal(terminal); err != nil {
				return err
			}
		}
		_, err := io.WriteString(say, entered)
		return err
	})
	var program *jail.ProgramError
	if errors.As(err, &program) {
		_, _ = fmt.Fprint(say, program.Code, " ", program.Text)
		return program.Code
	}
	_, _ = fmt.Fprint(say, err)
	return 1
}
