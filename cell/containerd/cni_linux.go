package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
)

// cniDir, in the cell's folder, is where it is noted what plugins have made for which container.
const cniDir = "cni"

// plugins are networks by the Container Network Interface, 0.3 to 1.1.
type plugins struct {
	file string
	path []string
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
	dns  resolvers
}

func newPlugins(dir string, c Config) (*plugins, error) {
	if c.Egress != nil {
		return nil, errors.New("Config.Egress and Config.CNI are both set: with CNI say in its list of plugins what containers may reach")
	}
	p := &plugins{file: c.CNI, path: c.CNIPath, dns: newResolvers(c)}
	if p.path == nil {
		if p.path = filepath.SplitList(os.Getenv("CNI_PATH")); len(p.path) == 0 {
			p.path = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
		}
	}
	var err error
	if p.list, err = libcni.NetworkConfFromFile(c.CNI); err != nil {
		return nil, fmt.Errorf("Config.CNI: %w; give a list of plugins (a .conflist)", err)
	}
	p.cni = libcni.NewCNIConfigWithCacheDir(p.path, filepath.Join(dir, cniDir), nil)
	return p, nil
}

func (p *plugins) open(ctx context.Context) error {
	if _, err := p.cni.ValidateNetworkList(ctx, p.list); err != nil {
		return fmt.Errorf("Config.CNI: network %s of %s: %w; plugins are looked for in %q (Config.CNIPath)", p.list.Name, p.file, err, p.path)
	}
	return nil
}

func (p *plugins) resolver() string { return p.dns.text() }

func (p *plugins) close() error { return nil }

func (p *plugins) connect(ctx context.Context, c folder.Place) error {
	file := filepath.Join(c.Dir, netnsFile)
	if address(c).IsValid() && isNamespace(file) {
		return nil
	}
	// What a program that was killed has begun, or what the machine had before it was started anew.
	if err := p.disconnect(ctx, c); err != nil {
		return err
	}
	if err := unmountBelow(file); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	a, err := p.attach(ctx, c, file)
	if err != nil {
		err = fmt.Errorf("network %s of %s: %w", p.list.Name, p.file, err)
		// Also what ctx has ended is taken away. If that fails, the file stays, so that it is tried again.
		if e := p.disconnect(context.WithoutCancel(ctx), c); e != nil {
			return errors.Join(err, e)
		}
		return errors.Join(err, unmountBelow(file), os.Remove(file))
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, addressFile), b, 0o600)
}

// attach makes a network, mounted at file, and has the plugins connect it.
func (p *plugins) attach(ctx context.Context, c folder.Place, file string) (a netip.Addr, err error) {
	ns, err := newNamespace(file)
	if err != nil {
		return a, err
	}
	defer func() { _ = unix.Close(ns) }()
	err = inNamespace(ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return a, err
	}
	made, err := p.cni.AddNetworkList(ctx, p.list, &libcni.RuntimeConf{ContainerID: c.Key, NetNS: file, IfName: inner})
	if err != nil {
		return a, err
	}
	result, err := types.GetResult(made)
	if err != nil {
		return a, err
	}
	for _, ip := range result.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP.To4()); ok {
			return a, nil
		}
	}
	return a, errors.New("its plugins gave no IPv4 address, by which the container would be reached")
}

func (p *plugins) disconnect(ctx context.Context, c folder.Place) error {
	file := filepath.Join(c.Dir, netnsFile)
	if _, err := os.Stat(file); err != nil {
		return nil //nolint:nilerr // it was never begun
	}
	if have, err := p.attachments(c.Key); len(have) > 0 || err != nil {
		return errors.Join(err, p.detach(ctx, c.Key))
	}
	// A program that was killed in the middle has noted nothing, but plugins may have. Without a namespace they let go of the rest.
	if !isNamespace(file) {
		file = ""
	}
	if err := p.cni.DelNetworkList(ctx, p.list, &libcni.RuntimeConf{ContainerID: c.Key, NetNS: file, IfName: inner}); err != nil {
		return fmt.Errorf("take the network %s of container %s away: %w", p.list.Name, c.ID, err)
	}
	return nil
}

// detach takes away what plugins have made for a container, as they were told then.
func (p *plugins) detach(ctx context.Context, key string) error {
	all, err := p.attachments(key)
	for _, a := range all {
		ns := a.NetNS
		if !isNamespace(ns) { // as after a start of the machine; then plugins let go of the rest
			ns = ""
		}
		list, e := libcni.NetworkConfFromBytes(a.Config)
		if e == nil {
			e = p.cni.DelNetworkList(ctx, list, &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: ns, IfName: a.IfName, Args: a.CniArgs})
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("take the network %s of container %s away: %w", a.Network, a.ContainerID, e))
		}
	}
	return err
}

func (p *plugins) attachments(key string) ([]*libcni.NetworkAttachment, error) {
	all, err := p.cni.GetCachedAttachments(key)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return all, err
}

func (p *plugins) sweep(ctx context.Context, all []folder.Place) error {
	known := map[string]bool{}
	for _, c := range all {
		known[c.Key] = true
	}
	have, err := p.attachments("")
	for _, a := range have {
		if !known[a.ContainerID] {
			err = errors.Join(err, p.detach(ctx, a.ContainerID))
		}
	}
	return err
}
