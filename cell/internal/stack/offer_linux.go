package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Offer is the stacks of a cell, the first for works that name none, and what of this machine its containers see beside
// them, read-only.
type Offer struct {
	Stacks []Stack
	Share  []string
	Images bool // those are run, too

	release []func() // of the images that are stacks
}

// named is a stack as a Config names it: the root filesystem in Dir, or that of Image; neither: this machine's own.
type named = struct{ Name, Dir, Image string }

// NewOffer opens the stacks of a Config, whose fields the errors name. None: this machine's own, called host. Close must follow.
func NewOffer[S ~named](ctx context.Context, all []S, host string, share []string, images cell.ImageRoots) (o Offer, err error) {
	o = Offer{Share: share, Images: images != nil}
	defer func() {
		if err != nil {
			o.Close()
		}
	}()
	for _, p := range share {
		if !filepath.IsAbs(p) {
			return o, fmt.Errorf("Config.Share names %q: give absolute paths", p)
		}
	}
	if len(all) == 0 {
		all = []S{S(named{Name: host})}
	}
	for _, s := range all {
		s := named(s)
		if s.Name == "" || slices.Contains(o.Names(), s.Name) {
			return o, fmt.Errorf("Config.Stacks names %q twice, or a stack without a name: give each a name of its own", s.Name)
		}
		if s.Image != "" {
			switch {
			case s.Dir != "":
				return o, fmt.Errorf("stack %s has a Dir and an Image: give one of them", s.Name)
			case images == nil:
				return o, fmt.Errorf("stack %s is image %s: set Config.Images to what unpacks it", s.Name, s.Image)
			}
			dir, release, err := images.Root(ctx, s.Image, nil)
			if err != nil {
				return o, fmt.Errorf("stack %s: %w", s.Name, err)
			}
			s.Dir, o.release = dir, append(o.release, release)
		}
		st, err := Open(s.Name, s.Dir)
		if err != nil {
			return o, fmt.Errorf("stack %s: %w", s.Name, err)
		}
		st.Image = s.Image
		o.Stacks = append(o.Stacks, st)
	}
	return o, nil
}

// Close lets go of the images that are stacks.
func (o *Offer) Close() {
	for _, release := range o.release {
		release()
	}
}

// Root is what of Config.Images a container with a stack needs; "": nothing. An image that is unpacked for its stack another time may be another one.
func (o *Offer) Root(s cell.Spec) string {
	if st, err := o.Find(s.Stack); err == nil && s.Image == "" && st.Image != "" {
		return st.Dir
	}
	return ""
}

// Names lists the stacks.
func (o *Offer) Names() (all []string) {
	for _, s := range o.Stacks {
		all = append(all, s.Name)
	}
	return all
}

// Find returns the stack of that name; "": the first.
func (o *Offer) Find(name string) (Stack, error) {
	if name == "" {
		return o.Stacks[0], nil
	}
	for _, s := range o.Stacks {
		if s.Name == name {
			return s, nil
		}
	}
	return Stack{}, fmt.Errorf("stack %q is not offered by this cell: it has %s", name, strings.Join(o.Names(), ", "))
}

// Check is that of a folder.Kind.
func (o *Offer) Check(s cell.Spec) error {
	if s.Image != "" && !o.Images {
		return fmt.Errorf("image %s: %w by this cell: it has stacks only", s.Image, errors.ErrUnsupported)
	} else if s.Image != "" {
		return nil
	}
	if s.User != "" && s.User != "vcap" {
		return fmt.Errorf("user %s: %w by this cell: everything runs as vcap", s.User, errors.ErrUnsupported)
	}
	_, err := o.Find(s.Stack)
	return err
}

// Writable is that of a folder.Kind whose containers have a root of their own.
func (o *Offer) Writable(spec cell.Spec, p string) error {
	if spec.Image != "" { // all is the container's own
		return nil
	}
	s, err := o.Find(spec.Stack)
	if err != nil {
		return err
	}
	top, _, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+p), "/"), "/")
	shared := slices.ContainsFunc(o.Share, func(p string) bool {
		return p == "/"+top || strings.HasPrefix(p, "/"+top+"/") && top != "tmp" && top != "home"
	})
	if top == "" || slices.Contains(Ours, top) || s.Has(top) || shared {
		return folder.ReadOnly()
	}
	return nil
}

// AccountFiles writes what containers see as /etc/passwd and /etc/group of each stack to dir/STACK/{passwd, group}.
func (o *Offer) AccountFiles(dir string) error {
	for _, s := range o.Stacks {
		dir := filepath.Join(dir, s.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for name, line := range map[string]string{"passwd": "vcap:x:2000:2000:vcap:/home/vcap:/bin/bash", "group": "vcap:x:2000:"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(s.Accounts(name, line)), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// ImageBinds is what containers see beside what their image has: the program with what it needs, names, and what is shared.
func (o *Offer) ImageBinds(program, resolver string, carried []jail.Bind) []jail.Bind {
	all := append([]jail.Bind{{From: program, To: ProgramPath}}, carried...)
	all = append(all, jail.Bind{From: resolver, To: "/etc/resolv.conf", Optional: true}, jail.Bind{From: "/etc/hosts", To: "/etc/hosts", Optional: true})
	for _, p := range o.Share {
		all = append(all, jail.Bind{From: p, To: p})
	}
	return all
}

// Carried is what Carry finds, if there is a stack that needs it.
func (o *Offer) Carried(ctx context.Context, program string) ([]jail.Bind, error) {
	if !o.Images && !slices.ContainsFunc(o.Stacks, func(s Stack) bool { return s.Dir != "/" }) {
		return nil, nil
	}
	return Carry(ctx, program)
}

// Checked tells whether the role check, whose init has its state there and has ended, could run in a stack.
func Checked(state, stack string) error {
	st, err := lifecycle.InitState(state)
	if err == nil && st.Exit != nil && st.Exit.Code == 0 {
		return nil
	}
	if err == nil && st.Exit != nil {
		err = fmt.Errorf("it ended with %d, and said %q", st.Exit.Code, said(state))
	}
	return fmt.Errorf("the lifecycle program cannot run in stack %s: %w; is the stack of this machine's architecture? If the program is a dynamic "+
		"binary, build yours with CGO_ENABLED=0, or set Config.Source to a program built so from lifecycle/cmd/%s", stack, err, lifecycle.ProgramName)
}

// said is what a process that has ended has printed.
func said(state string) string {
	out, err := lifecycle.OpenOutput(state)
	if err != nil {
		return ""
	}
	defer func() { _ = out.Close() }() // it was only read
	var b strings.Builder
	for {
		c, err := out.Next(context.Background())
		if err != nil {
			return strings.TrimSpace(b.String())
		}
		b.Write(c.Data)
	}
}
