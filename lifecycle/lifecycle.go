package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// ProgramName is the file name that makes an executable the lifecycle program.
	ProgramName = "dewpoint-lifecycle"

	// handshakeEnv tells a role that descriptor 3 is open and waited for. Without it 3 may
	// be anybody's, so nothing is written there.
	handshakeEnv    = "DEWPOINT_HANDSHAKE"
	handshakePrefix = "dewpoint-lifecycle/1 "
)

func init() {
	Run("check", func([]string) int { return 0 })
	RunLate("init", runInit)
	Run("builder", runBuilder)
	Run("launcher", runLauncher)
	Run("shell", runShell)
	Run("entrypoint", runEntrypoint)
}

// Run makes this process a role, if it was started as one: if its executable file is named
// [ProgramName] and the last element of argv[0] is role. Then it tells the one who waits
// (see [Program.Start]), runs fn with the arguments that follow argv[0], and exits with
// what fn returns; Run does not return. In any other process it does nothing.
//
// Call it from an init function. Functions registered to run at exit don't run.
func Run(role string, fn func(args []string) int) {
	RunLate(role, func(args []string, ready func(error)) int {
		ready(nil)
		return fn(args)
	})
}

// RunLate is Run for a role that tells itself when it is ready, or why it cannot be.
func RunLate(role string, fn func(args []string, ready func(error)) int) {
	if !isRole(role) {
		return
	}
	ready := handshake(role)
	// os.Exit would hold every role of a race-enabled host for a second.
	syscall.Exit(fn(os.Args[1:], ready))
}

func isRole(role string) bool {
	if len(os.Args) == 0 || filepath.Base(os.Args[0]) != role {
		return false
	}
	exe, err := os.Executable()
	return err == nil && strings.TrimSuffix(filepath.Base(exe), ".exe") == ProgramName
}

// handshake returns what tells the waiting side, once, that the role runs.
func handshake(role string) func(error) {
	asked := os.Getenv(handshakeEnv) == "3"
	_ = os.Unsetenv(handshakeEnv)
	if !asked {
		return func(error) {}
	}
	closeOnExec(3)
	f := os.NewFile(3, "handshake")
	return func(err error) {
		if f == nil {
			return
		}
		line := handshakePrefix + role
		if err != nil {
			line += " " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		_, _ = fmt.Fprintln(f, line)
		_ = f.Close()
		f = nil
	}
}
