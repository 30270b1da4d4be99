// Package cgroup limits what groups of processes take of memory, processor time and processes, by control groups
// of Linux, version 1 or 2, wherever this program may make some.
package cgroup

// Limits of a group; 0: none.
type Limits struct {
	Memory int64 // in bytes; swap included, where the kernel counts it
	CPU    int   // a weight: 100 is what a process outside of groups has
	PIDs   int   // processes and threads
}

// Any tells whether there is a limit.
func (l Limits) Any() bool { return l != Limits{} }
