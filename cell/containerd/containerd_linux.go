package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Runtime makes containers that containerd runs. See cell.Runtime for the contract of its methods.
type Runtime struct {
	*folder.Runtime
	k *kind
}

var _ cell.Runtime = (*Runtime)(nil)

// New opens the folder, reaches or starts containerd, finds the containers that are there, removes what of other
// programs that were killed is left, and runs a program in each stack. If that does not succeed, the error says why and
// what helps. If another program has the folder open, it says so.
func New(ctx context.Context, c Config) (*Runtime, error) {
	r, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("containerd.New: %w", err)
	}
	return r, nil
}

func open(ctx context.Context, c Config) (_ *Runtime, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: containerd is for root only; without root there is cell/sandbox", errors.ErrUnsupported)
	}
	if c.Dir == "" {
		return nil, errors.New("Config.Dir is empty: name a folder for the containers")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	k, err := newKind(ctx, dir, c)
	if err != nil {
		return nil, err
	}
	f, err := folder.New(ctx, folder.Config{Kind: k, Images: c.Images, Dir: dir, Program: c.Program, Source: c.Source, Env: c.Env, Host: c.Host,
		Memory: c.Memory, Disk: c.Disk, Containers: c.Containers, KeepLayers: c.KeepLayers, KeepBytes: c.KeepBytes, Logger: c.Logger})
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	r := &Runtime{f, k}
	if err = k.prepare(ctx, f.Program()); err == nil {
		err = k.sweep(ctx, f.Places())
	}
	for _, s := range k.Stacks {
		if err == nil {
			err = k.try(ctx, f, s)
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close ends the Runtime, and the containerd that it has started; processes go on. Another program may then open the
// folder.
func (r *Runtime) Close() error { return errors.Join(r.Runtime.Close(), r.k.close()) }

// kind is the folder.Kind and folder.Engine of containers.
type kind struct {
	stack.Offer

	dir     string
	name    string // of the folder, for containerd: others may have theirs in its namespace
	log     *slog.Logger
	prog    *lifecycle.Program
	carried []jail.Bind // what the lifecycle program needs in other stacks than this machine's
	limits  []string    // that can be enforced
	server  *server
	network network      // nil: the machine's
	disks   *disks       // nil: what is written is measured alone
	users   *jail.Users  // of images; nil: those of this machine
	locks   folder.Locks // of containers that are started or ended
}

var (
	_ folder.Kind   = (*kind)(nil)
	_ folder.Engine = (*kind)(nil)
)

// vcap is Cloud Foundry's user of programs, here and in containers.
const vcap = jail.Inside

func newKind(ctx context.Context, dir string, c Config) (*kind, error) {
	k := &kind{dir: dir, name: nameOf(dir), log: c.Logger, limits: limits()}
	var err error
	if k.users, err = jail.UsersFrom(c.FirstUser); err != nil {
		return nil, fmt.Errorf("Config.%w", err)
	}
	if !c.HostNetwork {
		if k.network, err = newNetwork(k.name, dir, c); err != nil {
			return nil, err
		}
	}
	if k.server, err = newServer(dir, c); err != nil {
		return nil, err
	}
	if k.disks, err = newDisks(ctx, dir); err != nil {
		c.Logger.Warn("disks are measured, but not bounded", "error", err)
		k.disks = nil
	} else {
		k.limits = append(k.limits, "disk")
	}
	k.Offer, err = stack.NewOffer(ctx, c.Stacks, HostStack, c.Share, c.Images)
	return k, err
}

const (
	etcDir       = "etc" // <stack>/{passwd, group}, beside the folders of package folder
	resolverFile = "resolv.conf"
)

// prepare makes what all containers use.
func (k *kind) prepare(ctx context.Context, prog *lifecycle.Program) (err error) {
	k.prog = prog
	if err := k.disks.sweep(); err != nil {
		return err
	}
	if k.carried, err = k.Carried(ctx, prog.Path); err != nil {
		return err
	}
	if err := k.AccountFiles(filepath.Join(k.dir, etcDir)); err != nil {
		return err
	}
	if k.network != nil {
		if err := os.WriteFile(filepath.Join(k.dir, etcDir, resolverFile), []byte(k.network.resolver()), 0o644); err != nil {
			return err
		}
		if err := k.network.open(ctx); err != nil {
			return err
		}
	}
	return k.server.connect(ctx)
}

func (k *kind) close() error {
	k.Offer.Close()
	removeGroups(k.name)
	var err error
	if k.network != nil && k.idle() {
		err = k.network.close()
	}
	return errors.Join(err, k.server.close())
}

// idle tells whether there are no containers, whose network the rules are for.
func (k *kind) idle() bool {
	all, err := os.ReadDir(filepath.Join(k.dir, "containers"))
	return err == nil && len(all) == 0
}

// Describe implements folder.Kind.
func (k *kind) Describe(r *cell.Resources) {
	r.Isolation, r.Networks, r.Images = Isolation, k.network != nil, k.Images
	r.Enforced = append(r.Enforced, k.limits...)
	r.Stacks = append(r.Stacks, k.Names()...)
}

// Owner implements folder.Kind.
func (k *kind) Owner(of *folder.Image) (int, bool) {
	if of == nil {
		return vcap, true
	}
	return k.firstUser() + of.UID, true
}

// firstUser is what root of an image is called on this machine.
func (k *kind) firstUser() int {
	if k.users == nil {
		return 0
	}
	return k.users.First
}

// Path implements folder.Kind.
func (k *kind) Path(_, p string) string { return path.Clean("/" + p) }
