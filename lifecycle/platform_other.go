//go:build !unix

package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const supported = false

func closeOnExec(int) {}

func unsupported(role string) int {
	fmt.Fprintf(os.Stderr, "%s: not on this operating system\n", role)
	return 1
}

func runInit(_ []string, ready func(error)) int { ready(errors.ErrUnsupported); return 1 }
func runBuilder([]string) int                   { return unsupported("builder") }
func runLauncher([]string) int                  { return unsupported("launcher") }
func runEntrypoint([]string) int                { return unsupported("entrypoint") }
func runShell([]string) int                     { return unsupported("shell") }

func processStart(int) (uint64, bool) { return 0, false }
func bootID() string                  { return "" }

func signalProcess(int, syscall.Signal) error    { return errors.ErrUnsupported }
func killLeft(started, string) error             { return errors.ErrUnsupported }
func initSignal(s syscall.Signal) syscall.Signal { return s }
