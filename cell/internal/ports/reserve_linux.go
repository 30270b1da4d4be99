package ports

import (
	"io"
	"net"
	"strconv"
)

// reserve holds a name that exists once in a network namespace and goes with the program
// that holds it: no file to clean up.
func reserve(port int) (io.Closer, bool) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@dewpoint-port-" + strconv.Itoa(port), Net: "unix"})
	if err != nil {
		return nil, false
	}
	return l, true
}
