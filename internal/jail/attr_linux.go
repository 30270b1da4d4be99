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

// spareID is what root's own group is called where number 0 is another's.
const spareID = 65533

// Namespaces is what the first process is started in.
type Namespaces struct {
	// Outside is the user of this machine to whom what programs own belongs, which only root may say: then the first process is
	// root among its namespaces, and the program becomes UID and GID (Spec.User). 0: who runs this program, as both of them.
	Outside  int
	UID, GID int  // inside
	Network  bool // there is one of its own, in which there is nothing yet
	Mounts   bool // there may be others than this program's
	// Users, with Outside, is who the program and what it starts may be instead of that one user; First is the machine's number.
	Users *Users
}

// Attr is how the first process is started.
func (n Namespaces) Attr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP}
	if n.Network {
		attr.Cloneflags |= unix.CLONE_NEWNET
	}
	if n.Mounts {
		attr.Cloneflags |= unix.CLONE_NEWNS
	}
	if n.Outside != 0 && n.Users != nil {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: n.Users.First, HostID: n.Users.First, Size: n.Users.Count}}
		attr.GidMappings, attr.GidMappingsEnableSetgroups = attr.UidMappings, true
		return attr
	}
	if n.Outside != 0 {
		ids := func(inside int) []syscall.SysProcIDMap {
			theirs := syscall.SysProcIDMap{ContainerID: inside, HostID: n.Outside, Size: 1}
			if inside == 0 { // as a group: of an image's user that names none. What root makes there needs a number all the same.
				return []syscall.SysProcIDMap{theirs, {ContainerID: spareID, HostID: 0, Size: 1}}
			}
			return []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, theirs}
		}
		attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = ids(n.UID), ids(n.GID), true
		if n.GID == 0 { // root's own group is not there
			attr.Credential = &syscall.Credential{}
		}
		return attr
	}
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: n.UID, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: n.GID, HostID: os.Getegid(), Size: 1}}
	// Else they would go with the execution, as the user inside is not root.
	attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_KILL}
	if n.Mounts { // overlays keep a folder that is closed to all, and change what is whose as who has mounted them
		attr.AmbientCaps = append(attr.AmbientCaps, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_CHOWN)
	}
	if n.Network {
		attr.AmbientCaps = append(attr.AmbientCaps, unix.CAP_NET_ADMIN)
	}
	return attr
}

// Child is how the second process is started. With Users it is their root, in a user namespace of theirs: the namespaces
// in which it is, and files of others, are not of that, so it has no power over them.
func (s *Spec) Child() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if s.Users != nil {
		attr.Cloneflags = unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: s.Users.First, Size: s.Users.Count}}
		attr.GidMappings, attr.GidMappingsEnableSetgroups, attr.Credential = attr.UidMappings, true, &syscall.Credential{}
	}
	if s.Rules == nil && !s.Built && s.Users == nil {
		attr.Unshareflags = unix.CLONE_NEWNS
	}
	return attr
}

// Guard is for the first process: nobody inside can look into it. By its /proc/PID/root a program would
// be in the machine's own filesystem.
func Guard() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// Mapped tells whether there is a user and group of this number where this program runs: in a container
// there may be few.
func Mapped(id int) bool { return MappedAll(id, 1) }

// MappedAll is Mapped for so many, the first being id.
func MappedAll(id, count int) bool {
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		found := false
		for l := range strings.Lines(string(b)) {
			var first, to, n int
			_, err := fmt.Sscan(l, &first, &to, &n)
			found = found || err == nil && id >= first && id-first+count <= n
		}
		if !found {
			return false
		}
	}
	return true
}
