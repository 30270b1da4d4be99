//go:build unix

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dewpoint-go/dewpoint/droplet"
)

// launch is what the roles launcher and shell become: a shell that prepares and executes.
type launch struct {
	app    string // folder of the app; its parent is the droplet's
	shell  string
	env    environ
	quiet  bool // no lines of our own
	login  bool // of a person: .profile is left out
	script strings.Builder
}

// runLauncher is launcher APP-DIR [COMMAND [METADATA]].
func runLauncher(args []string) int {
	if len(args) < 1 || len(args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: launcher <app directory> <start command> [metadata]")
		return 1
	}
	l := &launch{env: os.Environ()}
	return l.report("launcher", l.start(args))
}

func (l *launch) start(args []string) error {
	if err := l.prepare(args[0]); err != nil {
		return err
	}
	info, err := readInfo(filepath.Join(l.root(), droplet.StagingInfoName))
	if err != nil {
		return err
	}
	command := info.StartCommand
	if len(args) > 1 && args[1] != "" {
		command = args[1]
	}
	if command == "" {
		return errors.New("no start command specified or detected in droplet")
	}
	last := "exec " + quote(l.shell) + " -c " + quote(command)
	if prefix := info.EntrypointPrefix(); prefix != "" {
		last = "exec " + quote(prefix) + " " + quote(command)
	}
	return l.become(last)
}

// runShell is shell APP-DIR [COMMAND]: what a person gets beside a running app.
func runShell(args []string) int {
	if len(args) < 1 {
		fmt.Fprintln(os.Stderr, "usage: shell <app directory> [command]")
		return 1
	}
	l := &launch{env: os.Environ(), quiet: true, login: true}
	err := l.prepare(args[0])
	if err == nil {
		last := "exec " + quote(l.shell)
		if command := strings.Join(args[1:], " "); command != "" {
			last += " -c " + quote(command)
		}
		err = l.become(last)
	}
	return l.report("shell", err)
}

func (l *launch) report(role string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", role, err) // it returns only with an error
	var coded *exitError
	if errors.As(err, &coded) {
		return coded.code
	}
	return 1
}

func readInfo(file string) (droplet.StagingInfo, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return droplet.StagingInfo{}, nil
	} else if err != nil {
		return droplet.StagingInfo{}, err
	}
	defer f.Close()
	info, err := droplet.ReadStagingInfo(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return info, err
}

func (l *launch) root() string { return filepath.Dir(l.app) }

// prepare makes the environment of the app.
func (l *launch) prepare(app string) (err error) {
	if l.app, err = filepath.Abs(app); err != nil {
		return err
	}
	if l.shell, err = findShell(); err != nil {
		return err
	}
	if err := os.Chdir(l.app); err != nil {
		return err
	}
	_ = os.MkdirAll(filepath.Join(l.root(), "tmp"), 0o755) // the droplet has it; an app may do without
	if err := l.env.resolveServices(context.Background()); err != nil {
		return err
	}
	l.env.set("HOME", l.app)
	l.env.set("TMPDIR", filepath.Join(l.root(), "tmp"))
	l.env.set("DEPS_DIR", filepath.Join(l.root(), "deps"))
	l.env.set("PWD", l.app)
	l.env.setDatabaseURL()
	l.env.completeApplication()
	return nil
}

// findShell prefers bash: buildpacks and apps write their scripts for it.
func findShell() (string, error) {
	for _, name := range []string{"bash", "sh", "/bin/bash", "/bin/sh"} {
		path, err := exec.LookPath(name)
		if err == nil || errors.Is(err, exec.ErrDot) {
			return filepath.Abs(path)
		}
	}
	return "", errors.New("no bash and no sh is on the PATH")
}

// become makes this process the shell that runs the profile scripts and then the last
// command. The scripts are sourced, at top level: what they export, declare and change, also
// the folder, is the command's. Everything is quoted into the script, as they may change
// the shell's arguments too.
func (l *launch) become(last string) error {
	l.say("Invoking pre-start scripts.")
	l.source(filepath.Join(l.root(), "profile.d"))
	l.source(filepath.Join(l.app, ".profile.d"))
	if !l.login {
		l.sourceOne(quote(filepath.Join(l.app, ".profile")))
	}
	l.say("Invoking start command.")
	l.script.WriteString(last + "\n")
	err := syscall.Exec(l.shell, []string{filepath.Base(l.shell), "-c", l.script.String()}, l.env)
	return fmt.Errorf("execute %s: %w", l.shell, err)
}

func (l *launch) say(line string) {
	if !l.quiet {
		l.script.WriteString("echo " + quote(line) + "\n")
	}
}

// source sources the scripts of a folder in the order of their names.
func (l *launch) source(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			l.sourceOne(quote(filepath.Join(dir, e.Name())))
		}
	}
}

func (l *launch) sourceOne(quoted string) {
	l.script.WriteString("if [ -f " + quoted + " ]; then . " + quoted + "; fi\n")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
