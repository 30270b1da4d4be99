package cell

import (
	"fmt"
	"net/netip"
)

// EgressRule allows to reach something from inside of containers, or refuses it. It is plain data.
type EgressRule struct {
	Deny    bool         `json:"deny,omitempty"`
	Network netip.Prefix `json:"network"` // IPv4
	// Protocol is "tcp", "udp", "icmp" or, for all, "".
	Protocol string `json:"protocol,omitempty"`
	// From and To are the first and the last port; From 0: all; To 0: From alone.
	From uint16 `json:"from,omitempty"`
	To   uint16 `json:"to,omitempty"`
}

// Check tells what is wrong with a rule.
func (r EgressRule) Check() error {
	switch {
	case !r.Network.IsValid() || !r.Network.Addr().Is4():
		return fmt.Errorf("rule %+v: give an IPv4 network", r)
	case r.Protocol != "" && r.Protocol != "tcp" && r.Protocol != "udp" && r.Protocol != "icmp":
		return fmt.Errorf("protocol %q is not known: use tcp, udp, icmp, or none for all", r.Protocol)
	case r.From != 0 && r.Protocol != "tcp" && r.Protocol != "udp":
		return fmt.Errorf("rule %+v: ports are of tcp or udp", r)
	case r.To != 0 && r.To < r.From:
		return fmt.Errorf("rule %+v: the last port is before the first", r)
	}
	return nil
}
