package lifecycle

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	outDevice = "eth0"
	// outMTU is the longest packet: the fewer, the faster.
	outMTU = 65520
)

// openNetwork sets up the network namespace of this process, in which there is nothing yet: its loopback, and a device
// by which all leaves that is not for addr. Who reads from the file gets it.
func openNetwork(addr netip.Addr) (*os.File, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(s) }() // only for its calls
	if err := linkUp(s, "lo", 0); err != nil {
		return nil, err
	}
	// As in Docker and Kubernetes; where the file cannot be written, low ports are root's as everywhere.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	tun := os.NewFile(uintptr(fd), "tun")
	if err = out(s, fd, addr); err != nil {
		return nil, errors.Join(err, tun.Close())
	}
	return tun, nil
}

func out(s, tun int, addr netip.Addr) error {
	r, err := unix.NewIfreq(outDevice)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, r); err != nil {
		return fmt.Errorf("make the device: %w", err)
	}
	// Only IPv4 leads out: without this the kernel would look for routers of the other.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+outDevice+"/disable_ipv6", []byte("1"), 0) // it may have none
	for _, set := range []struct {
		what uint
		addr []byte
	}{{unix.SIOCSIFADDR, addr.AsSlice()}, {unix.SIOCSIFNETMASK, []byte{255, 255, 255, 255}}} {
		if r, err = unix.NewIfreq(outDevice); err == nil {
			err = r.SetInet4Addr(set.addr)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, set.what, r)
		}
		if err != nil {
			return fmt.Errorf("address of the device: %w", err)
		}
	}
	if err := linkUp(s, outDevice, outMTU); err != nil {
		return err
	}
	return defaultRoute(s, outDevice)
}

func linkUp(s int, name string, mtu uint32) error {
	r, err := unix.NewIfreq(name)
	if err == nil && mtu > 0 {
		r.SetUint32(mtu)
		err = unix.IoctlIfreq(s, unix.SIOCSIFMTU, r)
	}
	if err == nil {
		err = unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, r)
	}
	if err == nil {
		r.SetUint16(r.Uint16() | unix.IFF_UP)
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}

// rtentry is struct rtentry of linux/route.h on 64 bits.
type rtentry struct {
	_                    uint64
	dst, gateway, mask   unix.RawSockaddrInet4
	flags                uint16
	_                    int16
	_                    uint64
	_                    uintptr
	metric               int16
	device               *byte
	mtu, window          uint64
	initialRoundTripTime uint16
}

// defaultRoute sends all by a device that has no neighbours.
func defaultRoute(s int, device string) error {
	name, err := unix.BytePtrFromString(device)
	if err != nil {
		return err
	}
	any4 := unix.RawSockaddrInet4{Family: unix.AF_INET}
	r := rtentry{dst: any4, gateway: any4, mask: any4, flags: unix.RTF_UP, device: name}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r))); e != 0 {
		return fmt.Errorf("route out: %w", e)
	}
	return nil
}
