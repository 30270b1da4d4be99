package cell

import (
	"context"
	"net"
	"os"
	"strconv"

	"github.com/dewpoint-go/dewpoint/internal/handover"
)

// Dial opens a TCP connection to the port from this machine: to Host or, if Socket is set, by who connects for it inside of
// the container's own network and hands the connection over; what is sent takes no way round. Errors are those
// of [net.Dialer], so one that nobody listens at is syscall.ECONNREFUSED.
func (a Address) Dial(ctx context.Context) (net.Conn, error) {
	if a.Socket == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", a.Host)
	}
	f, err := handover.Ask(ctx, a.Socket, "tcp "+strconv.Itoa(a.Port))
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: inside(a.Host), Err: os.NewSyscallError("connect", err)}
	}
	if f == nil { // somebody else serves that socket
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: inside(a.Host), Err: os.ErrInvalid}
	}
	defer func() { _ = f.Close() }() // the connection has one of its own
	return net.FileConn(f)
}

// inside is an address of a container's own network.
type inside string

func (inside) Network() string  { return "tcp" }
func (a inside) String() string { return string(a) }
