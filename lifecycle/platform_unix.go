//go:build unix

package lifecycle

import "syscall"

const supported = true

func closeOnExec(fd int) { syscall.CloseOnExec(fd) }
