package uplink

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nic = 1
	// mtu is the device's.
	mtu = 65520
	// queued is how many packets may wait for a container that is slow to take them; more are lost, as on any line.
	queued = 512
	// connections and flows bound what one container has open at a time, of TCP and of UDP.
	connections = 1024
	flows       = 256
	// This process is not limited as the container is, so it must not hold whatever that likes: in each direction, wide bytes for
	// the first fast connections, for which that many are quicker, and for the others room for a packet.
	fast   = 128
	wide   = 512 << 10
	narrow = 64 << 10
	// opening is how many connections of TCP may be being opened.
	opening = 256

	shakeWait = 10 * time.Second
	dialWait  = 30 * time.Second
	flowWait  = 90 * time.Second // after which UDP in which nothing comes is over
	namesWait = 3 * time.Second  // for one resolver
)

// line is the way out of one container.
type line struct {
	tun    *os.File
	allows func(protocol string, to netip.AddrPort) bool
	names  func() []netip.AddrPort
	socket func(ctx context.Context, network, address string) (net.Conn, error) // opens one of this machine's

	stack  *stack.Stack
	out    *channel.Endpoint
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	tcp    atomic.Int64 // open
	udp    atomic.Int64
}

// open takes a device, which is closed by close.
func open(tun *os.File, allows func(string, netip.AddrPort) bool, names func() []netip.AddrPort,
	socket func(context.Context, string, string) (net.Conn, error)) (*line, error) {
	l := &line{tun: tun, allows: allows, names: names, socket: socket, out: channel.New(queued, mtu, "")}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.out.LinkEPCapabilities = stack.CapabilityRXChecksumOffload // what a kernel of this very machine sends has come whole
	l.stack = stack.New(stack.Options{NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol}})
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(false)
	errs := []tcpip.Error{
		l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack),
		l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &moderate),
		l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: narrow, Max: wide}),
		l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: narrow, Max: wide}),
		l.stack.CreateNIC(nic, l.out),
		l.stack.SetPromiscuousMode(nic, true), // it is everybody
		l.stack.SetSpoofing(nic, true),
	}
	for _, err := range errs {
		if err != nil {
			l.close()
			return nil, errors.New(err.String())
		}
	}
	l.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	l.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(l.stack, 0, opening, l.connect).HandlePacket)
	l.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(l.stack, l.flow).HandlePacket)
	l.wg.Go(l.read)
	l.wg.Go(l.write)
	return l, nil
}

// close ends all that goes by it.
func (l *line) close() {
	l.cancel()
	_ = l.tun.Close()
	l.stack.Destroy()
	l.wg.Wait()
}

// read takes what the container sends.
func (l *line) read() {
	b := make([]byte, mtu)
	for {
		n, err := l.tun.Read(b)
		if err != nil {
			return
		}
		if n == 0 || header.IPVersion(b[:n]) != header.IPv4Version {
			continue
		}
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append([]byte(nil), b[:n]...))})
		l.out.InjectInbound(ipv4.ProtocolNumber, p)
		p.DecRef()
	}
}

// write gives it what is for it.
func (l *line) write() {
	for {
		p := l.out.ReadContext(l.ctx)
		if p == nil {
			return
		}
		v := p.ToView()
		_, err := l.tun.Write(v.AsSlice())
		v.Release()
		p.DecRef()
		if errors.Is(err, os.ErrClosed) {
			return
		} // else it is lost, as on any line
	}
}

// target is whom what goes to an address is for.
func target(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(id.LocalAddress.As4()), id.LocalPort)
}

func isNames(to netip.AddrPort) bool { return to == netip.AddrPortFrom(Resolver, namesPort) }

// connect answers who opens a connection of TCP: as the world does, once that is known.
func (l *line) connect(r *tcp.ForwarderRequest) {
	to, size := target(r.ID()), int64(narrow)
	n := l.tcp.Add(1)
	if n <= fast {
		size = wide
	}
	if n > connections || !isNames(to) && !l.allows("tcp", to) {
		l.tcp.Add(-1)
		r.Complete(true)
		return
	}
	l.wg.Go(func() {
		defer l.tcp.Add(-1)
		far, err := l.dial("tcp", to, dialWait)
		if err != nil {
			r.Complete(true)
			return
		}
		defer func() { _ = far.Close() }() // all was said, or cannot be
		var wq waiter.Queue
		ep, err := l.shake(r, &wq)
		r.Complete(false)
		if err != nil {
			return
		}
		near := gonet.NewTCPConn(&wq, ep)
		defer func() { _ = near.Close() }()
		defer context.AfterFunc(l.ctx, func() { stop(near); stop(far) })()
		ep.SocketOptions().SetReceiveBufferSize(size, true)
		ep.SocketOptions().SetSendBufferSize(size, true)
		ep.SocketOptions().SetKeepAlive(true) // of a container that has gone nothing else is heard
		done := make(chan struct{})
		go func() {
			defer close(done)
			pass(far.(*net.TCPConn), near)
		}()
		pass(near, far.(*net.TCPConn))
		<-done
	})
}

