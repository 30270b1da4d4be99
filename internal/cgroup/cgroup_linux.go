package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Parent is a place for groups. Its methods may be called by several goroutines, for different groups.
type Parent struct {
	v2   bool
	name string            // what the names of groups begin with
	dirs map[string]string // this program's own groups, by controller; of version 2 all are the same

	mu   sync.Mutex // guards what follows
	open map[string]*os.File
}

// Open finds where this program may make groups, by trying. Their names begin with name and "-": no other program may
// use that. If there is no such place, the error says why.
func Open(name string) (*Parent, error) { return openAt(Root, "/proc/self/cgroup", name) }

func openAt(root, self, name string) (*Parent, error) {
	own, err := groupsIn(self)
	if err != nil {
		return nil, err
	}
	p := &Parent{name: name + "-", dirs: map[string]string{}, open: map[string]*os.File{}}
	if p.v2 = isV2(root); p.v2 {
		err = p.openV2(filepath.Join(root, own[""]))
	} else {
		err = p.openV1(root, own)
	}
	if err != nil {
		return nil, fmt.Errorf("no control groups: %w", err)
	}
	return p, nil
}

// openV1 takes each controller by itself: some may be this program's to use, and others not.
func (p *Parent) openV1(root string, own map[string]string) error {
	why := errors.New("this machine has none")
	for _, c := range []string{memory, cpu, pids} {
		at, ok := own[c]
		if !ok {
			continue
		}
		dir := filepath.Join(root, c, at)
		if err := p.try(dir); err != nil {
			why = err
			continue
		}
		p.dirs[c] = dir
	}
	if len(p.dirs) == 0 {
		return why
	}
	return nil
}

