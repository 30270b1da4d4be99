package attacktest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// Roots is a cell.ImageRoots with one image, which lies in Dir.
type Roots struct {
	Dir string

	mu   sync.Mutex
	held int
}

var _ cell.ImageRoots = (*Roots)(nil)

// Root implements cell.ImageRoots.
func (r *Roots) Root(ctx context.Context, _ string, login func(context.Context) (string, string, error)) (string, func(), error) {
	if login != nil {
		if name, secret, err := login(ctx); err != nil || name != "me" || secret != "secret" {
			return "", nil, errors.New("who are you?")
		}
	}
	release, err := r.Hold(r.Dir)
	return r.Dir, release, err
}

// Hold implements cell.ImageRoots.
func (r *Roots) Hold(dir string) (func(), error) {
	if dir != r.Dir {
		return nil, fs.ErrNotExist
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.held--
	}), nil
}

// Collect implements cell.ImageRoots.
func (r *Roots) Collect(time.Time) error { return nil }

// Held is how many need the image.
func (r *Roots) Held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held
}

// image makes an image by somebody who means no good: its links lead to out, a folder of the machine. All is owner's.
func image(t *testing.T, owner int) (r *Roots, out string) {
	t.Helper()
	out, dir := t.TempDir(), t.TempDir()
	must(t, os.Chmod(out, 0o777))
	must(t, os.WriteFile(filepath.Join(out, "secret"), []byte("s"), 0o666))
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\nbad:x:many:1::/:/\n",
		"etc/group": "root:x:0:\nstaff:x:50:app\n", "data/f": "of the image", "srv/deep/f": "x"} {
		name = filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, []byte(text), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o777))
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777))
	for name, to := range map[string]string{"etc/resolv.conf": filepath.Join(out, "secret"), "etc/hosts": "../../../../../../../../.." + out + "/secret",
		"out": out, "up": "../../../../../../../.." + out, "root-of-1": "/proc/1/root"} {
		must(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	must(t, os.Chmod(dir, 0o755))
	for top := dir; top != "/"; top = filepath.Dir(top) { // the folders of a T.TempDir are closed to others
		if info, err := os.Stat(top); err == nil && info.Mode().Perm()&0o011 != 0o011 {
			must(t, os.Chmod(top, info.Mode().Perm()|0o011))
		}
	}
	if owner != 0 {
		must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(p, owner, owner))
		}))
	}
	return &Roots{Dir: dir}, out
}

