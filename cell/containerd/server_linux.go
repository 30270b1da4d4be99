package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// runDir holds the sockets and the states of containerds that Runtimes start: names of sockets are short, and a state is for
// one boot of the machine.
const runDir = "/run/dewpoint"

// nameOf is a short name of a folder.
func nameOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:6])
}

// server is the containerd that is used.
type server struct {
	socket    string
	namespace string
	program   string // to start; "": it is somebody else's
	root      string // its data
	run       string // its state and its socket
	log       *slog.Logger

	client *containerd.Client

	life  context.Context // until close
	end   context.CancelFunc
	wg    sync.WaitGroup
	mu    sync.Mutex // guards what follows
	child *os.Process
	fails error // why it cannot be started again
}

func newServer(dir string, c Config) (*server, error) {
	s := &server{socket: c.Socket, namespace: c.Namespace, log: c.Logger}
	s.life, s.end = context.WithCancel(context.Background())
	if s.namespace == "" {
		s.namespace = "dewpoint"
	}
	if s.socket != "" {
		if !filepath.IsAbs(s.socket) {
			return nil, fmt.Errorf("Config.Socket is %q: give an absolute path", s.socket)
		}
		return s, nil
	}
	var err error
	program := c.Server
	if program == "" {
		program = "containerd"
	}
	if s.program, err = exec.LookPath(program); err != nil {
		return nil, fmt.Errorf("%w: %w; install containerd (on Debian: apt-get install containerd runc), or give the socket of one that runs", errors.ErrUnsupported, err)
	}
	for _, tool := range []string{"containerd-shim-runc-v2", "runc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: %w; containerd needs it on PATH (on Debian: apt-get install containerd runc)", errors.ErrUnsupported, err)
		}
	}
	s.root, s.run = filepath.Join(dir, "containerd"), filepath.Join(runDir, nameOf(dir))
	s.socket = filepath.Join(s.run, "containerd.sock")
	return s, nil
}

// connect reaches the server, and starts it if it is ours. Once; not by several goroutines.
func (s *server) connect(ctx context.Context) (err error) {
	if s.client != nil {
		return nil
	}
	if s.program != "" {
		if err := s.start(ctx); err != nil {
			return err
		}
	} else if st, err := os.Stat(s.socket); err != nil {
		return fmt.Errorf("no containerd: %w; is it started? Config.Socket names its socket", err)
	} else if st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s is no socket: Config.Socket names that of containerd", s.socket)
	}
	s.client, err = containerd.New(s.socket, containerd.WithDefaultNamespace(s.namespace), containerd.WithTimeout(10*time.Second))
	if err != nil {
		return fmt.Errorf("no containerd answers at %s: %w", s.socket, err)
	}
	asked, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	v, err := s.client.Version(asked)
	switch {
	case errdefs.IsNotImplemented(err) || status.Code(err) == codes.Unimplemented:
		return fmt.Errorf("what answers at %s is no containerd: %w", s.socket, err)
	case err != nil:
		return fmt.Errorf("no containerd answers at %s: %w", s.socket, err)
	case !atLeast(v.Version, 1, 6):
		return fmt.Errorf("containerd at %s is %s: 1.6 or later is needed", s.socket, v.Version)
	}
	return nil
}

func atLeast(version string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &a, &b); err != nil {
		return true // a build without a number
	}
	return a > major || a == major && b >= minor
}

// The same settings serve 1.6 and 2: nothing but to run containers.
const settings = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
  address = %q
