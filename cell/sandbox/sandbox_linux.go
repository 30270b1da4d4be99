package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Runtime makes containers that are folders with isolated processes. See cell.Runtime for the
// contract of its methods. A container's Note is durable when the program ends in
// whatever way; a power cut may take the container with it.
type Runtime struct{ *folder.Runtime }

var _ cell.Runtime = (*Runtime)(nil)

// nobody is the user of programs where this one is root.
const nobody = 65534

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
	k, err := newKind(dir, c)
	if err != nil {
		return nil, err
	}
	var without error
	if k.Groups, without = folder.OpenGroups(dir); without != nil && c.Logger != nil {
		c.Logger.Info("memory and processor time are not limited", "reason", without)
	}
	f, err := folder.New(ctx, folder.Config{Kind: k, Dir: dir, Program: c.Program, Source: c.Source, Env: c.Env, Host: c.Host,
		Memory: c.Memory, Disk: c.Disk, Containers: c.Containers, KeepLayers: c.KeepLayers, KeepBytes: c.KeepBytes, Logger: c.Logger})
	if err != nil {
		return nil, err
	}
	if err := k.prepare(ctx, f.Program()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := k.level(f, c.AtLeast); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Runtime{f}, nil
}

// kind is the folder.Kind of isolated processes.
type kind struct {
	*folder.Groups // nil: there are none
	stack.Offer
	dir  string
	user int // of this machine; 0: who runs this program

	carried  []jail.Bind // what the lifecycle program needs in other stacks than this machine's
	landlock bool        // it is all that there is; set before the kind is used
}

var (
	_ folder.Kind    = (*kind)(nil)
	_ folder.Limiter = (*kind)(nil)
)

func newKind(dir string, c Config) (*kind, error) {
	k := &kind{dir: dir}
	switch {
	case os.Geteuid() != 0:
	case c.User != 0 && !jail.Mapped(c.User):
		return nil, fmt.Errorf("Config.User is %d, and there is no such user in the container in which this program runs: name another", c.User)
	case c.User != 0:
		k.user = c.User
	case jail.Mapped(nobody):
		k.user = nobody
	} // else root is in a container of its own, and as good as any user
	var err error
	k.Offer, err = stack.NewOffer(c.Stacks, HostStack, c.Share)
	return k, err
}

// The folders below Config.Dir, beside those of package folder.
const (
	mountDir = "mount" // empty: where roots are built, each unseen by the others
	etcDir   = "etc"   // <stack>/{passwd, group}
)

// prepare makes what all containers use.
func (k *kind) prepare(ctx context.Context, prog *lifecycle.Program) (err error) {
	if k.carried, err = k.Carried(ctx, prog.Path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(k.dir, mountDir), 0o755); err != nil {
		return err
	}
	return k.AccountFiles(filepath.Join(k.dir, etcDir))
}

// Describe implements folder.Kind.
func (k *kind) Describe(r *cell.Resources) {
	if r.Isolation = Namespaces; k.landlock {
		r.Isolation = Landlock
	} else if jail.CountsProcesses() {
		r.Enforced = append(r.Enforced, "pids")
	}
	k.Groups.Describe(r)
	r.Stacks = append(r.Stacks, k.Names()...)
}

// Owner implements folder.Kind.
func (k *kind) Owner() (int, bool) { return k.user, k.user != 0 }

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

// programPath is where the lifecycle program is.
const programPath = "/run/dewpoint/" + lifecycle.ProgramName

// Command implements folder.Kind.
func (k *kind) Command(prog *lifecycle.Program, s folder.Start) (*exec.Cmd, error) {
	j, err := k.jail(prog, s)
	if err != nil {
		return nil, err
	}
	if k.landlock {
		j = k.rules(prog, s)
	}
	spec, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.State, jailFile)
	// Not the folders above: they may have been removed.
	if err := os.Mkdir(s.State, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if err := os.WriteFile(file, spec, 0o600); err != nil {
		return nil, err
	}
	attr := jail.Attr(k.user)
	if k.landlock {
		attr = &syscall.SysProcAttr{}
	}
	args, err := k.Enter(s, attr)
	if err != nil {
		return nil, err
	}
	args = append(args, "-state", s.State, "-jail", file)
	if s.NoFile > 0 {
		args = append(args, "-nofile", strconv.FormatUint(s.NoFile, 10))
	}
	args = append(args, "--", k.program(s))
	args = append(args, s.Process.Args...)
	// The command is not a context's: the process outlives it.
	cmd := prog.Command(context.Background(), "init", args...)
	cmd.Env = slices.Concat([]string{"HOME=" + k.Path(s.Root, "/home/vcap"), "USER=vcap", "TMPDIR=" + k.Path(s.Root, "/tmp")}, s.Env, s.Process.Env)
	cmd.SysProcAttr = attr
	return cmd, nil
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
func (k *kind) jail(prog *lifecycle.Program, s folder.Start) (jail.Spec, error) {
	st, err := k.Find(s.Spec.Stack)
	if err != nil {
		return jail.Spec{}, err
	}
	j := jail.Spec{Mount: filepath.Join(k.dir, mountDir), Hostname: "dewpoint", Dir: s.Dir, Roles: programPath, Links: st.Links, Files: st.Files}
	if k.user != 0 {
		j.User = jail.Inside
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
	j.Binds = append(j.Binds, jail.Bind{From: prog.Path, To: programPath})
	if st.Dir != "/" && len(k.carried) > 0 {
		j.Binds, j.Loader = append(j.Binds, k.carried...), stack.LoaderPath
	}
	for _, p := range k.Share {
		j.Binds = append(j.Binds, jail.Bind{From: p, To: p})
	}
	return j, nil
}
