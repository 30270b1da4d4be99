package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The role keeper is PID 1 of a container whose processes come and go: keeper DIR starts an init for each that it is
// asked for, and reaps. What it is asked stands in files of the init's state folder, which lies in DIR; it is told the
// folder's name on the socket beside them, with the descriptor on which the init says that it runs.
const (
	keeperSocket = ".keeper" // no process has such an id
	keeperFile   = "start"   // a keeperOrder
)

func init() { Run("keeper", runKeeper) }

// keeperOrder is an init to start, as it is called in the container.
type keeperOrder struct {
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
}

func runKeeper(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: keeper DIR")
		return 1
	}
	// Not /proc/1 of this one: by its root a program would be where this one is, with its powers.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return 1
	}
	dir := args[0]
	keepFiles()
	name := filepath.Join(dir, keeperSocket)
	_ = os.Remove(name)
	// Under another name first: who finds it may write to it.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name + ".new", Net: "unixgram"})
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		return 1
	}
	born := make(chan struct{}, 1)
	go func() {
		for {
			_, err := syscall.Wait4(-1, nil, 0, nil)
			if errors.Is(err, syscall.ECHILD) {
				<-born
			}
		}
	}()
	id, oob := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(id, oob)
		if err != nil {
			fmt.Fprintln(os.Stderr, "keeper:", err)
			return 1
		}
		say := passed(oob[:oobn])
		if say == nil {
			continue
		}
		if err := startInit(filepath.Join(dir, filepath.Base(string(id[:n]))), say); err != nil {
			fmt.Fprintln(say, handshakePrefix+"init "+strings.ReplaceAll(err.Error(), "\n", " "))
		}
		_ = say.Close()
		select {
		case born <- struct{}{}:
		default:
		}
	}
}

// passed is the file that came with a message.
func passed(oob []byte) *os.File {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "handshake")
}

func startInit(state string, say *os.File) error {
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
	attr := &syscall.ProcAttr{Env: append(o.Env, handshakeEnv+"=3"), Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), say.Fd()}}
	_, err = syscall.ForkExec(o.Path, o.Args, attr)
	return err
}

// Keeper is a running role keeper, seen from outside of its container.
type Keeper struct {
	PID int    // of the role, where this program is
	Dir string // its folder, where this program is
}

// Alive tells whether it takes orders. While it starts it does not yet.
func (k Keeper) Alive() bool {
	_, err := os.Stat(filepath.Join(k.Dir, keeperSocket))
	return err == nil
}

// Start starts an init by path with args and env, as they are called inside; args[0] is its role, "init". It needs
// the flag -inner and, as its -state, the folder of that name, which exists, in the keeper's folder. As
// [Program.Start] it returns when the process was started and recorded.
func (k Keeper) Start(ctx context.Context, name, path string, args, env []string) error {
	// A nil Env would be this program's own.
	b, err := json.Marshal(keeperOrder{path, args, (&exec.Cmd{Env: append([]string{}, env...)}).Environ()})
	if err != nil {
		return err
	}
	state := filepath.Join(k.Dir, name)
	if err := os.WriteFile(filepath.Join(state, keeperFile), b, 0o600); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = k.send(ctx, name, w)
	_ = w.Close()
	if err == nil {
		err = awaitHandshake(r, "init", handshakeTimeout)
	}
	if err == nil {
		err = k.Adopt(state)
	}
	if err != nil {
		return fmt.Errorf("start role init by a keeper: %w", err)
	}
	return os.Remove(filepath.Join(state, keeperFile))
}

// send passes the name and the file, as soon as the keeper listens.
func (k Keeper) send(ctx context.Context, name string, w *os.File) error {
	// Names of sockets are short; that of the folder may be long.
	dir, err := os.OpenFile(k.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only a name
	to := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), keeperSocket)}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(sock) }()
	begun := time.Now()
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := unix.Sendmsg(sock, []byte(name), unix.UnixRights(int(w.Fd())), to, 0)
		if err == nil {
			return nil
		}
		switch _, alive := processStart(k.PID); {
		case !alive:
			return fmt.Errorf("it has ended: %w", err)
		case !errors.Is(err, fs.ErrNotExist), time.Since(begun) > handshakeTimeout:
			return err
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

// Adopt makes the state folder of an init that the keeper has started that of an init as any other: inside it knows its
// numbers in the container only. Idempotent; where the init has ended nothing is to be done.
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
