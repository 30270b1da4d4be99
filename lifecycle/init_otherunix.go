//go:build unix && !linux && !darwin

package lifecycle

import (
	"errors"
	"syscall"
)

func bootID() string { return "" }

func processStart(pid int) (uint64, bool) { return 0, syscall.Kill(pid, 0) == nil }

// killLeft ends the group of a process whose init vanished.
func killLeft(s started, _ string) error {
	if s.Process == 0 {
		return nil
	}
	return signalProcess(-s.Process, syscall.SIGKILL)
}

func limitFiles(uint64) error { return errors.ErrUnsupported }

func preferToEnd(int) {}
