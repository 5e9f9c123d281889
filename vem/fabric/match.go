package fabric

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The vocabulary of the firewall's rules. Each function returns what `nft` makes
// of the statement in its comment; a rule is several of them joined.

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// iifname NAME
func in(device string) []expr.Any { return name(expr.MetaKeyIIFNAME, expr.CmpOpEq, device) }

// iifname != NAME
func notIn(device string) []expr.Any { return name(expr.MetaKeyIIFNAME, expr.CmpOpNeq, device) }

// oifname NAME
func out(device string) []expr.Any { return name(expr.MetaKeyOIFNAME, expr.CmpOpEq, device) }

// oifname != NAME
func notOut(device string) []expr.Any { return name(expr.MetaKeyOIFNAME, expr.CmpOpNeq, device) }

func name(key expr.MetaKey, op expr.CmpOp, device string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, device)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

// meta nfproto ipv4|ipv6
func proto(a netip.Addr) []expr.Any {
	p := byte(unix.NFPROTO_IPV4)
	if a.Is6() {
		p = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{p}}}
}

// direction is the address of a packet that a rule looks at.
type direction int

const (
	source direction = iota
	target
)

// ip saddr PREFIX, ip6 daddr PREFIX ...
func addr(d direction, p netip.Prefix) []expr.Any { return matchAddr(d, expr.CmpOpEq, p) }

// ip saddr != PREFIX ...
func notAddr(d direction, p netip.Prefix) []expr.Any { return matchAddr(d, expr.CmpOpNeq, p) }

func matchAddr(d direction, op expr.CmpOp, p netip.Prefix) []expr.Any {
	raw := p.Masked().Addr().AsSlice()
	size := uint32(len(raw))
	offset := uint32(12) // of the source in an IPv4 header
	if p.Addr().Is6() {
		offset = 8
	}
	if d == target {
		offset += size
	}
	match := append(proto(p.Addr()),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	if !p.IsSingleIP() {
		mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
		match = append(match, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(match, &expr.Cmp{Op: op, Register: 1, Data: raw})
}

// fib daddr type local
func toHost() []expr.Any { return kind(unix.RTN_LOCAL) }

// fib daddr type unicast
func abroad() []expr.Any { return kind(unix.RTN_UNICAST) }

func kind(route uint32) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Register: 1, Data: binaryutil.NativeEndian.PutUint32(route)},
	}
}

// fib saddr . iif oif missing
func forged() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Register: 1, Data: make([]byte, 4)},
	}
}

// tcp dport PORT, udp dport PORT
func port(proto uint8, number uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Register: 1, Data: binary.BigEndian.AppendUint16(nil, number)},
	}
}

// ct state established,related
func known() []expr.Any { return ctBits(expr.CtKeySTATE, expr.CmpOpNeq, ctKnown) }

// ct state != { established, related }
func unknown() []expr.Any { return ctBits(expr.CtKeySTATE, expr.CmpOpEq, ctKnown) }

// ct status dnat
func redirected() []expr.Any { return ctBits(expr.CtKeySTATUS, expr.CmpOpNeq, ctDNAT) }

// ct status ! dnat
func notRedirected() []expr.Any { return ctBits(expr.CtKeySTATUS, expr.CmpOpEq, ctDNAT) }

const (
	ctKnown = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	ctDNAT  = 1 << 5 // IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
)

// ctBits compares the bits with none: op Neq is "some are set".
func ctBits(key expr.CtKey, op expr.CmpOp, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: op, Register: 1, Data: make([]byte, 4)},
	}
}

// accept
func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// drop
func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// reject with icmpx admin-prohibited
func reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// masquerade
func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// dnat to ADDR:PORT
func dnat(to netip.AddrPort) []expr.Any {
	fam := uint32(unix.NFPROTO_IPV4)
	if to.Addr().Is6() {
		fam = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: 1, RegProtoMin: 2},
	}
}
