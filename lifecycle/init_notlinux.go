//go:build unix && !linux

package lifecycle

import "syscall"

// There is no subreaper here: what leaves the process group outlives its process.

const hasSubreaper = false

func becomeSubreaper() {}

func killDescendants(int) {}

func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
