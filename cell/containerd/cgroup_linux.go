package containerd

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const groupRoot = "/sys/fs/cgroup"

// unified tells whether this machine has control groups of version 2 only.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(groupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// limits are those that control groups of this machine can enforce.
func limits() (all []string) {
	have := func(controller string) bool {
		_, err := os.Stat(filepath.Join(groupRoot, controller))
		return err == nil
	}
	if unified() {
		b, _ := os.ReadFile(filepath.Join(groupRoot, "cgroup.controllers")) // none if it cannot be read
		have = func(controller string) bool { return slices.Contains(strings.Fields(string(b)), controller) }
	}
	for _, c := range []string{"memory", "cpu", "pids"} {
		if have(c) {
			all = append(all, c)
		}
	}
	return all
}

// countsSwap tells whether swap can be limited: with version 1 the kernel must have been told to count it.
func countsSwap() bool {
	_, err := os.Stat(filepath.Join(groupRoot, "memory", "memory.memsw.limit_in_bytes"))
	return unified() || err == nil
}

// groupsDir is where the groups of a cell's containers are, below the root of each hierarchy.
const groupsDir = "dewpoint"

// hierarchies are the roots of control groups.
func hierarchies() []string {
	if unified() {
		return []string{groupRoot}
	}
	all, _ := filepath.Glob(filepath.Join(groupRoot, "*")) // the pattern is right
	return all
}

// removeGroups removes the groups of a cell that has no containers, as far as they are empty.
func removeGroups(name string) {
	for _, r := range hierarchies() {
		if os.Remove(filepath.Join(r, groupsDir, name)) == nil {
			_ = os.Remove(filepath.Join(r, groupsDir)) // if it was the last
		}
	}
}

// groupsBelow lists the containers that have groups.
func groupsBelow(name string) (keys []string) {
	for _, r := range hierarchies() {
		all, _ := os.ReadDir(filepath.Join(r, groupsDir, name)) // mostly there is none
		for _, e := range all {
			if e.IsDir() && !slices.Contains(keys, e.Name()) {
				keys = append(keys, e.Name())
			}
		}
	}
	return keys
}

// groupsOf are the folders of the groups of a container that are there.
func groupsOf(name, key string) (dirs []string) {
	for _, r := range hierarchies() {
		d := filepath.Join(r, groupsDir, name, key)
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// processesIn lists the processes of groups.
func processesIn(dirs []string) (all []int) {
	for _, d := range dirs {
		b, _ := os.ReadFile(filepath.Join(d, "cgroup.procs")) // of one that is gone there are none
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !slices.Contains(all, pid) {
				all = append(all, pid)
			}
		}
	}
	return all
}

// groups are the folders of the control groups of a process, by controller; "" is version 2.
func groups(pid int) map[string]string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup") // of one that has ended there are none
	all := map[string]string{}
	for l := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(l), ":", 3) // cgroups(7)
		if len(f) != 3 {
			continue
		}
		if f[1] == "" {
			if unified() {
				all[""] = filepath.Join(groupRoot, f[2])
			}
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			if dir := filepath.Join(groupRoot, c, f[2]); !unified() {
				all[c] = dir
			}
		}
	}
	return all
}

// number reads a file that is one number.
func number(dir, name string) int64 {
	if dir == "" {
		return 0
	}
	b, _ := os.ReadFile(filepath.Join(dir, name)) // where it is not there nothing is known
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// field reads a number of a file of names and numbers.
func field(dir, name, key string) int64 {
	if dir == "" {
		return 0
	}
	b, _ := os.ReadFile(filepath.Join(dir, name)) // where it is not there nothing is known
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(l), " "); ok && k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// killed is how many processes were ended by the memory limit.
func (t task) killed() int64 {
	if dir := t.Groups[""]; dir != "" {
		return field(dir, "memory.events", "oom_kill")
	}
	return field(t.Groups["memory"], "memory.oom_control", "oom_kill")
}

// memory is what is in use and cannot be had again at once: without files that nobody has used for long.
func (t task) memory() int64 {
	if dir := t.Groups[""]; dir != "" {
		return max(0, number(dir, "memory.current")-field(dir, "memory.stat", "inactive_file"))
	}
	dir := t.Groups["memory"]
	return max(0, number(dir, "memory.usage_in_bytes")-field(dir, "memory.stat", "total_inactive_file"))
}

func (t task) cpu() time.Duration {
	if dir := t.Groups[""]; dir != "" {
		return time.Duration(field(dir, "cpu.stat", "usage_usec")) * time.Microsecond
	}
	return time.Duration(number(t.Groups["cpuacct"], "cpuacct.usage"))
}
