package containerd

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dewpoint-go/dewpoint/internal/cgroup"
)

const groupRoot = cgroup.Root

// limits are those that control groups of this machine can enforce.
func limits() (all []string) {
	have := func(controller string) bool {
		_, err := os.Stat(filepath.Join(groupRoot, controller))
		return err == nil
	}
	if cgroup.Unified() {
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
	return cgroup.Unified() || err == nil
}

// groupsDir is where the groups of a cell's containers are, below the root of each hierarchy.
const groupsDir = "dewpoint"

// hierarchies are the roots of control groups.
func hierarchies() []string {
	if cgroup.Unified() {
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
