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

// level takes the strongest level that works, and at that the networks, and how layers are shown.
func (k *kind) level(ctx context.Context, f *folder.Runtime, c Config) error {
	// First all that may be, then less: each failure is that of what the next one leaves out.
	var failed []error
	type choice struct{ own, overlays bool }
	choices := []choice{{true, true}, {true, false}, {false, true}, {false, false}}
	if c.Network == HostNetwork {
		choices = choices[2:]
	}
	for _, now := range choices {
		k.network.own, k.overlays = now.own, now.overlays
		err := k.tryAll(ctx, f)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if !now.own && c.Network != HostNetwork {
			switch { // the second failure is that of the network alone
			case c.Network == OwnNetwork:
				return fmt.Errorf("Config.Network is %q: %w; %s", OwnNetwork, cause(failed[1]), networkCure())
			case c.Egress != nil:
				return fmt.Errorf("Config.Egress needs networks of their own: %w; %s", cause(failed[1]), networkCure())
			default:
				k.lack("each container has this machine's network", cause(failed[1]), networkCure())
			}
		}
		if !now.overlays {
			if k.Images = false; c.Images != nil {
				return fmt.Errorf("Config.Images needs overlays over %s: %w", c.Dir, failed[len(failed)-1])
			}
			k.lack("layers are copied for each container", cause(failed[len(failed)-1]), "put Config.Dir on another file system, such as ext4 or xfs")
		}
		return nil
	}
	err := failed[len(failed)-1]
	if c.AtLeast == Namespaces || !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for _, s := range k.Stacks {
		if s.Dir != "/" {
			return fmt.Errorf("stack %s needs namespaces: %w", s.Name, err)
		}
	}
	switch {
	case c.Network == OwnNetwork || c.Egress != nil:
		return fmt.Errorf("networks of their own need namespaces: %w", err)
	case c.Images != nil:
		return fmt.Errorf("Config.Images needs namespaces: %w", err)
	}
	// Another user could not come to the folders of this one's.
	k.landlock, k.user, k.overlays = true, 0, false
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
	by, cure string
	err      error
}

func (e *unable) Error() string {
	text := "no isolation by " + e.by + ": " + e.err.Error()
	if e.cure != "" {
		text += "; " + e.cure
	}
	return text
}

func (e *unable) Unwrap() error        { return e.err }
func (e *unable) Is(target error) bool { return target == errors.ErrUnsupported }

// tryWait is for one that takes its time on a busy machine.
const tryWait = 30 * time.Second

// cause is why less was given, where there is isolation all the same.
func cause(err error) error {
	if u, ok := errors.AsType[*unable](err); ok {
		return u.err
	}
	return err
}

// try runs a role in a container of a stack: that shows more than any setting of the machine.
func try(ctx context.Context, f *folder.Runtime, k *kind, name string) error {
	ctx, cancel := context.WithTimeout(ctx, tryWait)
	defer cancel()
	return f.Try(name, func(c folder.Place, s folder.Start) (err error) {
		if err := k.Open(ctx, c); err != nil {
			return err
		}
		if k.overlays {
			lower := filepath.Join(c.Dir, "lower")
			if err := os.Mkdir(lower, 0o755); err != nil {
				return err
			}
			c.Layers = []folder.Layer{{From: lower, To: "/home/vcap/layer"}}
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
			return &unable{by: "Landlock, which Linux has since 5.13, either", err: err}
		} else if err != nil {
			return &unable{by: "namespaces", cure: cure(err), err: err}
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
