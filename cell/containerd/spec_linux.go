package containerd

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
	"github.com/dewpoint-go/dewpoint/internal/cgroup"
	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Where things of ours are in a container.
const (
	keeperPath = "/run/dewpoint/keeper" // a link
	statesPath = "/run/dewpoint/states" // closed to programs
)

// baseDir, in a container's folder, is where its root is put together: nothing but places to mount on, and links.
const baseDir = "base"

// powers are what keeper and inits have; programs have none.
var powers = []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"}

// makeRoots are what inits need besides for images: to go to the image's root with mounts of their own, to make its users, and places
// for what is mounted in folders that are theirs.
var makeRoots = []string{"CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"}

// What keeper and inits take is not the program's: so much is added to its limits.
const (
	ownMemory = 24 << 20
	ownTasks  = 48
)

// spec is what the keeper of a container sees, and with it all processes there.
func (k *kind) spec(c folder.Place) (*oci.Spec, error) {
	st, err := k.stack(c)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(c.Dir, baseDir)
	if err := k.makeBase(base, st); err != nil {
		return nil, err
	}
	mounts, err := k.mounts(c, st)
	if err != nil {
		return nil, err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, err
	}
	role, args := k.role(st, "keeper", statesPath)
	// runc runs what the first argument names, and that tells the role, too.
	if args[0] = role; role == stack.ProgramPath {
		args[0] = keeperPath
	}
	caps := powers
	if c.Image != nil {
		caps = append(slices.Clone(powers), makeRoots...)
	}
	s := &oci.Spec{
		Version:  specs.Version,
		Hostname: "dewpoint",
		Root:     &specs.Root{Path: base, Readonly: true},
		Mounts:   mounts,
		Process: &specs.Process{
			Cwd: "/", Args: args, Env: []string{},
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges: true,
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Hard: files.Max, Soft: min(files.Max, 16384)}, // Cloud Foundry's default
				{Type: "RLIMIT_CORE"},
			},
		},
		Linux: &specs.Linux{
			CgroupsPath:   "/" + groupsDir + "/" + k.name + "/" + c.Key,
			MaskedPaths:   masked,
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}},
			Resources: resources(c),
		},
	}
	if cgroup.Unified() {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if k.network != nil {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: filepath.Join(c.Dir, netnsFile)})
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"} // as in Docker and Kubernetes
	}
	s.Linux.Seccomp = seccomp.DefaultProfile(s)
	if c.Image != nil { // what that profile refuses to all, and ours to programs but for chroot to a root among its own users
		s.Linux.Seccomp.Syscalls = append(s.Linux.Seccomp.Syscalls, specs.LinuxSyscall{Names: []string{"chroot", "pivot_root"}, Action: specs.ActAllow})
	}
	return s, nil
}

// stack is that of a container; for an image, one of which nothing is to be mounted.
func (k *kind) stack(c folder.Place) (stack.Stack, error) {
	if c.Image != nil {
		return stack.Stack{Dir: c.Image.Dir}, nil
	}
	return k.Find(c.Spec.Stack)
}

// Where, in the container, the root of an image is, and where it is mounted for those of its processes.
const (
	imagePath = "/image"
	mountPath = "/mnt"
)

// jailImage is what a process of an image sees. Keeper and inits stay in a root of ours, where nobody inside can put anything, and in which
// nothing of the image is: not its programs, nor what a loader heeds, such as /etc/ld.so.preload.
func (k *kind) jailImage(c folder.Place, dir string) jail.Spec {
	j := jail.Spec{Mounted: true, Image: imagePath, Mount: mountPath, Dir: dir, Roles: stack.ProgramPath, User: c.Image.UID, Group: c.Image.GID, Users: k.users}
	for _, b := range k.imageBinds() {
		b.From = b.To // as it is mounted there
		j.Binds = append(j.Binds, b)
	}
	return j
}

// imageBinds is what an image has of this machine.
func (k *kind) imageBinds() []jail.Bind {
	resolver := "/etc/" + resolverFile
	if k.network != nil {
		resolver = filepath.Join(k.dir, etcDir, resolverFile)
	}
	return k.ImageBinds(k.prog.Path, resolver, k.carried)
}

var masked = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/key-users",
	"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
	"/sys/devices/virtual/powercap"}

func ptr[T any](v T) *T { return &v }

