//go:build unix

package sampletree

import (
	"syscall"
	"time"
)

// CPUTime is what this process has used of the processors.
func CPUTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