`

// start starts the server and sees to it that it runs. One that a killed program has left is ended first.
func (s *server) start(ctx context.Context) error {
	for _, d := range []string{s.root, s.run, filepath.Join(s.run, "state")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	text := fmt.Sprintf(settings, s.root, filepath.Join(s.run, "state"), s.socket)
	if err := os.WriteFile(s.file("config.toml"), []byte(text), 0o600); err != nil {
		return err
	}
	if err := s.endLeft(ctx); err != nil {
		return err
	}
	cmd, err := s.launch(ctx)
	if err != nil {
		return err
	}
	s.wg.Go(func() { s.keep(cmd) })
	return nil
}

// tasks is where the server keeps what runs, by namespace.
func (s *server) tasks() string {
	return filepath.Join(s.run, "state", "io.containerd.runtime.v2.task")
}

func (s *server) file(name string) string { return filepath.Join(s.root, name) }

// endLeft ends the server of a program that was killed. Its containers go on.
func (s *server) endLeft(ctx context.Context) error {
	b, err := os.ReadFile(s.file("pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var pid int
	var start uint64
	if _, err := fmt.Sscan(string(b), &pid, &start); err != nil || pid <= 1 || startOf(pid) != start || start == 0 {
		return nil //nolint:nilerr // a number of nobody
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for startOf(pid) == start {
		if !pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// launch starts the server, and returns when it answers.
func (s *server) launch(ctx context.Context) (*exec.Cmd, error) {
	_ = os.Remove(s.socket)
	logFile := s.file("log")
	out, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()                                //nolint:errcheck // the child has it
	cmd := exec.Command(s.program, "--config", s.file("config.toml")) //nolint:gosec,noctx // the operator names it; it ends by close
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C at our terminal is not for it
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	note := fmt.Sprintf("%d %d\n", cmd.Process.Pid, startOf(cmd.Process.Pid))
	if err := os.WriteFile(s.file("pid"), []byte(note), 0o600); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if conn, err := dialUnix(s.socket); err == nil {
			_ = conn.Close()
			break
		}
		if startOf(cmd.Process.Pid) == 0 || !pause(ctx, 5*time.Millisecond) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return nil, fmt.Errorf("%s does not start; the end of %s: %s", s.program, logFile, tail(logFile))
		}
	}
	s.mu.Lock()
	s.child, s.fails = cmd.Process, nil
	s.mu.Unlock()
	return cmd, nil
}

// tail is the end of a file.
func tail(name string) string {
	b, _ := os.ReadFile(name) // one that is not there is empty
	return string(b[max(0, len(b)-1000):])
}

// keep starts the server again when it has ended, until close.
func (s *server) keep(cmd *exec.Cmd) {
	for wait := 10 * time.Millisecond; ; {
		begun := time.Now()
		err := cmd.Wait()
		select {
		case <-s.life.Done():
			return
		default:
		}
		s.log.Error("containerd has ended and is started again", "error", err)
		for {
			if wait = min(2*wait, 5*time.Second); time.Since(begun) > time.Minute {
				wait = 10 * time.Millisecond
			}
			select {
			case <-s.life.Done():
				return
			case <-time.After(wait):
			}
			next, err := s.launch(s.life)
			if err == nil && s.life.Err() != nil { // close has not seen this one
				_ = next.Process.Kill()
				_ = next.Wait()
				return
			}
			if err == nil {
				cmd = next
				break
			}
			s.mu.Lock()
			s.fails = err
			s.mu.Unlock()
			s.log.Error("start containerd again", "error", err)
		}
	}
}

func (s *server) close() (err error) {
	s.end()
	if s.client != nil {
		err = s.client.Close()
	}
	s.mu.Lock()
	child := s.child
	s.mu.Unlock()
	if child != nil {
		s.stop(child)
	}
	if s.program == "" {
		return err
	}
	// What is there of containers that go on is needed by the next.
	if left, _ := filepath.Glob(filepath.Join(s.tasks(), "*", "*")); len(left) == 0 {
		err = errors.Join(err, os.RemoveAll(s.run))
		_ = os.Remove(runDir) // if it was the last
	}
	return err
}

// stop ends the server that was started, and waits for its end.
func (s *server) stop(child *os.Process) {
	_ = child.Signal(syscall.SIGTERM) // if it has ended already, so be it
	ended := make(chan struct{})
	go func() { s.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = child.Kill()
		<-ended
	}
	_ = os.Remove(s.socket)
	_ = os.Remove(s.file("pid"))
}

// downWait is how long an answer of a containerd that is away is waited for.
const downWait = 60 * time.Second

// call asks the server again and again while it is away, as after its restart; what is asked must be idempotent.
func (s *server) call(ctx context.Context, ask func(context.Context) error) error {
	// A container that is of no use any more is removed before all else is ready.
	if err := s.connect(ctx); err != nil {
		return err
	}
	begun, said := time.Now(), false
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := s.reach()
		if err == nil {
			// It may go at this moment, and then the client waits for as long as it is let.
			asked, cancel := context.WithTimeout(ctx, downWait)
			err = ask(asked)
			cancel()
			if err == nil || !away(err) && s.reach() == nil {
				return err
			}
		}
		if time.Since(begun) > downWait || !pause(ctx, wait) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return errors.Join(fmt.Errorf("containerd at %s does not answer: %w", s.socket, err), s.fails)
		}
		if !said {
			said = true
			s.log.Warn("containerd does not answer; it is waited for", "socket", s.socket, "error", err)
		}
	}
}

// reach tells whether somebody listens.
func (s *server) reach() error {
	conn, err := dialUnix(s.socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// away tells an error of a server that is not there, or goes down.
func away(err error) bool {
	return errdefs.IsUnavailable(err) || status.Code(err) == codes.Unavailable || errors.Is(err, syscall.ECONNREFUSED)
}

// startOf is when a process was started, in the kernel's ticks; 0 if it is not there.
func startOf(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	i := strings.LastIndexByte(string(b), ')')
	if err != nil || i < 0 {
		return 0
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}

// pause waits, and tells whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
