//go:build unix && !linux

package lifecycle

import (
	"fmt"
	"os"
	"syscall"

	"errors"
)

// There is no subreaper here: what leaves the process group outlives its process.

const hasSubreaper = false

func becomeSubreaper() {}

// keepFiles has open files end with init. Of what is not open nothing comes.
func keepFiles() {
	for fd := 3; fd < 1024; fd++ {
		syscall.CloseOnExec(fd)
	}
}

func killDescendants(int) {}

func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func ownPID() int { return os.Getpid() }

func outerPID(_, process int) int { return process }

func (*initRole) enter([]uintptr) (int, error) {
	return 0, fmt.Errorf("init -jail: %w here", errors.ErrUnsupported)
}
