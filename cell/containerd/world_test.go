//go:build linux

package containerd_test

import (
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var counter atomic.Int64

// next is a number that no other test has.
func next() int64 { return counter.Add(1) }

const patience = 30 * time.Second // nothing is expected to take so long

// dial tries until somebody listens.
func dial(host string) (conn net.Conn, err error) {
	for begun := time.Now(); time.Since(begun) < patience; <-time.After(5 * time.Millisecond) {
		if conn, err = net.DialTimeout("tcp", host, patience); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// world is what is beyond the machine.
type world struct {
	machine      netip.Addr // what the machine is called there
	open, closed netip.AddrPort
}

// outside makes a network beyond this one, with two servers. Stranger dials from there.
func outside(t *testing.T) (w world, stranger func(string) error) {
	t.Helper()
	ready, done := make(chan error), make(chan struct{})
	asked, answered := make(chan string), make(chan error)
	namespaces := make(chan int)
	w.machine = netip.MustParseAddr("198.51.100.1")
	there := netip.MustParseAddr("198.51.100.2")
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- err
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			ready <- err
			return
		}
		namespaces <- fd
		<-namespaces // it has a link now
		ready <- func() error {
			l, err := netlink.LinkByName("world1")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: there.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: w.machine.AsSlice()})
		}()
		var servers []net.Listener
		for _, at := range []*netip.AddrPort{&w.open, &w.closed} {
			l, err := net.Listen("tcp", there.String()+":0")
			if err != nil {
				ready <- err
				return
			}
			servers = append(servers, l)
			*at = l.Addr().(*net.TCPAddr).AddrPort()
		}
		ready <- nil
		for host := range asked {
			conn, err := net.DialTimeout("tcp", host, 2*time.Second)
			if err == nil {
				conn.Close()
			}
			answered <- err
		}
		for _, l := range servers {
			l.Close()
		}
		_ = unix.Close(fd)
		close(done)
	}()
	var fd int
	select {
	case fd = <-namespaces:
	case err := <-ready:
		require.NoError(t, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "world0"
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "world1", PeerNamespace: netlink.NsFd(fd)}))
	l, err := netlink.LinkByName("world0")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: w.machine.AsSlice(), Mask: net.CIDRMask(24, 32)}}))
	require.NoError(t, netlink.LinkSetUp(l))
	namespaces <- 0
	require.NoError(t, <-ready)
	require.NoError(t, <-ready)
	t.Cleanup(func() { close(asked); <-done; _ = netlink.LinkDel(l) })
	return w, func(host string) error { asked <- host; return <-answered }
}

var badSubnet = netip.MustParsePrefix("2001:db8::/64")
