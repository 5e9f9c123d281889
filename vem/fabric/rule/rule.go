// Package rule is the vocabulary of the firewall's rules. Each function returns what `nft` makes of
// the statement in its comment; a rule is several of them joined.
package rule

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Join makes a rule of statements.
func Join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// In matches what came in by a device: iifname NAME.
func In(device string) []expr.Any { return name(expr.MetaKeyIIFNAME, expr.CmpOpEq, device) }

// NotIn matches all else: iifname != NAME.
func NotIn(device string) []expr.Any { return name(expr.MetaKeyIIFNAME, expr.CmpOpNeq, device) }

// Out matches what goes out by a device: oifname NAME.
func Out(device string) []expr.Any { return name(expr.MetaKeyOIFNAME, expr.CmpOpEq, device) }

// NotOut matches all else: oifname != NAME.
func NotOut(device string) []expr.Any { return name(expr.MetaKeyOIFNAME, expr.CmpOpNeq, device) }

// InAny matches what came in by a device whose name begins so: iifname "NAME*".
func InAny(beginning string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Data: []byte(beginning)}}
}

func name(key expr.MetaKey, op expr.CmpOp, device string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, device)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

// Family matches packets of the family of an address: meta nfproto ipv4|ipv6.
func Family(a netip.Addr) []expr.Any {
	p := byte(unix.NFPROTO_IPV4)
	if a.Is6() {
		p = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{p}}}
}

// Direction is the address of a packet that a rule looks at.
type Direction int

// The addresses.
const (
	Source Direction = iota
	Target
)

// Addr matches an address: ip saddr PREFIX, ip6 daddr PREFIX and so on.
func Addr(d Direction, p netip.Prefix) []expr.Any { return matchAddr(d, expr.CmpOpEq, p) }

// NotAddr matches packets of the family with another address: ip saddr != PREFIX and so on.
func NotAddr(d Direction, p netip.Prefix) []expr.Any { return matchAddr(d, expr.CmpOpNeq, p) }

func matchAddr(d Direction, op expr.CmpOp, p netip.Prefix) []expr.Any {
	raw := p.Masked().Addr().AsSlice()
	size := uint32(len(raw))
	offset := uint32(12) // of the source in an IPv4 header
	if p.Addr().Is6() {
		offset = 8
	}
	if d == Target {
		offset += size
	}
	match := append(Family(p.Addr()),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	if !p.IsSingleIP() {
		mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
		match = append(match, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(match, &expr.Cmp{Op: op, Register: 1, Data: raw})
}

// ToHost matches what is for this host: fib daddr type local.
func ToHost() []expr.Any { return kind(unix.RTN_LOCAL) }

// Abroad matches what is for another one: fib daddr type unicast.
func Abroad() []expr.Any { return kind(unix.RTN_UNICAST) }

func kind(route uint32) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Register: 1, Data: binaryutil.NativeEndian.PutUint32(route)},
	}
}

// Forged matches what came by a device that does not lead to its source: fib saddr . iif oif missing.
func Forged() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Register: 1, Data: make([]byte, 4)},
	}
}

// Port matches a destination port: tcp dport PORT, udp dport PORT.
func Port(proto uint8, number uint16) []expr.Any { return port(proto, 2, number) }

// SourcePort matches a source port: tcp sport PORT, udp sport PORT.
func SourcePort(proto uint8, number uint16) []expr.Any { return port(proto, 0, number) }

func port(proto uint8, offset uint32, number uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Register: 1, Data: binary.BigEndian.AppendUint16(nil, number)},
	}
}

// Known matches: ct state established,related.
func Known() []expr.Any { return ctBits(expr.CtKeySTATE, expr.CmpOpNeq, ctKnown) }

// Unknown matches: ct state != { established, related }.
func Unknown() []expr.Any { return ctBits(expr.CtKeySTATE, expr.CmpOpEq, ctKnown) }

// Redirected matches: ct status dnat.
func Redirected() []expr.Any { return ctBits(expr.CtKeySTATUS, expr.CmpOpNeq, ctDNAT) }

// NotRedirected matches: ct status ! dnat.
func NotRedirected() []expr.Any { return ctBits(expr.CtKeySTATUS, expr.CmpOpEq, ctDNAT) }

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

// Accept is accept.
func Accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Drop is drop.
func Drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// Reject is reject with icmpx admin-prohibited.
func Reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// Masquerade is masquerade.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// DNAT is dnat to ADDR:PORT.
func DNAT(to netip.AddrPort) []expr.Any {
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