// Images holds what a cell promises of images: whose their programs are, that each container has a root of its own to write to, and that
// nothing in an image leads out. Open opens the cell over one folder, again after it was closed. Files of images
// belong to owner; asRoot tells whether programs may be root in them.
func Images(t *testing.T, owner int, asRoot bool, open func(t *testing.T, roots cell.ImageRoots) (r cell.Runtime, closed func())) {
	t.Helper()
	roots, out := image(t, owner)
	r, closed := open(t, roots)
	total, err := r.Capacity(t.Context())
	must(t, err)
	if !total.Images {
		t.Error("Capacity does not tell that images are run")
	}
	create := func(id, user string) (cell.Container, error) {
		return r.Create(t.Context(), cell.Creation{ID: id, Spec: cell.Spec{Image: "registry.example/app@sha256:" + strings.Repeat("a", 64), User: user},
			Login: func(context.Context) (string, string, error) { return "me", "secret", nil }})
	}
	users := map[string]string{"app": "1234 1234 1235 1235", "77": "77 77 0 0", "app:staff": "1234 1234 50 50", "88:99": "88 88 99 99", "1234": "1234 1234 1235 1235"}
	if asRoot {
		users[""], users["root"] = "0 0 0 0", "0 0 0 0"
	}
	for user, ids := range users {
		c, err := create("u", user)
		must(t, err)
		Refused(t, c, [2]string{"ids", ids}, [2]string{"status=CapEff", "0000000000000000"}, [2]string{"status=CapBnd", "0000000000000000"},
			[2]string{"status=NoNewPrivs", "1"}, [2]string{"setuid=0", map[bool]string{true: "done", false: "EPERM|EINVAL"}[strings.HasPrefix(ids, "0 ")]}, [2]string{"write=/tmp/mine", "done"})
		must(t, c.Destroy(t.Context()))
	}
	for user, says := range map[string]string{"nobody": `its user "nobody" is not in its /etc/passwd`, "app:none": `its group "none" is not in its /etc/group`,
		"bad": `the number "many"`, "4294967295": "is not in its /etc/passwd"} {
		if _, err := create("u", user); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("user %s: %v", user, err)
		}
	}
	if !asRoot {
		if _, err := create("u", ""); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("as root: %v", err)
		}
	}
	if n := roots.Held(); n != 0 {
		t.Errorf("the image is held %d times by nobody", n)
	}

	c, err := create("x", "1234")
	must(t, err)
	other, err := create("y", "1234")
	must(t, err)
	Refused(t, c,
		[2]string{"read=/data/f", "of the image"},
		[2]string{"write=/tmp/new", "done"},
		[2]string{"read=/out/secret", "ENOENT"},
		[2]string{"read=/up/secret", "ENOENT"},
		[2]string{"read=/root-of-1" + out + "/secret", "ENOENT|EACCES"},
		[2]string{"mount", "EPERM"}, [2]string{"unshare", "EPERM"}, [2]string{"chroot", "EPERM"}, [2]string{"device", "EPERM"},
		[2]string{"append=/proc/sysrq-trigger", "EROFS|EACCES|ENOENT"},
		[2]string{"append=/run/dewpoint/dewpoint-lifecycle", "EROFS|EACCES|ETXTBSY"},
		[2]string{"list=/run/dewpoint/states", "ENOENT|EACCES"},
		[2]string{"files", "none"},
	)
	refused(t, other, "again", [][2]string{{"read=/tmp/new", "ENOENT"}})
	for _, name := range []string{"/out/secret", "/up/secret"} {
		if rc, err := c.StreamOut(t.Context(), name); err == nil {
			t.Errorf("%s can be read", name)
			_ = rc.Close()
		}
	}
	must(t, c.StreamIn(t.Context(), "/tmp/in", bytes.NewReader(tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644}))))
	ofRoot := "EACCES"
	if owner != 0 || os.Geteuid() != 0 { // all belongs to one user
		ofRoot = "done"
	}
	refused(t, c, "second", [][2]string{{"read=/tmp/in/f", ""}, {"write=/tmp/in/g", "done"}, {"write=/x", ofRoot}}) // another process, in the same root
	rc, err := c.StreamOut(t.Context(), "/tmp/in/g")
	must(t, err)
	if _, err := io.Copy(io.Discard, rc); err != nil {
		t.Error(err)
	}
	must(t, rc.Close())
	u, err := c.(cell.Meter).Usage(t.Context())
	must(t, err)
	if u.Disk > 1<<20 {
		t.Errorf("it is said to take %d bytes of the disk: its image does not count", u.Disk)
	}

	// After a restart of the cell's program.
	sleeps, err := c.Run(t.Context(), cell.Process{ID: "sleeps", Path: "lifecycle:attack", Args: []string{"sleep"}}, cell.IO{})
	must(t, err)
	closed()
	r, closed = open(t, roots)
	defer closed()
	all, err := r.Containers(t.Context())
	must(t, err)
	if len(all) != 2 || all[0].Info().ID != "x" {
		t.Fatalf("%d containers are found", len(all))
	}
	must(t, sleeps.Signal(t.Context(), "KILL"))
	refused(t, all[0], "third", [][2]string{{"read=/tmp/in/f", ""}, {"read=/data/f", "of the image"}})
	for _, c := range all {
		must(t, c.Destroy(t.Context()))
	}
	left, err := os.ReadDir(out)
	must(t, err)
	b, err := os.ReadFile(filepath.Join(out, "secret"))
	must(t, err)
	if len(left) != 1 || string(b) != "s" {
		t.Errorf("behind the links of the image are %v, %q", left, b)
	}
	if _, err := os.Lstat(filepath.Join(roots.Dir, "run")); err == nil {
		t.Error("the image has changed")
	}
	if n := roots.Held(); n != 2 { // by the closed Runtime, which did not know of the end
		t.Errorf("the image is held %d times", n)
	}

	// Its user may do as it likes where the cell has put its own program.
	must(t, os.Mkdir(filepath.Join(roots.Dir, "run"), 0o777))
	must(t, os.Chmod(filepath.Join(roots.Dir, "run"), 0o777))
	if os.Geteuid() == 0 {
		must(t, os.Lchown(filepath.Join(roots.Dir, "run"), cmp.Or(owner, 1234), cmp.Or(owner, 1235)))
	}
	c, err = create("x", "1234")
	must(t, err)
	said := Said(t, c, "puts", "move=/run:/run.old", "replace=/run/dewpoint", "ids")
	for _, id := range []string{"after", "and"} {
		if now := Said(t, c, id, "ids"); len(now) != 1 || len(said) != 3 || now[0] != said[2] {
			t.Errorf("it could %q, and then a process is of %q", said, now)
		}
	}
	must(t, c.Destroy(t.Context()))
	must(t, os.RemoveAll(filepath.Join(roots.Dir, "run")))

	preload(t, roots.Dir, func() cell.Container {
		c, err := create("x", "1234")
		must(t, err)
		return c
	})

	// What stands where the cell must put something.
	for _, name := range []string{"dev", "proc", "run"} {
		must(t, os.Symlink(out, filepath.Join(roots.Dir, name)))
		c, err := create("x", "1234")
		if err == nil {
			_, err = c.Run(t.Context(), cell.Process{Path: "lifecycle:attack"}, cell.IO{})
			must(t, c.Destroy(t.Context()))
		}
		if err == nil {
			t.Errorf("/%s is a link that leads out, and a program runs", name)
		}
		must(t, os.Remove(filepath.Join(roots.Dir, name)))
	}
	if left, _ := os.ReadDir(out); len(left) != 1 {
		t.Errorf("behind the links of the image are %v", left)
	}
}