// openV2 has the controllers handed on. A group that hands some on has no processes of its own, so if this program is
// alone in its group, it goes to one below.
func (p *Parent) openV2(own string) error {
	if above := filepath.Dir(own); filepath.Base(own) == aside && p.try(above) == nil {
		own = above // an earlier Open of this program has brought it there
	}
	b, err := os.ReadFile(filepath.Join(own, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var have []string
	for _, c := range []string{memory, cpu, pids} {
		if slices.Contains(strings.Fields(string(b)), c) {
			have = append(have, c)
		}
	}
	if len(have) == 0 {
		return fmt.Errorf("none of the controllers memory, cpu and pids is handed on to %s", own)
	}
	if err := handOn(own, have); errors.Is(err, unix.EBUSY) {
		if err := stepAside(own); err != nil {
			return err
		}
		if err := handOn(own, have); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := p.try(own); err != nil {
		return err
	}
	for _, c := range have {
		p.dirs[c] = own
	}
	return nil
}

// try makes a group for a moment.
func (p *Parent) try(dir string) error {
	dir = filepath.Join(dir, p.name+"try")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Remove(dir)
}

func handOn(dir string, controllers []string) error {
	return write(dir, "cgroup.subtree_control", "+"+strings.Join(controllers, " +"))
}

// aside is the group below its own into which the program goes.
const aside = "program"

func stepAside(own string) error {
	b, err := os.ReadFile(filepath.Join(own, "cgroup.procs"))
	if err != nil {
		return err
	}
	me := strconv.Itoa(os.Getpid())
	if all := strings.Fields(string(b)); !slices.Equal(all, []string{me}) {
		return fmt.Errorf("%s holds other processes beside this program: start it in a group of its own, as systemd-run --user --scope -p Delegate=yes does", own)
	}
	dir := filepath.Join(own, aside)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return write(dir, "cgroup.procs", me)
}

// write writes to a file of a group, which must be there.
func write(dir, name, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Controllers names what can be limited: "memory", "cpu", "pids".
func (p *Parent) Controllers() []string {
	var all []string
	for _, c := range []string{memory, cpu, pids} {
		if p.dirs[c] != "" {
			all = append(all, c)
		}
	}
	return all
}

// group is the folder of a group.
func (p *Parent) group(controller, key string) string {
	return filepath.Join(p.dirs[controller], p.name+key)
}

// folders of a group, each once.
func (p *Parent) folders(key string) (all []string) {
	for _, c := range p.Controllers() {
		if dir := p.group(c, key); !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	return all
}

// Make makes a group. It may be there: then its limits are set anew.
func (p *Parent) Make(key string, l Limits) error {
	for _, dir := range p.folders(key) {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("control group: %w", err)
		}
	}
	set := func(controller, name string, n int64) error {
		if p.dirs[controller] == "" || n <= 0 {
			return nil
		}
		if err := write(p.group(controller, key), name, strconv.FormatInt(n, 10)); err != nil {
			return fmt.Errorf("limit %s to %d: %w", controller, n, err)
		}
		return nil
	}
	if p.v2 {
		err := errors.Join(set(memory, "memory.max", l.Memory), set(cpu, "cpu.weight", min(10_000, int64(l.CPU))), set(pids, "pids.max", int64(l.PIDs)))
		if l.Memory > 0 { // what goes to swap would not count
			_ = write(p.group(memory, key), "memory.swap.max", "0") // there is none where the kernel does not count it
		}
		return err
	}
	err := errors.Join(set(memory, "memory.limit_in_bytes", l.Memory), set(cpu, "cpu.shares", shares(l.CPU)), set(pids, "pids.max", int64(l.PIDs)))
	if l.Memory > 0 && p.dirs[memory] != "" {
		_ = write(p.group(memory, key), "memory.memsw.limit_in_bytes", strconv.FormatInt(l.Memory, 10)) // there only where swap is counted
	}
	return err
}

// shares is a weight as version 1 calls it, which knows none below 2.
func shares(weight int) int64 {
	if weight <= 0 {
		return 0
	}
	return max(2, int64(weight)*1024/100)
}

// Enter has a process begin in a group: by attr or, with version 1, by itself: it writes "0" to the files that are
// returned before it does anything else.
func (p *Parent) Enter(key string, attr *syscall.SysProcAttr) (files []string, err error) {
	all := p.folders(key)
	if !p.v2 {
		for i, dir := range all {
			all[i] = filepath.Join(dir, "cgroup.procs")
		}
		return all, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.open[key] // until Remove: nobody tells when the process is there
	if f == nil {
		if f, err = os.Open(all[0]); err != nil {
			return nil, err
		}
		p.open[key] = f
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(f.Fd())
	return nil, nil
}

// Group returns a group, to be read.
func (p *Parent) Group(key string) Group {
	g := Group{V2: p.v2, Dirs: map[string]string{}}
	for c := range p.dirs {
		g.Dirs[c] = p.group(c, key)
	}
	return g
}

// removeWait is how long a group whose processes have ended may be held by them.
const removeWait = 2 * time.Second

// Remove ends what is in a group, and removes it. Idempotent.
func (p *Parent) Remove(key string) error {
	p.mu.Lock()
	f := p.open[key]
	delete(p.open, key)
	p.mu.Unlock()
	if f != nil {
		_ = f.Close() // only a name
	}
	begun := time.Now()
	for _, dir := range p.folders(key) {
		for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Since(begun) > removeWait {
				return fmt.Errorf("remove control group %s: %w", dir, err)
			}
			kill(dir)
			time.Sleep(wait)
		}
	}
	return nil
}

func kill(dir string) {
	b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")) // gone: nothing to kill
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// Sweep removes the groups that keep does not want.
func (p *Parent) Sweep(keep func(key string) bool) error {
	var errs []error
	for _, c := range p.Controllers() {
		all, err := os.ReadDir(p.dirs[c])
		errs = append(errs, err)
		for _, e := range all {
			if key, ok := strings.CutPrefix(e.Name(), p.name); ok && e.IsDir() && !keep(key) {
				errs = append(errs, p.Remove(key))
			}
		}
	}
	return errors.Join(errs...)
}
