package attacktest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Writable makes a stack whose files would be the app's to write, were they not read-only.
func Writable(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{"data/f": "x", "etc/passwd": "root:x:0:0::/:/bin/sh\n"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
		must(t, os.Chmod(filepath.Join(dir, name), 0o666))
		must(t, os.Chmod(filepath.Dir(filepath.Join(dir, name)), 0o777))
	}
	return dir
}

// Bare holds that a stack without accounts and names has them from its cell. Open returns a container of that stack.
func Bare(t *testing.T, open func(stack string) cell.Container) {
	t.Helper()
	hosts, err := os.ReadFile("/etc/hosts")
	must(t, err)
	for _, etc := range []bool{false, true} {
		stack, want := t.TempDir(), "ENOENT"
		must(t, os.Mkdir(filepath.Join(stack, "data"), 0o755))
		if etc {
			want = "mine"
			must(t, os.Mkdir(filepath.Join(stack, "etc"), 0o755))
			must(t, os.WriteFile(filepath.Join(stack, "etc", "issue"), []byte("mine"), 0o644))
			must(t, os.Symlink("issue", filepath.Join(stack, "etc", "link")))
		}
		must(t, os.Chmod(stack, 0o755))
		c := open(stack)
		Refused(t, c,
			[2]string{"read=/etc/passwd", "vcap:x:2000:2000:vcap:/home/vcap:/bin/bash"},
			[2]string{"read=/etc/group", "vcap:x:2000:"},
			[2]string{"read=/etc/hosts", strings.ReplaceAll(strings.TrimSpace(string(hosts)), "\n", " ")},
			[2]string{"read=/etc/issue", want},
			[2]string{"read=/etc/link", want},
			[2]string{"write=/etc/x", "EROFS|EACCES"},
			[2]string{"append=/etc/passwd", "EROFS|EACCES"},
		)
		must(t, c.Destroy(t.Context()))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Powers tries what takes some. What becoming user 1 and a socket of a virtual machine answer differs between cells.
func Powers(t *testing.T, c cell.Container, become, vsock string) {
	t.Helper()
	all := [][2]string{
		{"ids", "2000 2000 2000 2000"},
		{"status=CapEff", "0000000000000000"}, {"status=CapPrm", "0000000000000000"}, {"status=CapInh", "0000000000000000"},
		{"status=CapBnd", "0000000000000000"}, {"status=CapAmb", "0000000000000000"},
		{"status=NoNewPrivs", "1"}, {"status=Seccomp", "2"},
		{"mount", "EPERM"}, {"remount", "EPERM"}, {"umount", "EPERM"}, {"unshare", "EPERM"}, {"clone", "EPERM"}, {"clone3", "ENOSYS"},
		{"setns", "EPERM|EACCES"}, {"chroot", "EPERM"}, {"device", "EPERM"}, {"hostname", "EPERM"},
		{"setuid=0", "EINVAL|EPERM"}, {"setuid=1", become}, {"setgroups", "EPERM"},
		{"keyctl", "EPERM"}, {"bpf", "EPERM"}, {"perf", "EPERM"}, {"uring", "EPERM"}, {"userfault", "EPERM"},
		{"vsock", vsock}, {"console", "EPERM"},
	}
	if runtime.GOARCH == "amd64" {
		all = append(all, [2]string{"othernumbers", "ENOSYS"})
	}
	if _, err := exec.LookPath("su"); err == nil {
		all = append(all, [2]string{"suid", "refused true"})
	}
	Refused(t, c, all...)
	all = append(all, [2]string{"handed", "none"}) // of the line to who has asked, and of the terminal's other end
	for _, size := range []*cell.TerminalSize{nil, {Columns: 80, Rows: 24}} {
		expect(t, all, func(attacks []string) []string { return beside(t, c, size, attacks...) })
	}
}

// Environment holds that what an app sets for itself is nobody else's: by LD_PRELOAD its libraries would run as init.
func Environment(t *testing.T, c cell.Container) {
	t.Helper()
	mark := "DEWPOINT_ATTACK=" + rand.Text()
	// Of two the first would count for a role.
	env := []string{mark, "DEWPOINT_HANDSHAKE=x", "LD_PRELOAD=/home/vcap/evil.so", "PATH=/evil:/usr/bin:/bin"}
	run, err := c.Run(t.Context(), cell.Process{ID: "environment", Path: "lifecycle:attack", Args: []string{"sleep"}, Env: env}, cell.IO{})
	must(t, err)
	found, err := filepath.Glob("/proc/[0-9]*/environ")
	must(t, err)
	var has []string
	for _, name := range found {
		b, _ := os.ReadFile(name) // of others it cannot be read
		if !bytes.Contains(b, []byte(mark)) {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		has = append(has, strings.ReplaceAll(string(args), "\x00", " "))
	}
	if len(has) > 1 || len(has) == 1 && !strings.HasPrefix(has[0], "attack") {
		t.Errorf("its environment is that of %q", has)
	}
	must(t, run.Signal(t.Context(), "KILL"))
	_, err = run.Wait(t.Context())
	must(t, err)
}

// Left lists the processes that have a folder in their arguments, or mounts below it. Elsewhere mounts may be seen from another root.
func Left(dir string) (all []string) {
	found, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, p := range found {
		args, _ := os.ReadFile(filepath.Join(p, "cmdline")) // of one that has ended there is nothing
		mounts, _ := os.ReadFile(filepath.Join(p, "mountinfo"))
		if strings.Contains(string(args), dir) || strings.Contains(string(mounts), strings.TrimPrefix(dir, os.TempDir())) {
			all = append(all, p+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return all
}

// Links holds that a link of a droplet, and one that an app leaves, lead nowhere but into its own container, which create
// makes of this machine's stack with that layer.
func Links(t *testing.T, create func(cell.Layer) cell.Container) {
	t.Helper()
	out := t.TempDir()
	must(t, os.Chmod(out, 0o777))
	must(t, os.WriteFile(filepath.Join(out, "secret"), []byte("s"), 0o666))
	droplet := tarOf(t, tar.Header{Name: "out", Linkname: out, Typeflag: tar.TypeSymlink, Mode: 0o777},
		tar.Header{Name: "up", Linkname: "../../../../../../../../../../.." + out, Typeflag: tar.TypeSymlink, Mode: 0o777})
	c := create(cell.Layer{Digest: strings.Repeat("a", 64), Dir: "/home/vcap", Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(droplet)), nil
	}})
	Refused(t, c,
		[2]string{"read=/home/vcap/out/secret", "ENOENT"},
		[2]string{"read=/home/vcap/up/secret", "ENOENT"},
		[2]string{"link=" + out + ":/home/vcap/result", "done"},
		[2]string{"link=" + out + ":/tmp/app", "done"},
		[2]string{"link=" + out + ":/home/vcap/app", "done"},
	)
	for _, name := range []string{"/home/vcap/out/secret", "/home/vcap/up/secret", "/home/vcap/result/secret", "/tmp/app/secret"} {
		if rc, err := c.StreamOut(t.Context(), name); err == nil {
			t.Errorf("%s can be read", name)
			_ = rc.Close()
		}
	}
	evil := tarOf(t, tar.Header{Name: "evil", Typeflag: tar.TypeReg, Mode: 0o600})
	for _, name := range []string{"/home/vcap/result", "/tmp/app", "/home/vcap/up"} {
		if c.StreamIn(t.Context(), name, bytes.NewReader(evil)) == nil {
			t.Errorf("%s is followed", name)
		}
	}
	// A process that begins where a link stands.
	if _, err := c.Run(t.Context(), cell.Process{ID: "there", Path: "true", Dir: "/home/vcap/app/made"}, cell.IO{}); err == nil {
		t.Error("a process begins behind a link")
	}
	all, err := os.ReadDir(out)
	must(t, err)
	if len(all) != 1 {
		t.Errorf("behind the links are %v", all)
	}
	// A stack is no place for files.
	for _, name := range []string{"/usr/x", "/etc", "/proc", "/", "/run/dewpoint"} {
		if err := c.StreamIn(t.Context(), name, bytes.NewReader(evil)); err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.StreamOut(t.Context(), "/etc/passwd"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("/etc/passwd: %v", err)
	}
}

func tarOf(t *testing.T, all ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range all {
		must(t, w.WriteHeader(&h))
	}
	must(t, w.Close())
	return b.Bytes()
}
