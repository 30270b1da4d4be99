package attacktest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Users holds what a cell promises of images that have users of their own, first and following on the machine: their root has power over
// them and their files, and over nothing else. Open opens the cell over the folder dir.
func Users(t *testing.T, first int, dir string, open func(t *testing.T, roots cell.ImageRoots) (r cell.Runtime, closed func())) {
	t.Helper()
	roots, out := image(t, first)
	for _, private := range []string{"data/app", "data/root"} {
		must(t, os.WriteFile(filepath.Join(roots.Dir, private), []byte(private), 0o600))
		must(t, os.Chown(filepath.Join(roots.Dir, private), first, first))
	}
	must(t, os.Chown(filepath.Join(roots.Dir, "data/app"), first+1234, first+1235))
	r, closed := open(t, roots)
	defer closed()
	create := func(id, user string) (cell.Container, error) {
		return r.Create(t.Context(), cell.Creation{ID: id, Spec: cell.Spec{Image: "registry.example/app@sha256:" + strings.Repeat("a", 64), User: user, Ports: []int{80}}})
	}
	root, err := create("root", "")
	must(t, err)
	// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, sys_chroot, setfcap (capability.h)
	const powers = "00000000800401fb"
	asRoot := [][2]string{
		{"ids", "0 0 0 0"}, {"status=Groups", "0"}, {"status=CapEff", powers}, {"status=CapPrm", powers}, {"status=CapBnd", powers}, {"status=CapInh", strings.Repeat("0", 16)},
		{"status=CapAmb", strings.Repeat("0", 16)}, {"status=NoNewPrivs", "1"}, {"status=Seccomp", "2"},
		// Over its own.
		{"read=/data/app", "data/app"}, {"read=/data/root", "data/root"}, {"write=/etc/made", "done"}, {"write=/made", "done"},
		{"chown=/etc/made:1234", "done"}, {"chown=/etc/made:65535", "done"}, {"chown=/etc/made:65536", "EINVAL"},
		// Over nothing else.
		{"list=/run/dewpoint/states", "ENOENT|EACCES"}, {"append=/run/dewpoint/dewpoint-lifecycle", "EROFS|EACCES|ETXTBSY|ENOENT"},
		{"chown=/run/dewpoint:0", "EPERM|EROFS"}, {"write=/run/dewpoint/x", "EACCES|EROFS"}, {"write=/dev/x", "EACCES|EROFS"},
		{"read=/root-of-1" + out + "/secret", "ENOENT|EACCES"}, {"list=/proc/1/cwd/", "EACCES"}, {"read=/proc/1/environ", "EACCES|EPERM"}, {"list=/proc/1/fd", "EACCES|EPERM"},
		{"kill=1", "EPERM"}, {"ptrace=1", "EPERM"}, {"seize=1", "EPERM"}, {"peek=1", "EPERM"},
		{"mount", "EPERM"}, {"remount", "EPERM"}, {"umount", "EPERM"}, {"unshare", "EPERM"}, {"clone", "EPERM"}, {"clone3", "ENOSYS|EPERM"}, {"setns", "EACCES|EPERM"},
		{"device", "EPERM"}, {"hostname", "EPERM"}, {"keyctl", "EPERM"}, {"bpf", "EPERM"}, {"perf", "EPERM"}, {"uring", "EPERM"}, {"userfault", "EPERM"},
		{"append=/proc/sysrq-trigger", "EROFS|EACCES|ENOENT"}, {"append=/proc/sys/kernel/core_pattern", "EROFS|EACCES"}, {"append=/proc/sys/net/ipv4/ip_forward", "EROFS|EACCES"},
		{"address", "EPERM"}, {"handed", "none"},
		{"setgroups", "done"}, {"setuid=65536", "EINVAL"}, {"chroot", "done"},
	}
	refused(t, root, "main", asRoot)
	expect(t, asRoot, func(attacks []string) []string { return beside(t, root, nil, attacks...) })
	expect(t, asRoot, func(attacks []string) []string {
		return beside(t, root, &cell.TerminalSize{Columns: 80, Rows: 25}, attacks...)
	})
	// It becomes another, for ever.
	refused(t, root, "drops", [][2]string{{"setuid=1234", "done"}, {"ids", "1234 1234 0 0"}, {"status=CapEff", strings.Repeat("0", 16)}, {"setuid=0", "EPERM"},
		{"read=/data/root", "EACCES"}, {"read=/data/app", "data/app"}})
	// Whatever it puts in the place of what the cell has brought.
	refused(t, root, "puts", [][2]string{{"write=/run/mine", "done"}, {"move=/run:/run.old", "EBUSY|EXDEV|done"}, {"replace=/run/dewpoint", "EBUSY|EXDEV|ENOENT|done"}})
	refused(t, root, "after", [][2]string{{"ids", "0 0 0 0"}, {"status=CapEff", powers}})

	// While others are started nothing of the machine is within its reach, even for a moment.
	watches, err := root.(cell.Execer).Exec(t.Context(), cell.Process{Path: "lifecycle:attack", Args: []string{"watch=/"}}, nil)
	must(t, err)
	said := bufio.NewReader(watches.Stdout())
	begun, err := said.ReadString('\n')
	must(t, err)
	for range 3 {
		expect(t, [][2]string{{"ids", "0 0 0 0"}}, func(attacks []string) []string { return beside(t, root, nil, attacks...) })
	}
	must(t, watches.Signal(t.Context(), "TERM"))
	rest, err := io.ReadAll(said)
	must(t, errors.Join(err, watches.Close()))
	if begun != "watches\n" || string(rest) != "watch nothing\n" {
		t.Errorf("while others are started, / is changed: %s%s", begun, rest)
	}
	preload(t, roots.Dir, func() cell.Container {
		c, err := create("preload", "")
		must(t, err)
		return c
	})

	// A link in the place of what the cell puts there leads it nowhere, by whatever way.
	for i, to := range []string{"/proc/self/root/run/dewpoint/states/main", "/proc/self/root" + dir, "/proc/1/root" + dir, "/../../../../.." + dir} {
		id := fmt.Sprint("links", i)
		links, err := create(id, "")
		must(t, err)
		refused(t, links, "main", [][2]string{{"move=/run:/run.old", "done"}, {"link=" + to + ":/run", "done"}})
		if run, err := links.Run(t.Context(), cell.Process{ID: "after", Path: "lifecycle:attack"}, cell.IO{}); err == nil {
			_, err = run.Wait(t.Context())
			must(t, err)
		}
		must(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			if path := strings.TrimPrefix(name, dir); filepath.Base(path) == "dewpoint" && (filepath.Dir(path) == "/" || strings.Contains(path, "/state-")) {
				t.Errorf("by %s it makes %s", to, name)
			}
			return nil
		}))
		must(t, links.Destroy(t.Context()))
	}
	// Few open files are enough for a start.
	few, err := r.Create(t.Context(), cell.Creation{ID: "few", Spec: cell.Spec{Image: "registry.example/app@sha256:" + strings.Repeat("a", 64), NoFile: 10}})
	must(t, err)
	refused(t, few, "main", [][2]string{{"ids", "0 0 0 0"}})
	must(t, few.Destroy(t.Context()))

	app, err := create("app", "app")
	must(t, err)
	refused(t, app, "main", [][2]string{{"ids", "1234 1234 1235 1235"}, {"status=CapEff", strings.Repeat("0", 16)}, {"status=CapBnd", strings.Repeat("0", 16)},
		{"setuid=0", "EPERM"}, {"chroot", "EPERM"}, {"read=/data/app", "data/app"}, {"read=/data/root", "EACCES"}, {"write=/tmp/mine", "done"}, {"write=/etc/x", "EACCES"}})
	for id, c := range map[string]cell.Container{"root": root, "app": app} {
		must(t, c.StreamIn(t.Context(), "/tmp/in", bytes.NewReader(tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644}))))
		refused(t, c, "owns", [][2]string{{"write=/tmp/in/of-" + id, "done"}, {"append=/tmp/in/f", "done"},
			{"write=/of-" + id, map[string]string{"root": "done", "app": "EACCES"}[id]}})
	}
	_, err = create("many", "65536")
	if err == nil || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "65536") {
		t.Errorf("user 65536: %v", err)
	}
	// What is written is whose it says, and of nobody else on the machine.
	made, err := root.StreamOut(t.Context(), "/etc/made")
	must(t, err)
	info, err := made.(*os.File).Stat()
	must(t, errors.Join(err, made.Close()))
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != first+65535 || int(st.Gid) != first+65535 {
		t.Errorf("a file of user 65535 is on the machine that of %d and group %d", st.Uid, st.Gid)
	}
	if b, err := os.ReadFile(filepath.Join(out, "secret")); err != nil || string(b) != "s" {
		t.Errorf("behind the links of the image is %q, %v", b, err)
	}
	for _, c := range []cell.Container{root, app} {
		must(t, c.Destroy(context.Background()))
	}

	// An image whose files are those of other users.
	must(t, os.Chown(roots.Dir, 0, 0))
	_, err = create("foreign", "")
	if err == nil || !strings.Contains(err.Error(), strconv.Itoa(first)) || !strings.Contains(err.Error(), "FirstUser") {
		t.Errorf("over files of user 0: %v", err)
	}
}

// chown gives a file to a user: NAME:NUMBER.
func chown(arg string) error {
	name, user, _ := strings.Cut(arg, ":")
	n, err := strconv.Atoi(user)
	if err != nil {
		return err
	}
	return syscall.Chown(name, n, n)
}
