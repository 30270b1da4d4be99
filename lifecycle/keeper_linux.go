package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/internal/handover"
	"github.com/dewpoint-go/dewpoint/internal/overlay"
)

// The role keeper is PID 1 of a container whose processes come and go. It starts an init for each that it is asked for,
// reaps, and connects to ports of the container's own network for who is outside. What it is asked comes to the socket of its folder,
// which is that of the states of inits; what an init is stands in a file of its state.
//
// keeper [-outside] [-group FILE]… [-network ADDRESS] [-mounts FILE] DIR
const (
	keeperDir    = ".keeper" // no process has such an id
	keeperSocket = "socket"
	keeperFile   = "start" // a keeperOrder
)

func init() { RunLate("keeper", runKeeper) }

// keeperOrder is an init to start, as it is called in the container.
type keeperOrder struct {
	Path string   `json:"path"`
	Args []string `json:"args"`
}

// keeperRole is one run of the role.
type keeperRole struct {
	dir     string
	outside bool       // it stays in the machine's own filesystem, and inits in namespaces of processes of their own
	network netip.Addr // what the container is called in its own network; not valid: it has none
	mounts  string     // a file with a list of overlay.Overlay as JSON, which are to be mounted: for what is inside alone
	groups  []string   // files of control groups to go to (cgroup.procs)

	born chan struct{} // may be full
	tun  *os.File      // the way out of its network; nil: there is none
}

func runKeeper(args []string, ready func(error)) int {
	k := &keeperRole{born: make(chan struct{}, 1)}
	l, err := k.start(args)
	ready(err)
	if err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return 1
	}
	// Only SIGKILL ends it, and with it all that is inside. Caught, not ignored: what is ignored stays so in inits.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE)
	if k.outside {
		silence()
	}
	go k.reap()
	if err := handover.Serve(l, k.answer); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
	}
	return 1
}

