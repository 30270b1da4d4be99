package uplink

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// guest is a container without a kernel: what it sends comes to a line as from a device.
type guest struct {
	t     *testing.T
	stack *stack.Stack
	raw   *os.File // packets may be written here, too
}

// abroad is what the loopback of this machine is for guests: nothing for it leaves theirs.
var abroad = netip.MustParseAddr("203.0.113.1")

func there(at net.Addr) netip.AddrPort {
	return netip.AddrPortFrom(abroad, netip.MustParseAddrPort(at.String()).Port())
}

var guestAddr = tcpip.AddrFrom4([4]byte{10, 254, 1, 1})

// devices are two ends of what takes packets as a device does.
func devices(t *testing.T) (line, container *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	for _, fd := range fds {
		for _, option := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
			require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 4<<20))
		}
	}
	return os.NewFile(uintptr(fds[0]), "tun"), os.NewFile(uintptr(fds[1]), "container")
}

func newGuest(t *testing.T, allows func(string, netip.AddrPort) bool, names ...netip.AddrPort) *guest {
	t.Helper()
	device, container := devices(t)
	l, err := open(device, allows, func() []netip.AddrPort { return names },
		func(ctx context.Context, network, address string) (net.Conn, error) {
			address = strings.Replace(address, abroad.String(), "127.0.0.1", 1)
			return (&net.Dialer{}).DialContext(ctx, network, address)
		})
	require.NoError(t, err)
	g := &guest{t: t, raw: container}
	out := channel.New(512, mtu, "")
	g.stack = stack.New(stack.Options{NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol}})
	require.Nil(t, g.stack.CreateNIC(1, out))
	require.Nil(t, g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: guestAddr.WithPrefix()}, stack.AddressProperties{}))
	g.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		b := make([]byte, mtu)
		for {
			n, err := g.raw.Read(b)
			if err != nil || n == 0 {
				return
			}
			p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(bytes.Clone(b[:n]))})
			out.InjectInbound(ipv4.ProtocolNumber, p)
			p.DecRef()
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for p := out.ReadContext(ctx); p != nil; p = out.ReadContext(ctx) {
			v := p.ToView()
			_, _ = g.raw.Write(v.AsSlice())
			v.Release()
			p.DecRef()
		}
	}()
	t.Cleanup(func() {
		l.close()
		cancel()
		assert.NoError(t, g.raw.Close())
		<-done
		<-done
		g.stack.Destroy()
	})
	return g
}

func full(to netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(to.Addr().As4()), Port: to.Port()}
}

func (g *guest) dialTCP(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, full(to), ipv4.ProtocolNumber)
}

func (g *guest) dialUDP(to netip.AddrPort) *gonet.UDPConn {
	g.t.Helper()
	a := full(to)
	c, err := gonet.DialUDP(g.stack, nil, &a, ipv4.ProtocolNumber)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

func anywhere(string, netip.AddrPort) bool { return true }

// world is a server of TCP on this machine, which here is everybody.
func world(t *testing.T, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() {
		assert.NoError(t, l.Close())
		<-done
	})
	return there(l.Addr())
}

func TestWhatIsSentComesWhole(t *testing.T) {
	t.Parallel()
	to := world(t, func(c *net.TCPConn) {
		_, _ = io.Copy(c, c)
		_ = c.CloseWrite()
		_ = c.Close()
	})
	g := newGuest(t, anywhere)
	c, err := g.dialTCP(to)
	require.NoError(t, err)
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, err := c.Write(sent)
		assert.NoError(t, err)
		assert.NoError(t, c.CloseWrite()) // the other direction goes on
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(sent, got), "%d bytes of %d", len(got), len(sent))
	require.NoError(t, c.Close())
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	to := world(t, func(c *net.TCPConn) { asked.Add(1); _ = c.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := there(l.Addr())
	require.NoError(t, l.Close())
	g := newGuest(t, func(_ string, a netip.AddrPort) bool { return a == closed })
	for name, a := range map[string]netip.AddrPort{"by the rules": to, "by the world": closed} {
		_, err := g.dialTCP(a)
		require.ErrorContains(t, err, "refused", name)
	}
	assert.Zero(t, asked.Load())
}

// An end that breaks off is one for the other side, too, and a container that goes takes its connections along.
func TestConnectionsEnd(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 2)
	to := world(t, func(c *net.TCPConn) {
		_, err := c.Read(make([]byte, 1))
		ended <- err
		_ = c.Close()
	})
	g := newGuest(t, anywhere)
	c, err := g.dialTCP(to)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	assert.Error(t, <-ended)

	t.Run("with the container", func(t *testing.T) {
		g := newGuest(t, anywhere)
		_, err := g.dialTCP(to)
		require.NoError(t, err)
	})
	assert.Error(t, <-ended)
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer far.Close()
	to := there(far.LocalAddr())
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := far.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = far.WriteTo(append([]byte("re: "), b[:n]...), from)
		}
	}()
	g := newGuest(t, func(protocol string, a netip.AddrPort) bool { return protocol == "udp" && a == to })
	c := g.dialUDP(to)
	for _, text := range []string{"one", strings.Repeat("x", 9000), "three"} {
		_, err := c.Write([]byte(text))
		require.NoError(t, err)
		b := make([]byte, 1<<16)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, err := c.Read(b)
		require.NoError(t, err)
		assert.Equal(t, "re: "+text, string(b[:n]))
	}
	other := g.dialUDP(netip.AddrPortFrom(to.Addr(), to.Port()+1))
	_, err = other.Write([]byte("refused"))
	require.NoError(t, err)
	require.NoError(t, other.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = other.Read(make([]byte, 1))
	assert.Error(t, err)
}

