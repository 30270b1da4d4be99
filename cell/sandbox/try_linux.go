package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
)

// level takes the strongest level that works.
func (k *kind) level(f *folder.Runtime, atLeast string) error {
	var err error
	for _, s := range k.Stacks {
		if err == nil {
			err = try(f, k, s.Name)
		}
	}
	if err == nil || atLeast == Namespaces || !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for _, s := range k.Stacks {
		if s.Dir != "/" {
			return fmt.Errorf("stack %s needs namespaces: %w", s.Name, err)
		}
	}
	// Another user could not come to the folders of this one's.
	k.landlock, k.user = true, 0
	if e := try(f, k, k.Stacks[0].Name); e != nil {
		return errors.Join(err, e)
	}
	return nil
}

// unable says why a level does not work on this machine.
type unable struct {
	by  string
	err error
}

func (e *unable) Error() string        { return "no isolation by " + e.by + ": " + e.err.Error() }
func (e *unable) Unwrap() error        { return e.err }
func (e *unable) Is(target error) bool { return target == errors.ErrUnsupported }

// try runs a role in a container of a stack: that shows more than any setting of the machine.
func try(f *folder.Runtime, k *kind, name string) error {
	return f.Try(func(s folder.Start) error {
		s.Spec, s.Process = cell.Spec{Stack: name}, cell.Process{Path: "lifecycle:check"}
		cmd, err := k.Command(f.Program(), s)
		if err != nil {
			return err
		}
		if err := f.Program().Start(cmd); err != nil {
			if k.landlock {
				return &unable{"Landlock, which Linux has since 5.13, either", err}
			}
			return &unable{"namespaces", fmt.Errorf("%w; %s", err, cure(err))}
		}
		_ = cmd.Wait() // what counts is what init has recorded
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
