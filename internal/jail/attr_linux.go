package jail

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inside is the user and group that programs are inside: Cloud Foundry's vcap.
const Inside = 2000

// Attr is how the first process is started. Files of programs belong to who runs this program or, if outside is not 0
// (which only root may say), to that user: then the first process is root among its namespaces, and the
// program becomes [Inside] (Spec.User). With network it has one of its own, in which there is nothing yet.
func Attr(outside int, network bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP}
	if network {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	if outside != 0 {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: Inside, HostID: outside, Size: 1}}
		attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = ids, ids, true
		return attr
	}
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: Inside, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: Inside, HostID: os.Getegid(), Size: 1}}
	// Else they would go with the execution, as the user inside is not root.
	attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_KILL}
	if network {
		attr.AmbientCaps = append(attr.AmbientCaps, unix.CAP_NET_ADMIN)
	}
	return attr
}

// Child is how the second process is started.
func (s *Spec) Child() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if s.Rules == nil && !s.Built {
		attr.Unshareflags = unix.CLONE_NEWNS
	}
	return attr
}

// Guard is for the first process: nobody inside can look into it. By its /proc/PID/root a program would
// be in the machine's own filesystem.
func Guard() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// Mapped tells whether there is a user and group of this number where this program runs: in a container
// there may be few.
func Mapped(id int) bool {
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		found := false
		for l := range strings.Lines(string(b)) {
			var first, to, n int
			_, err := fmt.Sscan(l, &first, &to, &n)
			found = found || err == nil && id >= first && id-first < n
		}
		if !found {
			return false
		}
	}
	return true
}
