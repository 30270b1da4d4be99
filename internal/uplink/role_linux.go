package uplink

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/internal/handover"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

func init() { lifecycle.RunLate("uplink", run) }

const (
	socketFile = "socket"
	// idleWait is how long one that serves nobody waits for somebody.
	idleWait = 30 * time.Second
	// machineWait is how long the addresses of this machine are taken to be what they were.
	machineWait = 5 * time.Second
)

// order is what is asked for.
type order struct {
	// Do is "attach", with the device and a descriptor of the process with which the container ends; "detach"; or "end", if
	// it serves nobody.
	Do    string `json:"do"`
	Key   string `json:"key,omitempty"` // of the container
	Rules []Rule `json:"rules"`         // null: none are asked; empty: nothing is allowed
}

// role is one run of the role: uplink [-user UID] DIR.
type role struct {
	end  chan struct{} // closed when it shall end
	idle *time.Timer

	mu    sync.Mutex // guards what follows
	lines map[string]*line

	machineMu sync.Mutex // guards what follows
	machine   []netip.Addr
	asked     time.Time
}

func run(args []string, ready func(error)) int {
	fl := flag.NewFlagSet("uplink", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	user := fl.Int("user", 0, "")
	err := fl.Parse(args)
	if err == nil && fl.NArg() != 1 {
		err = errors.New("usage: uplink [-user UID] DIR")
	}
	var l *net.UnixListener
	if err == nil {
		l, err = listen(fl.Arg(0), *user)
	}
	ready(err)
	if err != nil {
		fmt.Fprintln(os.Stderr, "uplink:", err)
		return 1
	}
	r := &role{end: make(chan struct{}), lines: map[string]*line{}}
	r.idle = time.AfterFunc(idleWait, r.leave)
	go func() { _ = handover.Serve(l, r.answer) }() // it ends with the process
	<-r.end
	return 0
}

// listen makes the socket, and lets go of root's powers: what comes from containers is nobody's friend.
func listen(dir string, user int) (*net.UnixListener, error) {
	if err := lifecycle.Record(dir); err != nil {
		return nil, err
	}
	l, err := handover.Listen(filepath.Join(dir, socketFile))
	if err != nil || user == 0 {
		return l, err
	}
	if err := syscall.Setgroups([]int{user}); err != nil {
		return nil, err
	}
	if err := syscall.Setresgid(user, user, user); err != nil {
		return nil, err
	}
	return l, syscall.Setresuid(user, user, user)
}

// leave ends the process if it serves nobody.
func (r *role) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) > 0 {
		return
	}
	select {
	case <-r.end:
	default:
		close(r.end)
	}
}

func (r *role) answer(question string, files []*os.File) (*os.File, error) {
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	var o order
	if err := json.Unmarshal([]byte(question), &o); err != nil {
		return nil, err
	}
	switch {
	case o.Do == "attach" && len(files) == 2:
		return nil, r.attach(o, files[0], files[1])
	case o.Do == "detach":
		r.detach(o.Key, nil)
	case o.Do == "end":
		r.leave()
	default:
		return nil, errors.ErrUnsupported
	}
	return nil, nil
}

// attach serves a container, if it does not already.
func (r *role) attach(o order, tun, process *os.File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.end:
		return syscall.ECONNREFUSED // as soon afterwards
	default:
	}
	if r.lines[o.Key] != nil {
		return nil
	}
	device, err := polled(tun)
	if err != nil {
		return err
	}
	l, err := open(device, func(protocol string, to netip.AddrPort) bool { return allows(o.Rules, r.addresses(), protocol, to) }, names, (&net.Dialer{}).DialContext)
	if err != nil {
		return err
	}
	watched, err := polled(process)
	if err != nil {
		l.close()
		return err
	}
	r.lines[o.Key] = l
	r.idle.Stop()
	go func() { // nobody may be there to say that it has gone
		defer func() { _ = watched.Close() }()
		lifecycle.AwaitEnd(watched)
		r.detach(o.Key, l)
	}()
	return nil
}

// polled returns another descriptor of a file, for which goroutines wait without a thread.
func polled(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// detach lets go of a container; of l, if it is not nil.
func (r *role) detach(key string, l *line) {
	r.mu.Lock()
	have := r.lines[key]
	if have == nil || l != nil && have != l {
		r.mu.Unlock()
		return
	}
	delete(r.lines, key)
	if len(r.lines) == 0 {
		r.idle.Reset(idleWait)
	}
	r.mu.Unlock()
	have.close()
}

// addresses are this machine's.
func (r *role) addresses() []netip.Addr {
	r.machineMu.Lock()
	defer r.machineMu.Unlock()
	if now := time.Now(); now.Sub(r.asked) > machineWait {
		all, err := net.InterfaceAddrs()
		if err != nil && r.machine != nil {
			return r.machine
		}
		r.machine, r.asked = nil, now
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				r.machine = append(r.machine, p.Addr().Unmap())
			}
		}
	}
	return r.machine
}

// names are the machine's resolvers as they are now.
func names() []netip.AddrPort {
	b, _ := os.ReadFile("/etc/resolv.conf") // one that is not there names none
	return nameservers(string(b))
}
