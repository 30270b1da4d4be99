package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/internal/uplink"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

const (
	networkFile  = "net.json" // in a container's folder, if it has a network of its own: its address there
	resolverFile = "resolv.conf"
	uplinkDir    = "uplink" // below Config.Dir: of the process by which networks reach the world
)

// network is what the containers of a cell have of networks.
type network struct {
	own    bool // new containers get one of their own
	egress []uplink.Rule
	uplink *uplink.Client
	log    *slog.Logger

	prog   *lifecycle.Program // set before anything is attached
	places func() []folder.Place
	ctx    context.Context // ends with end
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex            // guards what follows
	have     map[string]netip.Addr // by key of the container
	watching bool
}

func newNetwork(dir string, user int, c Config) (*network, error) {
	n := &network{uplink: &uplink.Client{Dir: filepath.Join(dir, uplinkDir), User: user}, log: c.Logger, have: map[string]netip.Addr{}}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	switch c.Network {
	case "", OwnNetwork:
	case HostNetwork:
		if c.Egress != nil {
			return nil, fmt.Errorf("Config.Egress needs Config.Network %q: what has this machine's network reaches what it reaches", OwnNetwork)
		}
	default:
		return nil, fmt.Errorf("Config.Network is %q: use %q or %q, or leave it empty for what works", c.Network, OwnNetwork, HostNetwork)
	}
	if c.Egress != nil { // none allow nothing
		n.egress = []uplink.Rule{}
	}
	for _, r := range c.Egress {
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("Config.Egress: %w", err)
		}
		n.egress = append(n.egress, uplink.Rule(r))
	}
	return n, nil
}

// open makes a new container's address, or finds the one it has.
func (n *network) open(c folder.Place) error {
	file := filepath.Join(c.Dir, networkFile)
	var a netip.Addr
	b, err := os.ReadFile(file)
	if err == nil {
		_ = json.Unmarshal(b, &a) // one that is damaged is none
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.IsValid() {
		n.have[c.Key] = a
		return nil
	}
	if !n.own {
		return nil
	}
	if a, err = n.pick(); err != nil {
		return err
	}
	if b, err = json.Marshal(a); err != nil {
		return err
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	n.have[c.Key] = a
	return nil
}

// pick returns an address that no other container of this cell has. Those of other cells are in other networks.
func (n *network) pick() (netip.Addr, error) {
	taken := map[netip.Addr]bool{}
	for _, a := range n.have {
		taken[a] = true
	}
	first := uplink.Inside.Masked().Addr().As4()
	for range 1000 {
		k := 1 + rand.Uint32N(1<<(32-uplink.Inside.Bits())-2)
		a := netip.AddrFrom4([4]byte{first[0], first[1], first[2] | byte(k>>8), first[3] | byte(k)})
		if !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, errors.New("there is no free address")
}

// address is that of a container; not valid: it has this machine's network.
func (n *network) address(c folder.Place) netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.have[c.Key]
}

// addresses are those of its ports; nil: they are this machine's.
func (n *network) addresses(c folder.Place) (all []cell.Address) {
	a := n.address(c)
	if !a.IsValid() {
		return nil
	}
	socket := lifecycle.Keeper{Dir: c.States}.Socket()
	for _, p := range c.Spec.Ports {
		all = append(all, cell.Address{Port: p, Host: net.JoinHostPort(a.String(), strconv.Itoa(p)), Socket: socket})
	}
	return all
}

// attach connects a container with the world.
func (n *network) attach(ctx context.Context, c folder.Place, k lifecycle.Keeper) error {
	if err := n.uplink.Attach(ctx, n.prog, c.Key, k, n.egress); err != nil {
		return err
	}
	n.watch()
	return nil
}

// close lets go of a container's network, whose processes have ended.
func (n *network) close(ctx context.Context, c folder.Place) error {
	n.mu.Lock()
	_, ok := n.have[c.Key]
	delete(n.have, c.Key)
	n.mu.Unlock()
	if !ok {
		return nil
	}
	return n.uplink.Detach(ctx, c.Key)
}

// reattach connects all that run.
func (n *network) reattach(ctx context.Context) {
	for _, c := range n.places() {
		k, alive := lifecycle.FindKeeper(c.States)
		if !alive || !n.address(c).IsValid() {
			continue
		}
		if err := n.attach(ctx, c, k); err != nil && ctx.Err() == nil {
			n.log.Error("a container reaches nothing outside", "container", c.ID, "error", err)
		}
	}
}

// watch connects those that run again when the process by which they are connected has ended.
func (n *network) watch() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watching || n.ctx.Err() != nil {
		return
	}
	n.watching = true
	n.wg.Go(func() {
		ended := n.uplink.Ended()
		select {
		case <-ended:
		case <-n.ctx.Done():
		}
		n.mu.Lock()
		n.watching = false
		n.mu.Unlock()
		n.reattach(n.ctx)
	})
}

// end ends what this program does; containers stay connected, and without any the process that connects them ends.
func (n *network) end() {
	n.cancel()
	n.wg.Wait()
	n.uplink.Leave(context.Background())
}
