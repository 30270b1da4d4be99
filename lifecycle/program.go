package lifecycle

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// handshakeTimeout is long: what the host program does wrong was found by the check, and a machine may have
	// many starts and little processor time.
	handshakeTimeout = 20 * time.Second
	checkTimeout     = time.Second
)

// Config tells Prepare where to put the program and what it is.
type Config struct {
	// Dir is where the program is kept; required. It is made if need be, and must allow
	// executing.
	Dir string
	// Source is the program to use, such as one built from lifecycle/cmd/dewpoint-lifecycle.
	// "": the executable of this process.
	Source string
}

// Program is an executable file named [ProgramName] that offers the roles. Its methods may
// be called by any number of goroutines.
type Program struct {
	Path string // absolute

	patience time.Duration // with a handshake; 0: handshakeTimeout
}

// Prepare copies the program into c.Dir and tries it once. A file there that is the
// same already is kept; another is replaced at once, and processes that run it are not
// disturbed. Idempotent.
//
// It is refused, with the reason, if the role "check" does not answer within a second or if
// anything was printed: then an init function of the host program does more than it may
// (docs/lifecycle.md).
func Prepare(ctx context.Context, c Config) (*Program, error) {
	if !supported {
		return nil, fmt.Errorf("lifecycle: roles on this operating system: %w", errors.ErrUnsupported)
	}
	if c.Dir == "" {
		return nil, errors.New("lifecycle: Config.Dir is empty; name a folder to keep the program in")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("lifecycle: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lifecycle: %w", err)
	}
	p := &Program{Path: filepath.Join(dir, ProgramName)}
	if err := install(c.Source, p.Path); err != nil {
		return nil, fmt.Errorf("lifecycle: put the program into %s: %w", dir, err)
	}
	if err := p.check(ctx); err != nil {
		return nil, fmt.Errorf("lifecycle: %w", err)
	}
	return p, nil
}

// install makes path a copy of source, or leaves it if it is one.
func install(source, path string) error {
	src, err := openSource(source)
	if err != nil {
		return err
	}
	defer src.Close()
	if same, err := sameContent(src, path); err != nil || same {
		return err
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".lifecycle-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it is gone if all went well
	if _, err = io.Copy(tmp, src); err == nil {
		err = tmp.Chmod(0o755)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func openSource(source string) (*os.File, error) {
	if source != "" {
		return os.Open(source)
	}
	// Right also under go run, and after an upgrade replaced the file.
	if f, err := os.Open("/proc/self/exe"); err == nil {
		return f, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.Open(exe)
}

func sameContent(src *os.File, path string) (bool, error) {
	old, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer old.Close()
	a, err := src.Stat()
	if err != nil {
		return false, err
	}
	b, err := old.Stat()
	if err != nil {
		return false, err
	}
	if a.Size() != b.Size() || b.Mode().Perm()&0o111 == 0 {
		return false, nil
	}
	x, y := make([]byte, 1<<18), make([]byte, 1<<18)
	for {
		n, err := io.ReadFull(src, x)
		m, _ := io.ReadFull(old, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return true, nil
		default:
			return false, err
		}
	}
}

// check runs the role "check". A busy machine may make one try slow; only a program that is
// slow three times is refused for it.
func (p *Program) check(ctx context.Context) error {
	var err error
	for try, busy := 0, 0; try < 3; {
		var took time.Duration
		took, err = p.checkOnce(ctx)
		switch {
		case errors.Is(err, syscall.ETXTBSY) && busy < 100:
			// A process being forked elsewhere still holds the file open for writing.
			busy++
			if !pause(ctx, 10*time.Millisecond) {
				return ctx.Err()
			}
			continue
		case err != nil && took < checkTimeout, ctx.Err() != nil, err == nil && took <= checkTimeout:
			return err
		case err == nil:
			err = fmt.Errorf("%s needs %v before a role starts and may take %v: init functions and package variables of the "+
				"host program run first; make them cheap, or set Config.Source to a program built from lifecycle/cmd/%s",
				p.Path, took.Round(time.Millisecond), checkTimeout, ProgramName)
		}
		try++
	}
	return err
}

func (p *Program) checkOnce(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*checkTimeout)
	defer cancel()
	var out printed
	cmd := p.Command(ctx, "check")
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := p.Start(cmd)
	took := time.Since(begin)
	if err == nil {
		err = cmd.Wait()
	}
	if text := out.String(); text != "" {
		return 0, fmt.Errorf("%s printed %q before its role ran: an init function of the host program prints; "+
			"silence it, or set Config.Source to a program built from lifecycle/cmd/%s", p.Path, text, ProgramName)
	}
	if errors.Is(err, os.ErrPermission) {
		return took, fmt.Errorf("%w; is its file system mounted noexec? Choose another Config.Dir", err)
	}
	return took, err
}

// Command returns the command that runs a role. Start it with [Program.Start].
func (p *Program) Command(ctx context.Context, role string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.Path, args...)
	cmd.Args[0] = role
	return cmd
}

// Start starts cmd, which must run a role of this program, and returns when the role has
// said that it runs; for the role "init", when its process was started and recorded (or its
// failure to start was). A role that does not say so within 5 seconds is killed, and the error says so.
// Descriptor 3 of the process is taken; files in cmd.ExtraFiles follow from 4. A cmd.WaitDelay
// of 0 becomes 1 second, as children that the role has left may hold its pipes.
//
// After an error the process is gone and waited for; after nil the caller must call Wait.
func (p *Program) Start(cmd *exec.Cmd) error {
	role := filepath.Base(cmd.Args[0])
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start role %s: %w", role, err)
	}
	defer r.Close()
	extra := cmd.ExtraFiles
	cmd.ExtraFiles = append([]*os.File{w}, extra...)
	if cmd.Env == nil {
		cmd.Env = cmd.Environ()
	}
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], handshakeEnv+"=3")
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = time.Second
	}
	err = cmd.Start()
	_ = w.Close()
	cmd.ExtraFiles = extra
	if err != nil {
		return fmt.Errorf("start role %s: %w", role, err)
	}
	if err := awaitHandshake(r, role, cmp.Or(p.patience, handshakeTimeout)); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("start role %s of %s: %w", role, p.Path, err)
	}
	return nil
}

func awaitHandshake(r *os.File, role string, patience time.Duration) error {
	_ = r.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(io.LimitReader(r, 4096))
	line, found := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), handshakePrefix+role)
	switch {
	case found && line == "":
		return nil
	case found:
		return errors.New(strings.TrimSpace(line))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it did not say within %v that it runs, and was killed: the host program's own start-up ran "+
			"instead, the host does not import the package that offers the role, or this machine has no processor time to spare", patience)
	case err != nil:
		return err
	default:
		return errors.New("it ended before it said that it runs: the host program's own start-up failed, or the host does " +
			"not import the package that offers the role")
	}
}

// pause waits and tells whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// printed keeps the beginning of what is written to it.
type printed struct {
	mu   sync.Mutex
	head []byte
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.head = append(p.head, b[:min(len(b), 200-len(p.head))]...)
	return len(b), nil
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.head)
}
