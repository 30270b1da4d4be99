package lifecycle

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const hasSubreaper = true

func becomeSubreaper() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// keepFiles has open files end with init: what the host program, or who started it, has left open
// for children is none of an app's business. Kernels before 5.11 cannot; then it is done by hand.
func keepFiles() {
	if unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // then they stay open, as with any program
	}
	for _, e := range all {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= 3 {
			unix.CloseOnExec(fd)
		}
	}
}

// childAttr has the process die with init. The kernel watches the thread that forked: ours is
// the main one, to which init functions are locked.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// processStart returns when a process started, in clock ticks since boot; false if it is
// not there or only its status is.
func processStart(pid int) (uint64, bool) {
	s, ok := stat(pid)
	return s.start, ok && s.state != 'Z' && s.state != 'X'
}

type procStat struct {
	state         byte
	ppid, session int
	start         uint64
}

func stat(pid int) (procStat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, false
	}
	return parseStat(b)
}

// parseStat reads /proc/PID/stat (proc(5)); the name, in parentheses, may hold anything.
func parseStat(b []byte) (s procStat, ok bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return s, false
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return s, false
	}
	var err1, err2, err3 error
	s.state = f[0][0]
	s.ppid, err1 = strconv.Atoi(f[1])
	s.session, err2 = strconv.Atoi(f[3])
	s.start, err3 = strconv.ParseUint(f[19], 10, 64)
	return s, err1 == nil && err2 == nil && err3 == nil
}

// killDescendants kills what descends from a process. What is being forked meanwhile needs
// another call.
func killDescendants(pid int) {
	for _, child := range children(pid) {
		_ = syscall.Kill(child, syscall.SIGKILL)
		killDescendants(child)
	}
}

func children(pid int) (all []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if os.IsNotExist(err) {
			if _, ok := stat(pid); ok {
				return childrenByParent(pid) // a kernel without that file
			}
		}
		for f := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

func childrenByParent(pid int) []int {
	return processes(func(_ int, s procStat) bool { return s.ppid == pid })
}

func processes(which func(int, procStat) bool) (all []int) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		n, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if s, ok := stat(n); ok && s.state != 'Z' && which(n, s) {
			all = append(all, n)
		}
	}
	return all
}

// killLeft ends what an init that vanished has left: the session of its process, and what
// bears its mark in other sessions.
func killLeft(s started, state string) error {
	mark := []byte("\x00" + markEnv + "=" + state + "\x00")
	killed := map[int]uint64{} // by when they were started: one that ends has no environment any more
	for range 100 {            // what is being forked meanwhile is found the next time
		left := processes(func(pid int, p procStat) bool {
			if start, ok := killed[pid]; ok && p.start == start && p.state != 'X' {
				return true
			}
			if s.Process != 0 && p.session == s.Process && p.start >= s.ProcessStart {
				return true
			}
			env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // of others it cannot be read
			return bytes.Contains(append([]byte{0}, env...), mark)
		})
		for _, pid := range left {
			if start, ok := processStart(pid); ok {
				killed[pid] = start
			}
			if err := signalProcess(pid, syscall.SIGKILL); err != nil {
				return err
			}
		}
		if len(left) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// preferToEnd has the kernel end a process sooner than its init when memory ends: else nobody would know how it ended.
func preferToEnd(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("500"), 0) // of no use to one that has ended
}

func limitFiles(n uint64) error {
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n})
}
