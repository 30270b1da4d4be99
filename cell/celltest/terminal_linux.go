package celltest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// terminal describes the terminal of this process.
func terminal() string {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return "no terminal: " + err.Error()
	}
	tty, err := os.Open("/dev/tty") // there is none if the process does not control it
	if err != nil {
		return "a terminal of others: " + err.Error()
	}
	_ = tty.Close() // it was only looked at
	return fmt.Sprintf("terminal %dx%d of its own", size.Col, size.Row)
}
