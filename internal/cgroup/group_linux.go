package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Root is where control groups are.
const Root = "/sys/fs/cgroup"

// The controllers, as both versions call them.
const (
	memory = "memory"
	cpu    = "cpu"
	pids   = "pids"
)

// Group is what can be read of a group, whoever made it. What is not there is 0.
type Group struct {
	V2   bool              `json:"v2,omitempty"`
	Dirs map[string]string `json:"dirs,omitempty"` // by controller; of version 2 all are the same
}

// Of returns the group of a process; one that has ended is in none.
func Of(pid int) Group {
	paths, _ := groupsIn("/proc/" + strconv.Itoa(pid) + "/cgroup") // of one that has ended there are none
	g := Group{V2: Unified(), Dirs: map[string]string{}}
	for c, path := range paths {
		if g.V2 && c == "" {
			for _, c := range []string{memory, cpu, pids} {
				g.Dirs[c] = filepath.Join(Root, path)
			}
		} else if !g.V2 && c != "" {
			g.Dirs[c] = filepath.Join(Root, c, path)
		}
	}
	return g
}

// Unified tells whether this machine has control groups of version 2 only.
func Unified() bool { return isV2(Root) }

func isV2(root string) bool {
	_, err := os.Stat(filepath.Join(root, "cgroup.controllers"))
	return err == nil
}

// groupsIn reads a /proc/PID/cgroup: the paths of groups by controller; "" is version 2 (cgroups(7)).
func groupsIn(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for l := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(l), ":", 3); len(f) == 3 {
			for _, c := range strings.Split(f[1], ",") {
				paths[c] = f[2]
			}
		}
	}
	return paths, nil
}

// OutOfMemory tells how many processes the memory limit has ended.
func (g Group) OutOfMemory() int64 {
	if g.V2 {
		return g.field("memory.events", "oom_kill")
	}
	return g.field("memory.oom_control", "oom_kill")
}

// Memory is what is in use and cannot be let go at once, in bytes: without files that nobody has used for long.
func (g Group) Memory() int64 {
	if g.V2 {
		return max(0, g.number(memory, "memory.current")-g.field("memory.stat", "inactive_file"))
	}
	return max(0, g.number(memory, "memory.usage_in_bytes")-g.field("memory.stat", "total_inactive_file"))
}

// CPU is the processor time that was taken; of a [Parent]'s group with version 1 it is not known.
func (g Group) CPU() time.Duration {
	if g.V2 {
		return time.Duration(g.fieldOf(cpu, "cpu.stat", "usage_usec")) * time.Microsecond
	}
	return time.Duration(g.number("cpuacct", "cpuacct.usage"))
}

// number reads a file that is one number.
func (g Group) number(controller, name string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(g.read(controller, name)), 10, 64)
	return n
}

// field reads a number of a file of names and numbers of memory.
func (g Group) field(name, key string) int64 { return g.fieldOf(memory, name, key) }

func (g Group) fieldOf(controller, name, key string) int64 {
	for l := range strings.Lines(g.read(controller, name)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(l), " "); ok && k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

func (g Group) read(controller, name string) string {
	if g.Dirs[controller] == "" {
		return ""
	}
	b, _ := os.ReadFile(filepath.Join(g.Dirs[controller], name)) // where it is not there nothing is known
	return string(b)
}