// preloaded notes in /tmp/who as whom it is loaded: its user, and whom that stands for.
const preloaded = `
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void note(void) {
	char map[80], line[128];
	int f = open("/proc/self/uid_map", O_RDONLY), to = open("/tmp/who", O_WRONLY | O_APPEND);
	int n = f < 0 ? 0 : read(f, map, sizeof map - 1);
	map[n < 0 ? 0 : n] = 0;
	for (n = 0; map[n]; n++) if (map[n] == '\n') map[n] = ' ';
	n = snprintf(line, sizeof line, "user %d of %s\n", (int)getuid(), map);
	if (to >= 0 && write(to, line, n) != n) _exit(1);
}
`

// preload has an image that has its own library loaded by whatever runs in it, by a file and by the environment: its programs alone do.
func preload(t *testing.T, dir string, create func() cell.Container) {
	t.Helper()
	gcc, source := needs.Tool(t, "gcc"), filepath.Join(t.TempDir(), "x.c")
	must(t, os.WriteFile(source, []byte(preloaded), 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "lib"), 0o755))
	if out, err := exec.Command(gcc, "-shared", "-fPIC", "-o", filepath.Join(dir, "lib/evil.so"), source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	who, file := filepath.Join(dir, "tmp/who"), filepath.Join(dir, "etc/ld.so.preload")
	must(t, os.WriteFile(who, nil, 0o666))
	must(t, os.Chmod(who, 0o666))
	must(t, os.WriteFile(file, []byte("/lib/evil.so\n"), 0o644))
	c := create()
	for i, env := range [][]string{nil, {"LD_PRELOAD=/lib/evil.so"}} {
		run, err := c.Run(t.Context(), cell.Process{ID: fmt.Sprint("loads", i), Path: "lifecycle:attack", Args: []string{"ids"}, Env: env}, cell.IO{})
		must(t, err)
		if e, err := run.Wait(t.Context()); err != nil || e.Code != 0 {
			t.Errorf("with a library of its own it ends with %+v, %v", e, err)
		}
	}
	out, err := c.StreamOut(t.Context(), "/tmp/who")
	must(t, err)
	b, err := io.ReadAll(out)
	must(t, errors.Join(err, out.Close()))
	for l := range strings.Lines(string(b)) {
		var user, first, outside, n int
		if _, err := fmt.Sscanf(l, "user %d of %d %d %d", &user, &first, &outside, &n); err != nil || user == 0 && first == 0 && outside == 0 && os.Getuid() == 0 {
			t.Errorf("its library is loaded by %q", l)
		}
	}
	must(t, c.Destroy(t.Context()))
	must(t, errors.Join(os.Remove(who), os.Remove(file), os.RemoveAll(filepath.Join(dir, "lib"))))
}
