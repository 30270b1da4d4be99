package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/internal/uplink"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Runtime makes containers that are folders with isolated processes. See cell.Runtime for the
// contract of its methods. A container's Note is durable when the program ends in
// whatever way; a power cut may take the container with it.
type Runtime struct {
	*folder.Runtime
	k *kind
}

var _ cell.Runtime = (*Runtime)(nil)

// New opens the folder, finds the containers that are there, and runs a program in each stack. If that
// does not succeed, the error says why and what helps; it wraps [errors.ErrUnsupported] if this machine gives no
// isolation, or less than Config.AtLeast. If another program has the folder open,
// it says so.
func New(ctx context.Context, c Config) (*Runtime, error) {
	r, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("sandbox.New: %w", err)
	}
	return r, nil
}

func open(ctx context.Context, c Config) (*Runtime, error) {
	if c.AtLeast != "" && c.AtLeast != Namespaces && c.AtLeast != Landlock {
		return nil, fmt.Errorf("Config.AtLeast is %q: use %q or %q", c.AtLeast, Landlock, Namespaces)
	}
	if c.Dir == "" {
		return nil, errors.New("Config.Dir is empty: name a folder for the containers")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	k, err := newKind(ctx, dir, c)
	if err != nil {
		return nil, err
	}
	var without error
	if k.Groups, without = folder.OpenGroups(dir); without != nil {
		k.lack("memory and processor time are not limited", without, "run this as root, or by systemd-run --user --scope -p Delegate=yes")
	}
	f, err := folder.New(ctx, folder.Config{Kind: k, Images: c.Images, Dir: dir, Program: c.Program, Source: c.Source, Env: c.Env, Host: c.Host,
		Memory: c.Memory, Disk: c.Disk, Containers: c.Containers, KeepLayers: c.KeepLayers, KeepBytes: c.KeepBytes, Logger: c.Logger})
	if err != nil {
		k.Offer.Close()
		return nil, err
	}
	r := &Runtime{f, k}
	k.network.prog, k.network.places = f.Program(), f.Places
	if err = k.prepare(ctx, f.Program()); err == nil {
		err = k.level(ctx, f, c)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	for _, l := range k.lacks {
		c.Logger.Info(l)
	}
	k.network.reattach(ctx) // what an earlier program has left
	return r, nil
}

// Lacks tells what this machine does not give, each with the reason and the cure; New has also told the Logger.
func (r *Runtime) Lacks() []string { return slices.Clone(r.k.lacks) }

// lack notes one.
func (k *kind) lack(what string, err error, cure string) {
	k.lacks = append(k.lacks, fmt.Sprintf("%s: %v; %s", what, err, cure))
}

// Close ends the Runtime and leaves the containers as they are; processes go on. Another program may then open the
// folder.
func (r *Runtime) Close() error {
	err := r.Runtime.Close()
	r.k.network.end()
	r.k.Offer.Close()
	return err
}

// kind is the folder.Kind of isolated processes.
type kind struct {
	*folder.Groups // nil: there are none
	stack.Offer
	dir     string
	user    int         // of this machine; 0: who runs this program
	users   *jail.Users // of images; nil: the one
	network *network
	// overlays tells that layers and images are shown by them; else layers are copied. Set before the kind is used.
	overlays bool
	lacks    []string

	resolver string       // /etc/resolv.conf of networks of their own
	carried  []jail.Bind  // what the lifecycle program needs in other stacks than this machine's
	landlock bool         // it is all that there is; set before the kind is used
	locks    folder.Locks // of containers whose keeper is started
}

var (
	_ folder.Kind    = (*kind)(nil)
	_ folder.Engine  = (*kind)(nil)
	_ folder.Limiter = (*kind)(nil)
)

func newKind(ctx context.Context, dir string, c Config) (*kind, error) {
	k := &kind{dir: dir}
	switch {
	case os.Geteuid() != 0:
	case c.User != 0 && !jail.Mapped(c.User):
		return nil, fmt.Errorf("Config.User is %d, and there is no such user in the container in which this program runs: name another", c.User)
	case c.User != 0:
		k.user = c.User
	case jail.Mapped(Nobody):
		k.user = Nobody
	} // else root is in a container of its own, and as good as any user
	var err error
	if k.users, err = jail.UsersFrom(c.FirstUser); err != nil {
		return nil, fmt.Errorf("Config.%w", err)
	}
	if k.users != nil && !MayGiveUsers(k.users.First) {
		return nil, fmt.Errorf("Config.FirstUser is %d: to give images users takes root of this machine, with all its users: leave it 0", c.FirstUser)
	}
	if k.network, err = newNetwork(dir, k.user, c); err != nil {
		return nil, err
	}
	k.Offer, err = stack.NewOffer(ctx, c.Stacks, HostStack, c.Share, c.Images)
	return k, err
}

// MayGiveUsers tells whether this program can give images users of their own, the first being that one of this machine (Config.FirstUser):
// whether it is root, and not of a container that has fewer.
func MayGiveUsers(first int) bool {
	users, err := jail.UsersFrom(first)
	return err == nil && users != nil && os.Geteuid() == 0 && jail.Mapped(Nobody) && jail.MappedAll(users.First, users.Count)
}

// The folders below Config.Dir, beside those of package folder.
const (
	mountDir = "mount" // empty: where roots are built, each unseen by the others
	etcDir   = "etc"   // resolv.conf, <stack>/{passwd, group}
)

// prepare makes what all containers use.
func (k *kind) prepare(ctx context.Context, prog *lifecycle.Program) (err error) {
	if k.carried, err = k.Carried(ctx, prog.Path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(k.dir, mountDir), 0o755); err != nil {
		return err
	}
	if err := k.AccountFiles(filepath.Join(k.dir, etcDir)); err != nil {
		return err
	}
	machine, _ := os.ReadFile("/etc/resolv.conf") // one that is not there has no domains
	k.resolver = uplink.ResolverFile(string(machine))
	return os.WriteFile(filepath.Join(k.dir, etcDir, resolverFile), []byte(k.resolver), 0o644)
}

// Describe implements folder.Kind.
func (k *kind) Describe(r *cell.Resources) {
	if r.Isolation = Namespaces; k.landlock {
		r.Isolation = Landlock
	} else if jail.CountsProcesses() && (k.users == nil || !k.Images || k.Groups != nil) { // else each of an image's users counts for itself
		r.Enforced = append(r.Enforced, "pids")
	}
	r.Networks, r.Images = k.network.own, k.Images
	k.Groups.Describe(r)
	r.Stacks = append(r.Stacks, k.Names()...)
}

// Owner implements folder.Kind.
func (k *kind) Owner(of *folder.Image) (int, bool) {
	if of != nil && k.users != nil {
		return k.users.First + of.UID, true
	}
	return k.user, k.user != 0
}

// Path implements folder.Kind. With a root of their own, paths are what they are.
func (k *kind) Path(root, p string) string {
	if p = path.Clean("/" + p); k.landlock {
		return filepath.Join(root, p)
	}
	return p
}

// Writable implements folder.Kind.
func (k *kind) Writable(spec cell.Spec, p string) error {
	if k.landlock { // all that they may write to is theirs
		_, err := k.Find(spec.Stack)
		return err
	}
	return k.Offer.Writable(spec, p)
}

// jailFile, in the folder of a process's init, says what the process sees.
const jailFile = "jail.json"

// Start implements folder.Kind.
func (k *kind) Start(ctx context.Context, prog *lifecycle.Program, c folder.Place, s folder.Start) (<-chan struct{}, error) {
	// Not the folders above: they may have been removed.
	if err := os.Mkdir(s.State, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if err := k.Note(c, s); err != nil {
		return nil, err
	}
	file := filepath.Join(s.State, jailFile)
	args := append(s.Flags(s.State), "-jail", file, "--", k.program(s))
	args = append(args, s.Process.Args...)
	env := slices.Concat(s.Env, s.Process.Env)
	if c.Image == nil {
		env = append([]string{"HOME=" + k.Path(s.Root, "/home/vcap"), "USER=vcap", "TMPDIR=" + k.Path(s.Root, "/tmp")}, env...)
	}
	if k.landlock {
		return k.startPlain(prog, c, s, file, args, env)
	}
	keeper, err := k.keeper(ctx, prog, c)
	if err != nil {
		return nil, err
	}
	j, err := k.jail(prog, c, s)
	if err != nil {
		return nil, err
	}
	if j.PIDs > 0 && k.user == 0 { // all of the container are one user
		j.Others = others(keeper, c)
	}
	if err := writeSpec(file, j); err != nil {
		return nil, err
	}
	if err := keeper.Start(ctx, filepath.Base(s.State), prog.Path, append([]string{"init"}, args...), env, s.Line); err != nil {
		return nil, err
	}
	return lifecycle.InitEnded(s.State), nil
}

// startPlain starts an init that is in no namespaces.
func (k *kind) startPlain(prog *lifecycle.Program, c folder.Place, s folder.Start, file string, args, env []string) (<-chan struct{}, error) {
	if err := writeSpec(file, k.rules(prog, s)); err != nil {
		return nil, err
	}
	attr := &syscall.SysProcAttr{}
	flags, err := k.Enter(c, 1, attr)
	if err != nil {
		return nil, err
	}
	// The command is not a context's: the process outlives it.
	cmd := prog.Command(context.Background(), "init", append(flags, args...)...)
	cmd.Env, cmd.SysProcAttr = []string{}, attr
	if err := lifecycle.WriteEnvironment(s.State, env); err != nil {
		return nil, err
	}
	return folder.Child(prog, cmd, s.Line)
}

func writeSpec(file string, j jail.Spec) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// roles is how many there are in a container beside its programs: its keeper, and inits of a process and a sidecar or two.
const roles = 4

// keeper returns that of a container, and starts it if none runs.
func (k *kind) keeper(ctx context.Context, prog *lifecycle.Program, c folder.Place) (lifecycle.Keeper, error) {
	defer k.locks.Lock(c.Key)()
	if keeper, alive := lifecycle.FindKeeper(c.States); alive {
		return keeper, nil
	}
	addr := k.network.address(c)
	mounts, err := k.mounts(c)
	if err != nil {
		return lifecycle.Keeper{}, err
	}
	n := jail.Namespaces{Outside: k.user, UID: jail.Inside, GID: jail.Inside, Network: addr.IsValid(), Mounts: mounts != ""}
	if c.Image != nil {
		n.UID, n.GID, n.Users = c.Image.UID, c.Image.GID, k.users
	}
	attr := n.Attr()
	flags, err := k.Enter(c, roles, attr)
	if err != nil {
		return lifecycle.Keeper{}, err
	}
	if mounts != "" {
		flags = append(flags, "-mounts", mounts)
	}
	if addr.IsValid() {
		flags = append(flags, "-network", addr.String())
	}
	keeper, _, err := prog.StartKeeper(c.States, attr, flags...)
	if err == nil && addr.IsValid() {
		if err = k.network.attach(ctx, c, keeper); err != nil {
			err = errors.Join(err, keeper.Kill(context.WithoutCancel(ctx)))
		}
	}
	return keeper, err
}

// mountsFile, in a container's folder, lists what its keeper mounts.
const mountsFile = "mounts.json"

// mounts writes down what the keeper of a container is to mount; "": nothing.
func (k *kind) mounts(c folder.Place) (file string, err error) {
	root := k.user
	if k.users != nil {
		root = k.users.First
	}
	all, err := folder.Overlays(c, k.user, root)
	if err != nil || len(all) == 0 {
		return "", err
	}
	for i := range all {
		if all[i].Owner == k.user && k.user != 0 {
			all[i].Owner = jail.Inside // as the keeper calls it
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return "", err
	}
	file = filepath.Join(c.Dir, mountsFile)
	return file, os.WriteFile(file, b, 0o600)
}

// View implements folder.Engine. What the keeper has mounted is seen by way of it.
func (k *kind) View(ctx context.Context, c folder.Place) (string, error) {
	dir := c.Root
	switch {
	case c.Image != nil:
		dir = folder.ImageRoot(c)
	case len(c.Layers) == 0:
		return dir, nil
	}
	keeper, err := k.keeper(ctx, k.network.prog, c)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/root%s", keeper.PID, dir), nil
}

// others counts the threads of a container that are no program's, and some that may come.
func others(keeper lifecycle.Keeper, c folder.Place) uint64 {
	const spare = 4
	n := jail.Threads(keeper.PID) + spare
	all, _ := os.ReadDir(c.States) // if it has gone nothing will run
	for _, e := range all {
		if s, err := lifecycle.InitState(filepath.Join(c.States, e.Name())); err == nil && s.Alive && s.PID != keeper.PID {
			n += jail.Threads(s.PID) + spare
		}
	}
	return n
}

// Open implements folder.Engine.
func (k *kind) Open(_ context.Context, c folder.Place) error {
	if c.Image != nil && k.users != nil {
		if err := folder.HasUser(c, k.users); err != nil {
			return fmt.Errorf("image %s: %w", c.Spec.Image, err)
		}
	} else if c.Image != nil && k.user != 0 && c.Image.UID == 0 {
		return fmt.Errorf("image %s: its user is root: %w where the program of the cell is root: run that as an ordinary user, give another user, or set Config.FirstUser", c.Spec.Image, errors.ErrUnsupported)
	}
	return k.network.open(c)
}

// Overlays implements folder.Engine.
func (k *kind) Overlays() bool { return k.overlays }

// Networks implements folder.Engine.
func (k *kind) Networks() bool { return k.network.own }

// Addresses implements folder.Engine.
func (k *kind) Addresses(c folder.Place) []cell.Address { return k.network.addresses(c) }

// Unmount implements folder.Engine: mounts are in namespaces, and go with them.
func (k *kind) Unmount(string) error { return nil }

// End implements folder.Engine. The keeper has been ended.
func (k *kind) End(ctx context.Context, c folder.Place) error {
	k.locks.Forget(c.Key)
	return k.network.close(ctx, c)
}

// program is what a program is called: where containers have no root of their own, it may stand in a folder of it.
func (k *kind) program(s folder.Start) string {
	name := s.Process.Path
	if !k.landlock || !path.IsAbs(name) {
		return name
	}
	if st, err := os.Stat(k.Path(s.Root, name)); err == nil && !st.IsDir() {
		return k.Path(s.Root, name)
	}
	return name
}

// rules is what a process may do by Landlock alone.
func (k *kind) rules(prog *lifecycle.Program, s folder.Start) jail.Spec {
	j := jail.Spec{Dir: k.Path(s.Root, s.Dir), Roles: prog.Path, User: k.user, Rules: &jail.Rules{
		Read:  append([]string{prog.Path, "/proc"}, k.Share...),
		Write: []string{s.Root, "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"},
	}}
	for _, name := range stack.HostTops {
		if name == "etc" && os.Geteuid() == 0 {
			j.Rules.Read = append(j.Rules.Read, public("/etc")...)
			continue
		}
		j.Rules.Read = append(j.Rules.Read, "/"+name)
	}
	return j
}

// public lists what is in a folder that everybody may read.
func public(dir string) (all []string) {
	entries, _ := os.ReadDir(dir) // of one that cannot be read nothing is shown
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().Perm()&0o004 != 0 {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	return all
}

// jail is what a process shall see.
func (k *kind) jail(prog *lifecycle.Program, c folder.Place, s folder.Start) (jail.Spec, error) {
	if c.Image != nil {
		return k.jailImage(prog, c, s), nil
	}
	st, err := k.Find(s.Spec.Stack)
	if err != nil {
		return jail.Spec{}, err
	}
	j := jail.Spec{Mount: filepath.Join(k.dir, mountDir), Hostname: "dewpoint", Dir: s.Dir, Roles: stack.ProgramPath, Links: st.Links, Files: st.Files}
	own := k.network.address(c).IsValid()
	if own { // where the resolver is a link, it leads to this
		j.Files = map[string]string{}
		for name := range st.Files {
			j.Files[name] = k.resolver
		}
	}
	if k.user != 0 {
		j.User, j.Group = jail.Inside, jail.Inside
	}
	if s.Spec.PIDs > 0 && jail.CountsProcesses() {
		j.PIDs = uint64(s.Spec.PIDs)
	}
	j.Binds = slices.Clone(st.Binds)
	all, err := os.ReadDir(s.Root)
	if err != nil {
		return jail.Spec{}, err
	}
	for _, e := range all {
		// Nothing inside can make an entry here, but an archive may have: a link would lead out.
		if e.IsDir() {
			j.Binds = append(j.Binds, jail.Bind{From: filepath.Join(s.Root, e.Name()), To: "/" + e.Name(), Write: true})
		}
	}
	for _, name := range []string{"passwd", "group"} {
		j.Binds = append(j.Binds, jail.Bind{From: filepath.Join(k.dir, etcDir, st.Name, name), To: "/etc/" + name, Optional: true})
	}
	if info, err := os.Lstat(filepath.Join(st.Dir, "etc", resolverFile)); own && (err != nil || info.Mode().IsRegular()) {
		j.Binds = append(j.Binds, jail.Bind{From: filepath.Join(k.dir, etcDir, resolverFile), To: "/etc/" + resolverFile, Optional: true})
	}
	j.Binds = append(j.Binds, jail.Bind{From: prog.Path, To: stack.ProgramPath})
	if st.Dir != "/" && len(k.carried) > 0 {
		j.Binds, j.Loader = append(j.Binds, k.carried...), stack.LoaderPath
	}
	for _, p := range k.Share {
		j.Binds = append(j.Binds, jail.Bind{From: p, To: p})
	}
	return j, nil
}

// jailImage is what a process sees whose root is that of an image.
func (k *kind) jailImage(prog *lifecycle.Program, c folder.Place, s folder.Start) jail.Spec {
	j := jail.Spec{Mount: filepath.Join(k.dir, mountDir), Image: folder.ImageRoot(c), Hostname: "dewpoint", Dir: s.Dir, Roles: stack.ProgramPath}
	if k.user != 0 {
		j.User, j.Group, j.Users = c.Image.UID, c.Image.GID, k.users
	}
	if s.Spec.PIDs > 0 && jail.CountsProcesses() {
		j.PIDs = uint64(s.Spec.PIDs)
	}
	resolver := "/etc/" + resolverFile
	if k.network.address(c).IsValid() {
		resolver = filepath.Join(k.dir, etcDir, resolverFile)
	}
	j.Binds = k.ImageBinds(prog.Path, resolver, k.carried)
	if len(k.carried) > 0 {
		j.Loader = stack.LoaderPath
	}
	return j
}
