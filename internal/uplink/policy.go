package uplink

import (
	"net/netip"
	"strings"
)

// Rule allows to reach something, or refuses it. It is what cell.EgressRule says, and is plain data.
type Rule struct {
	Deny     bool         `json:"deny,omitempty"`
	Network  netip.Prefix `json:"network"`
	Protocol string       `json:"protocol,omitempty"`
	From     uint16       `json:"from,omitempty"`
	To       uint16       `json:"to,omitempty"`
}

func (r Rule) fits(protocol string, to netip.AddrPort) bool {
	return r.Network.Contains(to.Addr()) && (r.Protocol == "" || r.Protocol == protocol) &&
		(r.From == 0 || to.Port() >= r.From && to.Port() <= max(r.From, r.To))
}

// Resolver is who resolves names for containers: what is sent there goes to this machine's own resolvers, whatever
// the rules.
var Resolver = netip.MustParseAddr("169.254.207.53")

const namesPort = 53

// Inside is the network of which containers have their addresses. Each is alone there.
var Inside = netip.MustParsePrefix("10.254.0.0/16")

// allows tells whether a container may reach something. Machine are the addresses of this machine. The first rule that fits
// decides, and what fits none is refused; no rules (nil) allow all. Refused are in any case other containers and what
// is link-local, such as the metadata of a cloud, and this machine but for what a rule allows that names one address.
func allows(rules []Rule, machine []netip.Addr, protocol string, to netip.AddrPort) bool {
	a := to.Addr()
	if !a.Is4() || !a.IsGlobalUnicast() || Inside.Contains(a) {
		return false
	}
	own := false
	for _, m := range machine {
		own = own || m == a
	}
	for _, r := range rules {
		if r.fits(protocol, to) && (!own || r.Network.IsSingleIP()) {
			return !r.Deny
		}
	}
	return rules == nil && !own
}

// ResolverFile is /etc/resolv.conf of a container, made of this machine's.
func ResolverFile(machine string) string {
	var b strings.Builder
	b.WriteString("nameserver " + Resolver.String() + "\n")
	for l := range strings.Lines(machine) {
		if f := strings.Fields(l); len(f) > 1 && (f[0] == "search" || f[0] == "domain" || f[0] == "options") {
			b.WriteString(strings.Join(f, " ") + "\n")
		}
	}
	return b.String()
}

// nameservers are those of this machine, by the text of its /etc/resolv.conf; without any its own, as resolv.conf(5) says.
func nameservers(text string) (all []netip.AddrPort) {
	for l := range strings.Lines(text) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				all = append(all, netip.AddrPortFrom(a, namesPort))
			}
		}
	}
	if len(all) == 0 {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), namesPort))
	}
	return all
}
