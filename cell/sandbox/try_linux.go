package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// level takes the strongest level that works, and at that the networks.
func (k *kind) level(ctx context.Context, f *folder.Runtime, c Config) error {
	k.network.own = c.Network != HostNetwork
	err := k.tryAll(ctx, f)
	if err != nil && k.network.own {
		k.network.own = false
		if e := k.tryAll(ctx, f); e == nil {
			switch { // it is the network that does not work
			case c.Network == OwnNetwork:
				return fmt.Errorf("Config.Network is %q: %w; %s", OwnNetwork, err, networkCure())
			case c.Egress != nil:
				return fmt.Errorf("Config.Egress needs networks of their own: %w; %s", err, networkCure())
			}
			c.Logger.Info("containers have this machine's network", "reason", err, "cure", networkCure())
			err = nil
		}
	}
	if err == nil || c.AtLeast == Namespaces || !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for _, s := range k.Stacks {
		if s.Dir != "/" {
			return fmt.Errorf("stack %s needs namespaces: %w", s.Name, err)
		}
	}
	if c.Network == OwnNetwork || c.Egress != nil {
		return fmt.Errorf("networks of their own need namespaces: %w", err)
	}
	// Another user could not come to the folders of this one's.
	k.landlock, k.user = true, 0
	if e := try(ctx, f, k, k.Stacks[0].Name); e != nil {
		return errors.Join(err, e)
	}
	return nil
}

func (k *kind) tryAll(ctx context.Context, f *folder.Runtime) error {
	for _, s := range k.Stacks {
		if err := try(ctx, f, k, s.Name); err != nil {
			return err
		}
	}
	return nil
}

// networkCure tells what helps where containers get no network of their own.
func networkCure() string {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = f.Close() // it was only tried
		return "does this machine allow network namespaces (user.max_net_namespaces)? Without, there is Config.Network \"" + HostNetwork + "\""
	case errors.Is(err, os.ErrPermission):
		return "as root, chmod 666 /dev/net/tun, as udev does, or use Config.Network \"" + HostNetwork + "\""
	}
	return "load the kernel module tun, or use Config.Network \"" + HostNetwork + "\" (in Docker: --device /dev/net/tun)"
}

// unable says why a level does not work on this machine.
type unable struct {
	by  string
	err error
}

func (e *unable) Error() string        { return "no isolation by " + e.by + ": " + e.err.Error() }
func (e *unable) Unwrap() error        { return e.err }
func (e *unable) Is(target error) bool { return target == errors.ErrUnsupported }

// tryWait is for one that takes its time on a busy machine.
const tryWait = 30 * time.Second

// try runs a role in a container of a stack: that shows more than any setting of the machine.
func try(ctx context.Context, f *folder.Runtime, k *kind, name string) error {
	ctx, cancel := context.WithTimeout(ctx, tryWait)
	defer cancel()
	return f.Try(name, func(c folder.Place, s folder.Start) (err error) {
		if err := k.Open(ctx, c); err != nil {
			return err
		}
		defer func() {
			ctx := context.WithoutCancel(ctx)
			if keeper, alive := lifecycle.FindKeeper(c.States); alive {
				err = errors.Join(err, keeper.Kill(ctx))
			}
			err = errors.Join(err, k.End(ctx, c))
		}()
		done, err := k.Start(ctx, f.Program(), c, s)
		if err != nil && k.landlock {
			return &unable{"Landlock, which Linux has since 5.13, either", err}
		} else if err != nil {
			return &unable{"namespaces", fmt.Errorf("%w; %s", err, cure(err))}
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		return stack.Checked(s.State, name)
	})
}

// cure tells what forbids namespaces here, as far as the machine says it.
func cure(err error) string {
	setting := func(name, forbids string) bool {
		b, err := os.ReadFile(filepath.Join("/proc/sys", name))
		return err == nil && strings.TrimSpace(string(b)) == forbids
	}
	switch {
	case setting("kernel/apparmor_restrict_unprivileged_userns", "1"):
		return "AppArmor keeps user namespaces from programs without a profile: allow yours by a profile with \"userns,\", or set kernel.apparmor_restrict_unprivileged_userns=0"
	case setting("kernel/unprivileged_userns_clone", "0"):
		return "set kernel.unprivileged_userns_clone=1"
	case setting("user/max_user_namespaces", "0"):
		return "set user.max_user_namespaces to some thousand"
	case errors.Is(err, syscall.ENOSPC):
		return "there are too many user namespaces already: raise user.max_user_namespaces"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "inside Docker or the like: run it with a seccomp profile that allows user namespaces and with /proc unmasked (--security-opt seccomp=unconfined --security-opt systempaths=unconfined)"
	}
	return "for code that you trust there is cell/process, which does not isolate"
}