func (k *keeperRole) start(args []string) (*net.UnixListener, error) {
	fl := flag.NewFlagSet("keeper", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	fl.BoolVar(&k.outside, "outside", false, "")
	fl.Func("group", "", func(s string) error { k.groups = append(k.groups, s); return nil })
	fl.TextVar(&k.network, "network", netip.Addr{}, "")
	fl.StringVar(&k.mounts, "mounts", "", "")
	if err := fl.Parse(args); err != nil {
		return nil, err
	}
	if k.dir = fl.Arg(0); fl.NArg() != 1 {
		return nil, errors.New("usage: keeper [-outside] [-group FILE]… [-network ADDRESS] [-mounts FILE] DIR")
	}
	for _, g := range k.groups {
		if err := os.WriteFile(g, []byte("0"), 0); err != nil {
			return nil, fmt.Errorf("go to its control group: %w", err)
		}
	}
	// Not /proc/1 of this one: by its root a program would be where this one is, with its powers.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, err
	}
	keepFiles()
	// Not the folders above: they were removed if whoever started this has ended, and its successor has cleaned up.
	state := filepath.Join(k.dir, keeperDir)
	if err := os.Mkdir(state, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if k.outside {
		if err := Record(state); err != nil {
			return nil, err
		}
	}
	if k.mounts != "" {
		if err := mountAll(k.mounts); err != nil {
			return nil, fmt.Errorf("mounts: %w", err)
		}
	}
	if k.network.IsValid() {
		var err error
		if k.tun, err = openNetwork(k.network); err != nil {
			return nil, fmt.Errorf("a network of its own: %w", err)
		}
	}
	// Under another name first: who finds it may ask.
	file := filepath.Join(state, keeperSocket)
	l, err := handover.Listen(file + ".new")
	if err != nil {
		return nil, err
	}
	return l, os.Rename(file+".new", file)
}

// mountAll mounts what a file lists, in its order.
func mountAll(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all []overlay.Overlay
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	// None of these is to be seen outside. But what is unmounted there is to go here, too.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	for _, o := range all {
		if err := o.Mount(true); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeperRole) reap() {
	for {
		_, err := syscall.Wait4(-1, nil, 0, nil)
		if errors.Is(err, syscall.ECHILD) {
			<-k.born
		}
	}
}

// answer does what is asked for: "start NAME", with the file on which an init says that it runs, and perhaps a line;
// "tcp PORT" for a connection; "tun" for the way out of the network.
func (k *keeperRole) answer(question string, files []*os.File) (*os.File, error) {
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	what, arg, _ := strings.Cut(question, " ")
	switch {
	case what == "start" && (len(files) == 1 || len(files) == 2):
		defer func() {
			select {
			case k.born <- struct{}{}:
			default:
			}
		}()
		return nil, k.startInit(filepath.Join(k.dir, filepath.Base(arg)), files)
	case what == "tcp":
		return connect(arg)
	case what == "tun" && k.tun != nil:
		fd, err := unix.FcntlInt(k.tun.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		return os.NewFile(uintptr(fd), "tun"), err
	}
	return nil, errors.ErrUnsupported
}

// connectWait is longer than who asks waits.
const connectWait = 30 * time.Second

// connect connects to a port of the network in which this is.
func connect(port string) (*os.File, error) {
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{Timeout: connectWait}).Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // the file is another
	return c.(*net.TCPConn).File()
}

func (k *keeperRole) startInit(state string, files []*os.File) error {
	b, err := os.ReadFile(filepath.Join(state, keeperFile))
	if err != nil {
		return err
	}
	var o keeperOrder
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	attr := &syscall.ProcAttr{Env: []string{handshakeEnv + "=3"}, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Sys: &syscall.SysProcAttr{}}
	for _, f := range files { // 3 and 4
		attr.Files = append(attr.Files, f.Fd())
	}
	if k.outside {
		// A program of the same user cannot signal its init, which is PID 1, nor those of others, nor this.
		attr.Sys.Cloneflags = syscall.CLONE_NEWPID
	}
	_, err = syscall.ForkExec(o.Path, o.Args, attr)
	return err
}

// Keeper is a running role keeper, seen from outside of its container.
type Keeper struct {
	PID int    // of the role, where this program is
	Dir string // its folder, where this program is
}

// StartKeeper starts the role with flags and with dir as its folder, which exists. The command has, or gets in attr, the
// namespaces of the container. The keeper stays in the machine's own filesystem, and outlives this program; ended closes when
// it has ended.
func (p *Program) StartKeeper(dir string, attr *syscall.SysProcAttr, flags ...string) (k Keeper, ended <-chan struct{}, err error) {
	cmd := p.Command(context.Background(), "keeper", append(append([]string{"-outside"}, flags...), dir)...)
	cmd.Env = []string{}
	cmd.SysProcAttr = attr
	attr.Setsid = true // neither Ctrl-C at our terminal nor its end is for it
	if err := p.Start(cmd); err != nil {
		return k, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	return Keeper{cmd.Process.Pid, dir}, done, nil
}

// FindKeeper returns the keeper that StartKeeper has started over a folder, whichever program called it; ok is false if none
// runs.
func FindKeeper(dir string) (k Keeper, ok bool) {
	s, err := InitState(filepath.Join(dir, keeperDir))
	return Keeper{s.PID, dir}, err == nil && s.Alive
}

// Kill ends the keeper and all that is in its container, and returns when it has gone.
func (k Keeper) Kill(ctx context.Context) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if now, alive := FindKeeper(k.Dir); !alive || now.PID != k.PID {
			return nil
		}
		if err := signalProcess(k.PID, syscall.SIGKILL); err != nil {
			return fmt.Errorf("end the keeper: %w", err)
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// Socket is the file by which it is asked, for an address of a cell.
func (k Keeper) Socket() string { return filepath.Join(k.Dir, keeperDir, keeperSocket) }

// Tun returns the device by which what is sent out of its network comes here, and answers go there; packets of IPv4 without
// any header before.
func (k Keeper) Tun(ctx context.Context) (*os.File, error) {
	f, err := handover.Ask(ctx, k.Socket(), "tun")
	if err == nil && f == nil {
		err = errors.ErrUnsupported
	}
	return f, err
}

// Start starts an init by path with args and env, as they are called inside; args[0] is its role, "init". It needs, as its
// -state, the folder of that name, which exists, in the keeper's folder and, if the keeper is inside, the flag -inner. As
// [Program.Start] it returns when the process was started and recorded. Line is nil, or the init's end of one.
func (k Keeper) Start(ctx context.Context, name, path string, args, env []string, line *os.File) error {
	b, err := json.Marshal(keeperOrder{path, args})
	if err != nil {
		return err
	}
	state := filepath.Join(k.Dir, name)
	if err := WriteEnvironment(state, env); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(state, keeperFile), b, 0o600); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	files := []*os.File{w}
	if line != nil {
		files = append(files, line)
	}
	err = k.send(ctx, "start "+name, files)
	_ = w.Close()
	if err == nil {
		err = awaitHandshake(r, "init", handshakeTimeout)
	}
	if err == nil {
		err = k.Adopt(state)
	}
	if err != nil {
		_ = k.Adopt(state)
		if s, e := InitState(state); e == nil && s.Alive { // it heeds nobody yet, and its process may be there
			killDescendants(s.PID)
			_ = signalProcess(s.PID, syscall.SIGKILL)
		}
		return fmt.Errorf("start role init by a keeper: %w", err)
	}
	return os.Remove(filepath.Join(state, keeperFile))
}

// send asks, as soon as the keeper listens.
func (k Keeper) send(ctx context.Context, question string, files []*os.File) error {
	begun := time.Now()
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		_, err := handover.Ask(ctx, k.Socket(), question, files...)
		if err == nil {
			return nil
		}
		switch _, alive := processStart(k.PID); {
		case !alive:
			return fmt.Errorf("it has ended: %w", err)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED), time.Since(begun) > handshakeTimeout:
			return err // else it does not listen yet, and the socket may be that of one before it
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// Adopt makes the state folder of an init that a keeper inside has started that of an init as any other: inside it knows
// its numbers in the container only. Idempotent; where the init has ended nothing is to be done.
func (k Keeper) Adopt(state string) error {
	s, err := readStarted(state)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !s.Inner {
		return nil
	} else if err != nil {
		return err
	}
	for _, pid := range children(k.PID) {
		if start, ok := processStart(pid); !ok || start != s.Start || innerPID(pid) != s.PID {
			continue
		}
		s.PID, s.Process, s.Inner = pid, 0, false
		if all := children(pid); len(all) > 0 {
			s.Process = all[0]
			s.ProcessStart, _ = processStart(s.Process)
		}
		return recordStarted(state, s)
	}
	return nil
}

// innerPID is what a process is called in its own namespace.
func innerPID(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, "NSpid:"); ok {
			f := strings.Fields(rest)
			if len(f) == 0 {
				return 0
			}
			n, _ := strconv.Atoi(f[len(f)-1])
			return n
		}
	}
	return 0
}
