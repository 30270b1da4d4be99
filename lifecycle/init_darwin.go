package lifecycle

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bootID is not needed: start times are absolute here.
func bootID() string { return "" }

func processStart(pid int) (uint64, bool) {
	const zombie = 5 // SZOMB of sys/proc.h
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || k.Proc.P_pid != int32(pid) || k.Proc.P_stat == zombie {
		return 0, false
	}
	t := k.Proc.P_starttime
	return uint64(t.Sec)*1e6 + uint64(t.Usec), true
}

// killLeft ends the group of a process whose init vanished.
func killLeft(s started, _ string) error {
	if start, ok := processStart(s.Process); s.Process == 0 || !ok || start != s.ProcessStart {
		return nil
	}
	return signalProcess(-s.Process, syscall.SIGKILL)
}

func limitFiles(n uint64) error {
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n})
}

func preferToEnd(int) {}
