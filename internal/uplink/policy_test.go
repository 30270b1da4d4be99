package uplink

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAllows(t *testing.T) {
	t.Parallel()
	machine := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fd00::2")}
	rule := func(network string) Rule { return Rule{Network: netip.MustParsePrefix(network)} }
	deny := func(r Rule) Rule { r.Deny = true; return r }
	some := []Rule{deny(Rule{Network: netip.MustParsePrefix("203.0.113.0/24"), Protocol: "tcp", From: 25}), rule("203.0.113.0/24"),
		{Network: netip.MustParsePrefix("198.51.100.0/24"), Protocol: "udp", From: 1000, To: 2000}}
	for _, c := range []struct {
		name     string
		rules    []Rule
		protocol string
		to       string
		want     bool
	}{
		{"all, without rules", nil, "tcp", "203.0.113.1:443", true},
		{"nothing, with none", []Rule{}, "tcp", "203.0.113.1:443", false},
		{"the machine, without rules", nil, "tcp", "192.0.2.2:443", false},
		{"the machine, by a network", []Rule{rule("192.0.2.0/24")}, "tcp", "192.0.2.2:443", false},
		{"the machine's neighbour", []Rule{rule("192.0.2.0/24")}, "tcp", "192.0.2.3:443", true},
		{"the machine, by its name", []Rule{rule("192.0.2.2/32")}, "tcp", "192.0.2.2:443", true},
		{"the machine, refused first", []Rule{deny(rule("192.0.2.2/32")), rule("192.0.2.2/32")}, "tcp", "192.0.2.2:443", false},
		{"loopback", nil, "tcp", "127.0.0.1:443", false},
		{"loopback, by a rule", []Rule{rule("127.0.0.1/32")}, "tcp", "127.0.0.1:443", false},
		{"metadata", nil, "tcp", "169.254.169.254:80", false},
		{"metadata, by a rule", []Rule{rule("169.254.169.254/32")}, "tcp", "169.254.169.254:80", false},
		{"another container", nil, "tcp", "10.254.7.7:8080", false},
		{"everybody", nil, "udp", "255.255.255.255:67", false},
		{"a group", nil, "udp", "224.0.0.251:5353", false},
		{"nobody", nil, "tcp", "0.0.0.0:80", false},
		{"the other protocol", nil, "tcp", "[2001:db8::1]:80", false},
		{"the first rule decides", some, "tcp", "203.0.113.9:25", false},
		{"another port", some, "tcp", "203.0.113.9:26", true},
		{"another protocol", some, "udp", "203.0.113.9:25", true},
		{"below the ports", some, "udp", "198.51.100.1:999", false},
		{"first of the ports", some, "udp", "198.51.100.1:1000", true},
		{"last of the ports", some, "udp", "198.51.100.1:2000", true},
		{"above the ports", some, "udp", "198.51.100.1:2001", false},
		{"what no rule names", some, "tcp", "198.51.100.1:1000", false},
	} {
		assert.Equal(t, c.want, allows(c.rules, machine, c.protocol, netip.MustParseAddrPort(c.to)), c.name)
	}
}

func TestResolverFiles(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "nameserver 169.254.207.53\nsearch corp.example example\noptions ndots:2\n",
		ResolverFile("# by hand\nnameserver 127.0.0.53\nsearch  corp.example example\noptions ndots:2\nsearch\n"))
	assert.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")},
		nameservers("nameserver 127.0.0.53\nnameserver\nnameserver x\n nameserver fe80::1%eth0 # comment\n"))
	assert.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, nameservers(""))
}
