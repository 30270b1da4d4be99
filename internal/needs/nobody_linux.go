package needs

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dewpoint-go/dewpoint/internal/jail"
)

// Nobody runs this program of tests again as a user without any power, and returns what it prints; it fails the test where
// that one fails. prepare puts what the tests need into a folder that is the user's home, and returns the folder to run in
// and what to add to the environment; nil: nothing. It is for root.
func Nobody(t *testing.T, prepare func(home string) (dir string, env []string), args ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("they are run so already")
	}
	const user = 65534
	if !jail.Mapped(user) {
		Missing(t, "this machine is a container without a user nobody")
	}
	home, err := os.MkdirTemp("", "nobody-") // the folders of a T.TempDir are closed to others
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(home)) })
	exe, err := os.Executable()
	check(t, err)
	cmd := exec.Command(filepath.Join(home, "again.test"), args...)
	CopyProgram(t, exe, cmd.Path)
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "GORACE=atexit_sleep_ms=0")
	if prepare != nil {
		dir, env := prepare(home)
		cmd.Dir, cmd.Env = dir, append(cmd.Env, env...)
	}
	check(t, filepath.WalkDir(home, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, user, user)
	}))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
	return string(out)
}

// CopyProgram copies a program that is to be run, by another program: what is being forked here meanwhile would hold the file open for
// writing, and who then runs it would be told that it is busy.
func CopyProgram(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
