package sandbox

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// The levels of isolation, as Config.AtLeast and cell.Resources name them. What each stops stands in docs/isolation.md.
const (
	// Landlock hides the files of this machine; paths of a container are folders of the instance, as in cell/process.
	Landlock = "landlock"
	// Namespaces gives containers a root filesystem, processes and users of their own.
	Namespaces = "namespaces"
)

// The networks of containers, as Config.Network names them.
const (
	// OwnNetwork: each container has one of its own, where nothing but it is. The cell connects to its ports
	// ([cell.Address].Dial), and it reaches the world by way of this program's user.
	OwnNetwork = "own"
	// HostNetwork: they have this machine's, and a port of it for each of theirs.
	HostNetwork = "host"
)

// HostStack is the name of the stack that is this machine's own /usr, /bin, /sbin, /lib* and /etc.
const HostStack = "host"

// Nobody is the user of this machine whom programs are where this one is root and Config.User is 0.
const Nobody = 65534

// Config configures [New].
type Config struct {
	// Dir is where the containers are; required, and for one program at a time. It is
	// made if need be, and must allow executing.
	Dir string
	// Stacks are the root filesystems that are offered, the first for works that name none. Nil: HostStack.
	Stacks []Stack
	// Images gives the root filesystems of images, such as those of droplet/oci; nil: none are run. All files of an image belong to the
	// user whom its programs are, be it root; there is no other inside. Where this program is root they have to be Config.User's
	// (oci.RootsConfig.Owner), and images whose user is root are refused, unless there is FirstUser. It needs Namespaces, and
	// overlays (Linux 5.11) over Dir.
	Images cell.ImageRoots
	// FirstUser, if it is not 0, such as cell.FirstUser, gives images users of their own, as containerd.Config's does, and needs what that
	// needs. It takes root (MayGiveUsers).
	FirstUser int
	// Share names files and folders of this machine that every container sees, read-only, at their own
	// place: a toolchain in /opt, for instance.
	Share []string
	// AtLeast is the least level of isolation; where it cannot be had New says why. "": Landlock. The
	// strongest that works is taken; Capacity says which.
	AtLeast string
	// Network is OwnNetwork or HostNetwork. "": its own where that works, which takes Namespaces and that /dev/net/tun is open to
	// this user, as it is on most machines; else the host's, and the Logger says why.
	Network string
	// Egress says what containers may reach; the first rule that fits decides, and what fits none is refused. Nil: everything. It
	// needs OwnNetwork. In any case refused are other instances, link-local addresses, and this machine itself but for
	// what a rule allows that names one address (a /32). Names are resolved in any case.
	Egress []cell.EgressRule
	// User is the user and group of this machine to whom what runs in containers belongs, if this program runs
	// as root; 0: Nobody. It should have nothing else. In any other case it is who runs this program.
	User int
	// Program is what offers the roles; nil: it is prepared in Dir from Source.
	Program *lifecycle.Program
	// Source is the executable to prepare; "": that of this process (see lifecycle.Config).
	Source string
	// Env stands before the environment of each process, "K=V". Nil: PATH with the usual
	// folders. HOME, USER and TMPDIR come before it. In an image there is nothing but PATH with the usual folders.
	Env []string
	// Host is the address at which ports of HostNetwork are reached; "": "127.0.0.1".
	Host string
	// Memory and Disk in bytes, and Containers, are what is offered; 0: what the machine
	// has, and 250 containers.
	Memory, Disk int64
	Containers   int
	// KeepLayers and KeepBytes bound the unpacked layers, as in process.Config.
	KeepLayers int
	KeepBytes  int64
	// Logger gets what fails in the background; nil discards.
	Logger *slog.Logger
}

// Stack is a root filesystem, which containers see read-only.
type Stack struct {
	Name string
	// Dir holds it (which needs Namespaces), "" if it is this machine's own. Of its /home, /tmp, /proc, /dev, /sys, /run and /var/tmp
	// nothing is seen.
	Dir string
	// Image, instead of Dir, is an image whose root filesystem it is, as Config.Images names it: its name in a registry, and with droplet/oci also
	// oci:DIR or docker-archive:FILE. What its tag stands for is found out by New; what runs keeps
	// the root that it has begun with.
	Image string
}

// Visible tells which of the given folders of this machine containers of HostStack see, and which they do not, each in
// the given order and once. What is not absolute is not seen.
func Visible(dirs, share []string) (seen, hidden []string) {
	for i, d := range dirs {
		if slices.Contains(dirs[:i], d) {
			continue
		}
		in := func(top string) bool {
			rel, err := filepath.Rel(top, d)
			return err == nil && filepath.IsLocal(rel)
		}
		host := func(top string) bool { return in("/" + top) }
		if filepath.IsAbs(d) && (slices.ContainsFunc(stack.HostTops, host) || slices.ContainsFunc(share, in)) {
			seen = append(seen, d)
		} else if strings.TrimSpace(d) != "" {
			hidden = append(hidden, d)
		}
	}
	return seen, hidden
}
