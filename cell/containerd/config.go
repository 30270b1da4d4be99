package containerd

import (
	"log/slog"
	"net/netip"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Isolation is the level of this cell, as cell.Resources names it.
const Isolation = "containerd"

// HostStack is the name of the stack that is this machine's own /usr, /bin, /sbin, /lib* and /etc.
const HostStack = "host"

// Config configures [New].
type Config struct {
	// Dir is where the containers are; required, and for one program at a time. It is made if need be, must
	// allow executing, and be on a file system over which overlays can be mounted.
	Dir string
	// Socket is the absolute path of the socket of a containerd of this machine, 1.6 or later, which runs where this program runs: with the
	// same processes and mounts. "": the Runtime starts one for itself, which ends with Close.
	Socket string
	// Server is the program that is started if Socket is "". "": "containerd", looked up on PATH, where
	// containerd-shim-runc-v2 and runc must be, too.
	Server string
	// Namespace is containerd's for these containers. "": "dewpoint". Several Runtimes may have one together.
	Namespace string
	// Stacks are the root filesystems that are offered, the first for works that name none. Nil: HostStack.
	Stacks []Stack
	// Images gives the root filesystems of images, such as those of droplet/oci; nil: none are run. Their files have the owners that the
	// image names (oci.RootsConfig.KeepOwners), and programs its user, who must not be root unless there is FirstUser.
	Images cell.ImageRoots
	// FirstUser, if it is not 0, such as cell.FirstUser, gives images users of their own: 0 to 65,535 of an image, and groups, are FirstUser and following of this machine,
	// which nobody else should have there. Its root is nobody in particular outside then, and may do among
	// the others what the start-up of most images does: give files away, and become another. Images must be unpacked for it
	// (oci.RootsConfig.FirstUser). 0: they are those of the same number of this machine. Set it, or take it away, only while
	// there are no containers in Dir.
	FirstUser int
	// Share names files and folders of this machine that every container sees, read-only, at their own
	// place: a toolchain in /opt, for instance.
	Share []string
	// Program is what offers the roles; nil: it is prepared in Dir from Source.
	Program *lifecycle.Program
	// Source is the executable to prepare; "": that of this process (see lifecycle.Config).
	Source string
	// Env stands before the environment of each process, "K=V". Nil: PATH with the usual
	// folders. HOME, USER and TMPDIR come before it. In an image there is nothing but PATH with the usual folders.
	Env []string
	// HostNetwork gives containers this machine's network, with a port of it for each of theirs, which is reached at
	// Host ("": "127.0.0.1"). Else each has a network of its own, with an address of Subnet, that no other instance reaches.
	HostNetwork bool
	Host        string
	// Subnet is where addresses are taken from, by any number of cells of a machine. Zero: 10.254.0.0/16.
	Subnet netip.Prefix
	// Egress says what containers may reach; the first rule that fits decides, and what fits none is refused. Nil: everything.
	// In any case refused are other instances, link-local addresses, and this machine itself but for what a rule
	// allows that names one address (a /32). Names are resolved in any case.
	Egress []cell.EgressRule
	// CNI is the file of a list of plugins of the Container Network Interface (a .conflist), which make the networks of containers instead; then
	// Subnet is not used, what containers may reach is for the plugins to say, and Egress must be nil. CNIPath are the folders of
	// the plugins. Nil: those of the environment variable CNI_PATH, or else /opt/cni/bin, /usr/lib/cni and /usr/libexec/cni. What a
	// container has is noted in Dir, and taken away with it, also after this program was killed. Set it, or take it away, only
	// while there are no containers in Dir.
	CNI     string
	CNIPath []string
	// DNS is who resolves names. Nil: who does for this machine, as far as that can be reached from a container.
	DNS []netip.Addr
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
	// Dir holds it, "" if it is this machine's own. Of its /home, /tmp, /proc, /dev, /sys, /run and /var nothing
	// is seen.
	Dir string
	// Image, instead of Dir, is an image whose root filesystem it is, as Config.Images names it: its name in a registry, and with droplet/oci also
	// oci:DIR or docker-archive:FILE. What its tag stands for is found out by New; what runs keeps
	// the root that it has begun with.
	Image string
}
