package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
)

// Each container has a network of its own: one link to the machine, and on it one address. There is no bridge, so that what
// leaves a container goes through the machine's rules wherever it wants to.
const (
	netnsFile   = "netns"    // in a container's folder: the network is mounted there
	addressFile = "net.json" // and this is its address
	linkPrefix  = "dw"       // of the names of links of all cells of the machine
	inner       = "eth0"
)

// machineEnd is what the machine is called on every link; link-local, so that it is nothing elsewhere.
var machineEnd = netip.MustParseAddr("169.254.207.1")

var defaultSubnet = netip.MustParsePrefix("10.254.0.0/16")

// network gives containers networks of their own: links, or what CNI plugins make. A network namespace is mounted at
// netnsFile of a container's folder.
type network interface {
	// open makes ready what all containers need of the machine, or says what is missing.
	open(ctx context.Context) error
	// resolver is /etc/resolv.conf of containers.
	resolver() string
	// connect gives a container its network and address, if it has none.
	connect(ctx context.Context, c folder.Place) error
	// disconnect takes it away. Its namespace goes when it is mounted nowhere. Idempotent.
	disconnect(ctx context.Context, c folder.Place) error
	// sweep takes away what this cell's containers had that are no more.
	sweep(ctx context.Context, all []folder.Place) error
	// close lets go of what open has made, when there are no containers.
	close() error
}

// links are networks of one link each.
type links struct {
	subnet netip.Prefix
	prefix string // of the names of this cell's links
	egress []cell.EgressRule
	dns    resolvers
}

func newNetwork(name, dir string, c Config) (network, error) {
	if c.CNI != "" {
		return newPlugins(dir, c)
	}
	return newLinks(name, c)
}

func newLinks(name string, c Config) (*links, error) {
	n := &links{subnet: c.Subnet, prefix: linkPrefix + name[:6], egress: c.Egress, dns: newResolvers(c)}
	if !n.subnet.IsValid() {
		n.subnet = defaultSubnet
	}
	if !n.subnet.Addr().Is4() || n.subnet.Bits() > 30 {
		return nil, fmt.Errorf("Config.Subnet is %s: give an IPv4 network with room for some addresses", n.subnet)
	}
	n.subnet = n.subnet.Masked()
	for _, r := range c.Egress {
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("Config.Egress: %w", err)
		}
	}
	return n, nil
}

// nameservers are those of this machine that can be reached from elsewhere.
func nameservers() (all []netip.Addr) {
	for _, file := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		b, _ := os.ReadFile(file) // where there is none it names none
		for l := range strings.Lines(string(b)) {
			f := strings.Fields(l)
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(f[1]); err == nil && a.Is4() && !a.IsLoopback() {
				all = append(all, a)
			}
		}
		if len(all) > 0 {
			return all
		}
	}
	return nil
}

// resolvers are who resolves names.
type resolvers []netip.Addr

func newResolvers(c Config) resolvers {
	if c.DNS != nil {
		return c.DNS
	}
	return nameservers()
}

func (all resolvers) text() string {
	var b strings.Builder
	for _, a := range all {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}

func (n *links) resolver() string { return n.dns.text() }

// open makes ready what all containers need of the machine.
func (n *links) open(context.Context) error {
	if err := n.filter(); err != nil {
		return fmt.Errorf("rules for the network by nftables: %w; it needs root's power over the network, and nf_tables in the kernel; "+
			"without there is Config.HostNetwork", err)
	}
	const forward = "/proc/sys/net/ipv4/ip_forward"
	if b, err := os.ReadFile(forward); err == nil && strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	if err := os.WriteFile(forward, []byte("1"), 0o644); err != nil {
		return fmt.Errorf("let this machine forward what containers send: %w; set net.ipv4.ip_forward=1", err)
	}
	return nil
}

// address reads that of a container; not valid: it has none yet.
func address(c folder.Place) netip.Addr {
	var a netip.Addr
	if b, err := os.ReadFile(filepath.Join(c.Dir, addressFile)); err == nil {
		_ = json.Unmarshal(b, &a) // one that is damaged is none
	}
	return a
}

// Addresses implements folder.Engine.
func (k *kind) Addresses(c folder.Place) (all []cell.Address) {
	a := address(c)
	if !a.IsValid() {
		return nil
	}
	for _, p := range c.Spec.Ports {
		all = append(all, cell.Address{Port: p, Host: net.JoinHostPort(a.String(), strconv.Itoa(p))})
	}
	return all
}

// link is what the machine's end of a container's link is called: at most 15 bytes.
func (n *links) link(key string) string { return n.prefix + key[len(key)-7:] }

// connect gives a container its network, if it has none.
func (n *links) connect(ctx context.Context, c folder.Place) error {
	file := filepath.Join(c.Dir, netnsFile)
	if isNamespace(file) {
		if _, err := netlink.LinkByName(n.link(c.Key)); err == nil {
			return nil
		}
	}
	if err := unmountBelow(file); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	had := address(c)
	for try := 0; ; try++ {
		a := had
		if !a.IsValid() {
			a = n.pick()
		}
		err := n.make(file, n.link(c.Key), a)
		if errors.Is(err, syscall.EEXIST) && !had.IsValid() && try < 100 && ctx.Err() == nil {
			continue // somebody has that address
		}
		if err != nil {
			return err
		}
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(c.Dir, addressFile), b, 0o600)
	}
}