// Names are asked of this machine's resolvers, whatever the rules: of the next one where one does not answer.
func TestNames(t *testing.T) {
	t.Parallel()
	dead, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	deadAt := netip.MustParseAddrPort(dead.LocalAddr().String())
	require.NoError(t, dead.Close()) // an ICMP answer says so at once
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer server.Close()
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(append([]byte("answer to "), b[:n]...), from)
		}
	}()
	g := newGuest(t, func(string, netip.AddrPort) bool { return false }, deadAt, netip.MustParseAddrPort(server.LocalAddr().String()))
	c := g.dialUDP(netip.AddrPortFrom(Resolver, 53))
	for _, q := range []string{"a", "b"} {
		_, err = c.Write([]byte(q))
		require.NoError(t, err)
		b := make([]byte, 512)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, err := c.Read(b)
		require.NoError(t, err)
		assert.Equal(t, "answer to "+q, string(b[:n]))
	}
}

// A container that has gone in the middle of opening a connection holds up nobody: its line is closed, at whatever moment that is.
func TestAConnectionThatIsNeverConfirmed(t *testing.T) {
	t.Parallel()
	to := world(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)); _ = c.Close() })
	syn := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	header.IPv4(syn).Encode(&header.IPv4Fields{TotalLength: uint16(len(syn)), TTL: 64, Protocol: uint8(tcp.ProtocolNumber), SrcAddr: guestAddr,
		DstAddr: tcpip.AddrFrom4(to.Addr().As4())})
	header.IPv4(syn).SetChecksum(^header.IPv4(syn).CalculateChecksum())
	header.TCP(syn[header.IPv4MinimumSize:]).Encode(&header.TCPFields{SrcPort: 1000, DstPort: to.Port(), SeqNum: 1, DataOffset: header.TCPMinimumSize,
		Flags: header.TCPFlagSyn, WindowSize: 1000})
	for i := range 200 {
		device, container := devices(t)
		asked := make(chan struct{})
		l, err := open(device, anywhere, nil, func(_ context.Context, network, _ string) (net.Conn, error) {
			c, err := net.Dial(network, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port()).String())
			close(asked)
			return c, err
		})
		require.NoError(t, err)
		_, err = container.Write(syn)
		require.NoError(t, err)
		<-asked
		for range i * 20 {
			runtime.Gosched() // ever later
		}
		l.close()
		require.NoError(t, container.Close())
	}
}

// Whatever a container sends, its line stands.
func TestRubbish(t *testing.T) {
	t.Parallel()
	to := world(t, func(c *net.TCPConn) { _ = c.Close() })
	g := newGuest(t, anywhere)
	for i := range 2000 {
		b := make([]byte, 1+i%300)
		_, _ = rand.Read(b)
		if i%2 == 0 {
			b[0] = 0x45 // it looks like a packet
		}
		if i%4 == 0 && len(b) > 20 {
			copy(b[2:], []byte{0, byte(len(b)), 0, 0, 0, 0, 64, 6 + 11*byte(i/4%2)})
		}
		if _, err := g.raw.Write(b); err != nil && !errors.Is(err, unix.EAGAIN) {
			require.NoError(t, err)
		}
	}
	c, err := g.dialTCP(to)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}
