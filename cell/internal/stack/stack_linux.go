package stack

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/internal/jail"
)

// Stack is a root filesystem as it is mounted, read-only.
type Stack struct {
	Name, Dir string            // Dir is "/" if it is this machine's own, never ""
	Image     string            // of which Dir is the root; "": of none
	Tops      []string          // what is at its top
	Binds     []jail.Bind       // with what a name is resolved by
	Links     map[string]string // by name
	Files     map[string]string // small ones, by name
}

// Open looks at the root filesystem in dir; "" is this machine's own.
func Open(name, dir string) (Stack, error) {
	st := Stack{Name: name, Dir: "/", Links: map[string]string{"/var/tmp": "/tmp"}, Files: map[string]string{}}
	tops := HostTops
	if dir != "" {
		var err error
		if st.Dir, err = filepath.Abs(dir); err != nil {
			return st, err
		}
		all, err := os.ReadDir(st.Dir)
		if err != nil {
			return st, fmt.Errorf("%w: unpack a root filesystem there, or name another folder", err)
		}
		tops = nil
		for _, e := range all {
			if n := e.Name(); n != "home" && n != "tmp" && !slices.Contains(Ours, n) {
				tops = append(tops, n)
			}
		}
		if len(tops) == 0 {
			return st, fmt.Errorf("%s holds nothing: unpack a root filesystem there", st.Dir)
		}
		if err := fits(st.Dir); err != nil {
			return st, err
		}
	}
	for _, name := range tops {
		from := filepath.Join(st.Dir, name)
		info, err := os.Lstat(from)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return st, err
		case info.Mode()&os.ModeSymlink != 0:
			if st.Links["/"+name], err = os.Readlink(from); err != nil {
				return st, err
			}
		case info.IsDir() && name == "etc" && bare(from):
			if err := st.parts(from, "/etc"); err != nil {
				return st, err
			}
		case info.IsDir():
			st.Binds = append(st.Binds, jail.Bind{From: from, To: "/" + name})
		default:
			continue
		}
		st.Tops = append(st.Tops, name)
	}
	return st, st.resolver()
}

// added are the files of /etc that a container has from its cell.
var added = []string{"passwd", "group", "hosts", "resolv.conf"}

// bare tells whether there is no place for one of those.
func bare(etc string) bool {
	return slices.ContainsFunc(added, func(name string) bool {
		_, err := os.Lstat(filepath.Join(etc, name))
		return errors.Is(err, os.ErrNotExist)
	})
}

// parts has a folder shown part by part, so that others have a place beside them.
func (s *Stack) parts(from, to string) error {
	all, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range all {
		part, name := filepath.Join(from, e.Name()), to+"/"+e.Name()
		switch {
		case e.Type()&os.ModeSymlink != 0:
			if s.Links[name], err = os.Readlink(part); err != nil {
				return err
			}
		case e.IsDir(), e.Type().IsRegular():
			s.Binds = append(s.Binds, jail.Bind{From: part, To: name})
		}
	}
	return nil
}

// machines are the architectures of programs, by Go's names.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// fits refuses a root filesystem of another architecture, which its shell shows. The lifecycle program would run there,
// and no app.
func fits(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it was only read
	sh, err := root.Open("bin/sh")
	if err != nil {
		return nil //nolint:nilerr // it has none, or its link is absolute: then nothing is known
	}
	defer func() { _ = sh.Close() }()
	f, err := elf.NewFile(sh)
	if err != nil {
		return nil //nolint:nilerr // a script, perhaps
	}
	if want, ok := machines[runtime.GOARCH]; ok && f.Machine != want {
		return fmt.Errorf("%s is of another architecture: its /bin/sh is for %s, this machine for %s; give a root filesystem for %s", dir,
			strings.TrimPrefix(f.Machine.String(), "EM_"), strings.TrimPrefix(want.String(), "EM_"), runtime.GOARCH)
	}
	return nil
}

// resolver has names found as this machine finds them, also where the file is a link to what some service
// keeps in /run.
func (s *Stack) resolver() error {
	const name = "/etc/resolv.conf"
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	target, err := os.Readlink(filepath.Join(s.Dir, name))
	if err != nil { // no link
		if s.Dir != "/" {
			for _, f := range []string{name, "/etc/hosts"} {
				s.Binds = append(s.Binds, jail.Bind{From: f, To: f, Optional: true})
			}
		}
		return nil //nolint:nilerr // it is a file, or the stack has none
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join("/etc", target)
	}
	if strings.HasPrefix(target, "/run/") {
		s.Files[target] = string(b)
	}
	return nil
}

// Room tells whether something can be mounted at a name below a top: it is there, or its folder is not the stack's own.
func (s *Stack) Room(name string) bool {
	if _, err := os.Stat(filepath.Join(s.Dir, name)); err == nil {
		return true
	}
	top := "/" + strings.Split(name, "/")[1]
	return s.Links[top] == "" && !slices.ContainsFunc(s.Binds, func(b jail.Bind) bool { return b.To == top })
}

// Has tells whether it holds a part of that name.
func (s *Stack) Has(top string) bool { return slices.Contains(s.Tops, top) }

// Accounts is /etc/passwd or /etc/group of the stack, with vcap.
func (s *Stack) Accounts(file, vcap string) string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "etc", file)) // one that is not there has no lines
	lines := []string{}
	for l := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) > 2 && f[0] != "vcap" && f[2] != "2000" {
			lines = append(lines, strings.TrimSpace(l))
		}
	}
	return strings.Join(append(lines, vcap), "\n") + "\n"
}
