package containerd

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell"
)

// table is what the rules of this cell are called.
func (n *links) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "dewpoint-" + n.prefix}
}

// filter sets the rules for what containers send, in place of any that are there.
func (n *links) filter() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := n.table()
	c.AddTable(t) // else it could not be deleted where it is not there
	c.DelTable(t)
	c.AddTable(t)
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: prio})
		return func(parts ...[]expr.Any) {
			var all []expr.Any
			for _, p := range parts {
				all = append(all, p...)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: all})
		}
	}
	ours, anyones := n.prefix, linkPrefix

	// To the machine itself: answers, and what a rule allows that names one address.
	input := chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	input(from(ours), established(), accept())
	for _, r := range n.rules() {
		if r.Network.Bits() == 32 {
			for _, m := range match(r) {
				input(from(ours), m, verdict(r))
			}
		}
	}
	input(from(ours), reject())

	// Through it: not to other instances nor to what is link-local, such as the metadata of a cloud.
	forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	forward(to(ours), established(), accept())
	forward(to(ours), reject()) // nobody comes in but from the machine
	forward(from(ours), to(anyones), reject())
	forward(from(ours), toNetwork(netip.MustParsePrefix("169.254.0.0/16")), reject())
	forward(from(ours), toNetwork(n.subnet), reject())
	for _, r := range n.rules() {
		for _, m := range match(r) {
			forward(from(ours), m, verdict(r))
		}
	}
	forward(from(ours), reject())

	nat := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	nat(fromNetwork(n.subnet), notTo(anyones), []expr.Any{&expr.Masq{}})
	return c.Flush()
}

// unfilter removes the rules.
func (n *links) close() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := n.table()
	c.AddTable(t)
	c.DelTable(t)
	return c.Flush()
}

// rules are those of the operator, or that all is allowed; names are always resolved.
func (n *links) rules() []cell.EgressRule {
	var all []cell.EgressRule
	for _, a := range n.dns {
		to := netip.PrefixFrom(a, 32)
		all = append(all, cell.EgressRule{Network: to, Protocol: "udp", From: 53, To: 53}, cell.EgressRule{Network: to, Protocol: "tcp", From: 53, To: 53})
	}
	if n.egress == nil {
		return append(all, cell.EgressRule{Network: netip.MustParsePrefix("0.0.0.0/0")})
	}
	return append(all, n.egress...)
}

func verdict(r cell.EgressRule) []expr.Any {
	if r.Deny {
		return reject()
	}
	return accept()
}

// match is what the rule is for.
func match(r cell.EgressRule) [][]expr.Any {
	m := toNetwork(r.Network)
	if r.Protocol == "" {
		return [][]expr.Any{m}
	}
	number := map[string]byte{"icmp": unix.IPPROTO_ICMP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[r.Protocol]
	m = append(m, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}})
	if r.From != 0 {
		last := max(r.From, r.To)
		m = append(m, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binary.BigEndian.AppendUint16(nil, r.From), ToData: binary.BigEndian.AppendUint16(nil, last)})
	}
	return [][]expr.Any{m}
}

func name(key expr.MetaKey, op expr.CmpOp, prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte(prefix)}} // without its end: all that begin so
}

func from(links string) []expr.Any  { return name(expr.MetaKeyIIFNAME, expr.CmpOpEq, links) }
func to(links string) []expr.Any    { return name(expr.MetaKeyOIFNAME, expr.CmpOpEq, links) }
func notTo(links string) []expr.Any { return name(expr.MetaKeyOIFNAME, expr.CmpOpNeq, links) }

func fromNetwork(p netip.Prefix) []expr.Any { return inNetwork(p, 12) }
func toNetwork(p netip.Prefix) []expr.Any   { return inNetwork(p, 16) }

// inNetwork compares an address at an offset of the IPv4 header.
func inNetwork(p netip.Prefix, offset uint32) []expr.Any {
	a := p.Masked().Addr().As4()
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a[:]},
	}
}

func established() []expr.Any {
	bits := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bits, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// reject tells the sender at once, who would wait for long otherwise.
func reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}
