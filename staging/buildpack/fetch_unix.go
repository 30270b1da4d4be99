//go:build unix

package buildpack

import (
	"os/exec"
	"syscall"
)

// endWhole makes the end of cmd's context end what it has started, too: git leaves the network
// to children, which would go on without it.
func endWhole(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