// shake answers, and waits for the container to confirm: not for long, as it is next door, and not after it has gone.
func (l *line) shake(r *tcp.ForwarderRequest, wq *waiter.Queue) (tcpip.Endpoint, error) {
	ctx, cancel := context.WithTimeout(l.ctx, shakeWait)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	defer context.AfterFunc(ctx, func() {
		for { // it may not wait yet
			wq.Notify(waiter.WritableEvents) // what it wakes for, and looks whether there is a connection
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})()
	ep, err := r.CreateEndpoint(wq)
	if err != nil {
		return nil, errors.New(err.String())
	}
	return ep, nil
}

// half is a connection of which one direction may end before the other.
type half interface {
	net.Conn
	CloseWrite() error
}

// stop ends a connection, and who waits for something from it.
func stop(c net.Conn) {
	_ = c.SetDeadline(time.Unix(1, 0))
	_ = c.Close()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }} // the longest datagram

// pass copies one direction. Where it breaks, the other ends, too.
func pass(to, from half) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	// Not what the types know to do better: they would take buffers of their own.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *b)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		stop(to)
		stop(from)
	}
}

// dial connects to the world; for names, to the first of this machine's resolvers that answers.
func (l *line) dial(network string, to netip.AddrPort, wait time.Duration) (net.Conn, error) {
	targets := []netip.AddrPort{to}
	if isNames(to) {
		targets, wait = l.names(), namesWait
	}
	var err error
	for _, t := range targets {
		var c net.Conn
		ctx, cancel := context.WithTimeout(l.ctx, wait)
		c, err = l.socket(ctx, network, t.String())
		cancel()
		if err == nil {
			return c, nil
		}
	}
	return nil, err
}

// flow passes on what is sent to an address by UDP, and the answers.
func (l *line) flow(r *udp.ForwarderRequest) {
	to := target(r.ID())
	if l.udp.Add(1) > flows || !isNames(to) && !l.allows("udp", to) {
		l.udp.Add(-1)
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq) // at once: later the packet would be another's
	if terr != nil {
		l.udp.Add(-1)
		return
	}
	near := gonet.NewUDPConn(&wq, ep)
	l.wg.Go(func() {
		defer l.udp.Add(-1)
		defer func() { _ = near.Close() }()
		defer context.AfterFunc(l.ctx, func() { stop(near) })()
		if isNames(to) {
			l.resolve(near)
			return
		}
		far, err := l.dial("udp", to, dialWait)
		if err != nil {
			return
		}
		defer func() { _ = far.Close() }()
		defer context.AfterFunc(l.ctx, func() { _ = far.Close() })()
		var last atomic.Int64 // when something came
		last.Store(time.Now().UnixNano())
		done := make(chan struct{})
		go func() {
			defer close(done)
			datagrams(far, near, &last)
		}()
		datagrams(near, far, &last)
		<-done
	})
}

// datagrams copies one direction until nothing has come in either for a while.
func datagrams(to, from net.Conn, last *atomic.Int64) {
	defer stop(to)
	defer stop(from)
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for {
		_ = from.SetReadDeadline(time.Unix(0, last.Load()).Add(flowWait))
		n, err := from.Read(*b)
		if errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err) {
			if time.Since(time.Unix(0, last.Load())) >= flowWait {
				return
			}
			continue
		}
		if err != nil {
			return
		}
		last.Store(time.Now().UnixNano())
		if _, err := to.Write((*b)[:n]); err != nil && !isTimeout(err) {
			return
		}
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// resolve asks this machine's resolvers, one after the other until one answers, what the container asks.
func (l *line) resolve(near net.Conn) {
	b := make([]byte, 64<<10)
	for {
		_ = near.SetReadDeadline(time.Now().Add(flowWait))
		n, err := near.Read(b)
		if err != nil {
			return
		}
		for _, server := range l.names() {
			answer, err := l.askNames(server, b[:n])
			if err == nil {
				_, _ = near.Write(answer) // who has gone does not want it
				break
			}
		}
	}
}

func (l *line) askNames(server netip.AddrPort, question []byte) ([]byte, error) {
	c, err := l.socket(l.ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // it was heard, or not
	defer context.AfterFunc(l.ctx, func() { _ = c.Close() })()
	_ = c.SetDeadline(time.Now().Add(namesWait))
	if _, err := c.Write(question); err != nil {
		return nil, err
	}
	answer := make([]byte, 64<<10)
	n, err := c.Read(answer)
	return answer[:n], err
}