// pick returns any address of the subnet, but for its first and last.
func (n *links) pick() netip.Addr {
	b := n.subnet.Addr().As4()
	base := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	base += 1 + rand.Uint32N(1<<(32-n.subnet.Bits())-2)
	return netip.AddrFrom4([4]byte{byte(base >> 24), byte(base >> 16), byte(base >> 8), byte(base)})
}

// make makes a network, mounted at file, and a link to it.
func (n *links) make(file, name string, a netip.Addr) error {
	if old, err := netlink.LinkByName(name); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return fmt.Errorf("remove link %s: %w", name, err)
		}
	}
	fd, err := newNamespace(file)
	if err != nil {
		return fmt.Errorf("make a network: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err = n.plug(fd, name, a); err != nil {
		if link, e := netlink.LinkByName(name); e == nil {
			err = errors.Join(err, netlink.LinkDel(link))
		}
		return errors.Join(err, unix.Unmount(file, unix.MNT_DETACH))
	}
	return nil
}

// isNamespace tells whether a namespace is mounted at file.
func isNamespace(file string) bool {
	var st unix.Statfs_t
	return unix.Statfs(file, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// newNamespace makes a network namespace that lasts as long as it is mounted at file.
func newNamespace(file string) (fd int, err error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return -1, err
	}
	return unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// plug connects a network namespace with the machine.
func (n *links) plug(ns int, name string, a netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: inner, PeerNamespace: netlink.NsFd(ns)})
	if err != nil {
		return fmt.Errorf("make link %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644) // where there is no IPv6, good
	err = errors.Join(
		netlink.AddrAdd(link, &netlink.Addr{IPNet: host(machineEnd)}),
		netlink.LinkSetUp(link))
	if err != nil {
		return fmt.Errorf("set up link %s: %w", name, err)
	}
	mac := link.Attrs().HardwareAddr
	if err := inNamespace(ns, func() error { return n.inside(a, mac) }); err != nil {
		return fmt.Errorf("set up the network inside: %w", err)
	}
	// Fails if there is one: so an address is given once on a machine.
	err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: host(a), Scope: netlink.SCOPE_LINK, Src: machineEnd.AsSlice()})
	if err != nil {
		return fmt.Errorf("route to %s: %w", a, err)
	}
	return nil
}

func host(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }

// inNamespace does something in a network namespace.
func inNamespace(ns int, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		err := unix.Setns(ns, unix.CLONE_NEWNET)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// inside gives a network its address, and the way out.
func (n *links) inside(a netip.Addr, machine net.HardwareAddr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(inner)
	if err != nil {
		return err
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+inner+"/disable_ipv6", []byte("1"), 0o644) // where there is no IPv6, good
	i := link.Attrs().Index
	for _, do := range []func() error{
		func() error { return netlink.LinkSetUp(lo) },
		func() error { return netlink.AddrAdd(link, &netlink.Addr{IPNet: host(a)}) },
		func() error { return netlink.LinkSetUp(link) },
		func() error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: i, State: netlink.NUD_PERMANENT, IP: machineEnd.AsSlice(), HardwareAddr: machine})
		},
		func() error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: i, Dst: host(machineEnd), Scope: netlink.SCOPE_LINK})
		},
		func() error { return netlink.RouteAdd(&netlink.Route{LinkIndex: i, Gw: machineEnd.AsSlice()}) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// disconnect removes the link of a container. Its network goes when it is mounted nowhere.
func (n *links) disconnect(_ context.Context, c folder.Place) error {
	link, err := netlink.LinkByName(n.link(c.Key))
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("remove link %s: %w", n.link(c.Key), err)
	}
	return nil
}

// links lists the links of the machine. While others come and go the kernel says that its list may not be whole, and is
// asked again.
func listLinks() (all []netlink.Link, err error) {
	for range 100 {
		if all, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// sweep removes links of this cell that belong to no container.
func (n *links) sweep(_ context.Context, all []folder.Place) error {
	known := map[string]bool{}
	for _, c := range all {
		known[n.link(c.Key)] = true
	}
	found, err := listLinks()
	if err != nil {
		return err
	}
	for _, l := range found {
		name := l.Attrs().Name
		if !strings.HasPrefix(name, n.prefix) || known[name] {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("remove link %s: %w", name, err)
		}
	}
	return nil
}
