//go:build unix

package lifecycle

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// runEntrypoint is entrypoint COMMAND [ARG…]: in an image it becomes "/bin/sh -c COMMAND" or, if that is "", the program of
// the ARGs, looked up on PATH. The folder it begins in is the command's. It is Cloud Foundry's launcher of images
// (dockerapplifecycle, launcher/main.go), and there is no droplet, so no script of one is run.
func runEntrypoint(args []string) int {
	code, err := entrypoint(args)
	fmt.Fprintln(os.Stderr, "entrypoint:", err) // it returns only with one
	return code
}

func entrypoint(args []string) (code int, err error) {
	if len(args) == 0 {
		return 1, errors.New("usage: entrypoint <command> [argument...]")
	}
	env := environ(os.Environ())
	if err := env.resolveServices(context.Background()); err != nil {
		var coded *exitError
		if errors.As(err, &coded) {
			return coded.code, err
		}
		return 1, err
	}
	env.setDatabaseURL()
	env.completeApplication()
	env.setAccount()
	argv := args[1:]
	if args[0] != "" {
		argv = []string{"/bin/sh", "-c", args[0]}
	}
	if len(argv) == 0 {
		return 1, errors.New("No start command found or specified: the image has neither entrypoint nor cmd; give a command with the push") //nolint:staticcheck // Cloud Foundry's words
	}
	if dir, err := os.Getwd(); err == nil {
		env.set("PWD", dir)
	}
	path, err := exec.LookPath(argv[0])
	switch {
	case err == nil, errors.Is(err, exec.ErrDot):
	case errors.Is(err, fs.ErrPermission):
		return 126, fmt.Errorf("%s: permission denied: it is no program, or not this user's to run", argv[0])
	case args[0] != "":
		return 127, errors.New("the image has no /bin/sh to run the command with: leave the command out, so that the image's own runs")
	default:
		return 127, fmt.Errorf("%s is not in the image, or not on its PATH", argv[0])
	}
	switch err := syscall.Exec(path, argv, env); {
	case errors.Is(err, syscall.ENOEXEC):
		return 126, fmt.Errorf("%s is no program for this machine: it is of another architecture, or a script without a first line #!", path)
	case errors.Is(err, syscall.ENOENT):
		return 127, fmt.Errorf("%s: its interpreter or loader is not in the image", path)
	default:
		return 126, fmt.Errorf("%s: %w", path, err)
	}
}

// setAccount sets HOME and USER where they are not, to what the image's passwd file says, as a login does.
func (e *environ) setAccount() {
	home, user := "/", ""
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// passwd(5): name:password:uid:gid:comment:home:shell
			p := strings.Split(lines.Text(), ":")
			if len(p) > 5 && p[2] == strconv.Itoa(os.Getuid()) {
				user = p[0]
				if p[5] != "" {
					home = p[5]
				}
				break
			}
		}
	}
	if _, ok := e.lookup("HOME"); !ok {
		e.set("HOME", home)
	}
	if _, ok := e.lookup("USER"); !ok && user != "" {
		e.set("USER", user)
	}
}
