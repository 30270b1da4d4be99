package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/internal/jail"
)

// stack is a Stack as it is mounted.
type stack struct {
	name, dir string // dir is never ""
	tops      []string
	binds     []jail.Bind
	links     map[string]string
	files     map[string]string
}

// ours are the folders that are no stack's, beside those of the instance.
var ours = []string{"proc", "dev", "sys", "run", "var"}

func newStack(s Stack) (stack, error) {
	st := stack{name: s.Name, dir: "/", links: map[string]string{"/var/tmp": "/tmp"}, files: map[string]string{}}
	tops := hostTops
	if s.Dir != "" {
		var err error
		if st.dir, err = filepath.Abs(s.Dir); err != nil {
			return st, err
		}
		all, err := os.ReadDir(st.dir)
		if err != nil {
			return st, fmt.Errorf("%w: unpack a root filesystem there, or name another folder", err)
		}
		tops = nil
		for _, e := range all {
			if n := e.Name(); n != "home" && n != "tmp" && !slices.Contains(ours, n) {
				tops = append(tops, n)
			}
		}
		if len(tops) == 0 {
			return st, fmt.Errorf("%s holds nothing: unpack a root filesystem there", st.dir)
		}
	}
	for _, name := range tops {
		from := filepath.Join(st.dir, name)
		info, err := os.Lstat(from)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return st, err
		case info.Mode()&os.ModeSymlink != 0:
			if st.links["/"+name], err = os.Readlink(from); err != nil {
				return st, err
			}
		case info.IsDir():
			st.binds = append(st.binds, jail.Bind{From: from, To: "/" + name})
		default:
			continue
		}
		st.tops = append(st.tops, name)
	}
	return st, st.resolver()
}

// resolver has names found as this machine finds them, also where the file is a link to what some service
// keeps in /run.
func (s *stack) resolver() error {
	const name = "/etc/resolv.conf"
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	target, err := os.Readlink(filepath.Join(s.dir, name))
	if err != nil { // no link
		if s.dir != "/" {
			for _, f := range []string{name, "/etc/hosts"} {
				s.binds = append(s.binds, jail.Bind{From: f, To: f, Optional: true})
			}
		}
		return nil //nolint:nilerr // it is a file, or the stack has none
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join("/etc", target)
	}
	if strings.HasPrefix(target, "/run/") {
		s.files[target] = string(b)
	}
	return nil
}

func (s *stack) has(top string) bool { return slices.Contains(s.tops, top) }

// accounts is /etc/passwd or /etc/group of the stack, with vcap.
func (s *stack) accounts(file, vcap string) string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "etc", file)) // one that is not there has no lines
	lines := []string{}
	for l := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) > 2 && f[0] != "vcap" && f[2] != "2000" {
			lines = append(lines, strings.TrimSpace(l))
		}
	}
	return strings.Join(append(lines, vcap), "\n") + "\n"
}