// resources are the limits.
func resources(c folder.Place) *specs.LinuxResources {
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // runc adds those that everybody needs
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024))},
	}
	if c.Spec.CPU > 0 {
		r.CPU.Shares = ptr(uint64(max(2, 1024*c.Spec.CPU/100)))
	}
	if c.Spec.Memory > 0 {
		n := c.Spec.Memory + ownMemory
		r.Memory = &specs.LinuxMemory{Limit: &n}
		if countsSwap() {
			r.Memory.Swap = &n // of both together: there is none
		}
	}
	if c.Spec.PIDs > 0 {
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(c.Spec.PIDs + ownTasks))}
	}
	return r
}

// role is how a role is run in a container.
func (k *kind) role(st stack.Stack, role string, args ...string) (path string, argv []string) {
	if st.Dir != "/" && len(k.carried) > 0 {
		return stack.LoaderPath, append(jail.ByLoader(stack.LoaderPath, role, stack.ProgramPath), args...)
	}
	return stack.ProgramPath, append([]string{role}, args...)
}

// makeBase makes the places of a root. What is mounted there is there only for the container.
func (k *kind) makeBase(base string, st stack.Stack) error {
	for _, d := range []string{"proc", "dev", "sys", "run/dewpoint", "var", "home", "tmp", mountPath[1:]} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{}
	maps.Copy(files, st.Files)
	if k.network != nil { // where the resolver is a link, it leads to this
		for name := range files {
			files[name] = k.network.resolver()
		}
	}
	for name, text := range files {
		name = filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	links := map[string]string{keeperPath: lifecycle.ProgramName}
	maps.Copy(links, st.Links)
	for name, target := range links {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(base, name)), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, filepath.Join(base, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// mounts is what is mounted over the base, in order.
func (k *kind) mounts(c folder.Place, st stack.Stack) ([]specs.Mount, error) {
	cgroup := specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}}
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		cgroup, // programs size their heaps by it
	}
	bind := func(b jail.Bind) {
		if b.Optional {
			if _, err := os.Stat(b.From); err != nil || !st.Room(b.To) {
				return
			}
		}
		m := specs.Mount{Destination: b.To, Type: "bind", Source: b.From, Options: []string{"rbind", "nosuid", "nodev"}}
		if !b.Write {
			m.Options = append(m.Options, "ro", "rro")
		}
		all = append(all, m)
	}
	for _, b := range st.Binds {
		bind(b)
	}
	if c.Image != nil {
		for _, b := range k.imageBinds() {
			bind(b)
		}
		bind(jail.Bind{From: folder.ImageRoot(c), To: imagePath, Write: true})
		bind(jail.Bind{From: c.States, To: statesPath, Write: true})
		return all, nil
	}
	own, err := os.ReadDir(c.Root)
	if err != nil {
		return nil, err
	}
	for _, e := range own {
		// Nothing inside can make an entry here, but an archive may have: a link would lead out.
		if e.IsDir() {
			bind(jail.Bind{From: filepath.Join(c.Root, e.Name()), To: "/" + e.Name(), Write: true})
		}
	}
	for _, name := range []string{"passwd", "group"} {
		bind(jail.Bind{From: filepath.Join(k.dir, etcDir, st.Name, name), To: "/etc/" + name, Optional: true})
	}
	if info, err := os.Lstat(filepath.Join(st.Dir, "etc", resolverFile)); k.network != nil && (err != nil || info.Mode().IsRegular()) {
		bind(jail.Bind{From: filepath.Join(k.dir, etcDir, resolverFile), To: "/etc/" + resolverFile, Optional: true})
	}
	bind(jail.Bind{From: k.prog.Path, To: stack.ProgramPath})
	if st.Dir != "/" {
		for _, b := range k.carried {
			bind(b)
		}
	}
	bind(jail.Bind{From: c.States, To: statesPath, Write: true})
	for _, p := range k.Share {
		bind(jail.Bind{From: p, To: p})
	}
	return all, nil
}

// writable are the folders in which programs may write.
func writable(root string) (all []jail.Bind) {
	own, _ := os.ReadDir(root) // it is ours
	for _, e := range own {
		if e.IsDir() {
			all = append(all, jail.Bind{To: "/" + e.Name(), Write: true})
		}
	}
	return slices.Clip(all)
}
