package outward

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/rule"
)

// selfTable is the fabric's firewall table that translates the host's addresses.
const selfTable = "snapctl-self"

// translate makes the host's addresses of the gateway's, where packets leave by a device of
// Channels, and the gateway's of the host's where they come in by one. There is no state, as there is
// none where programs do the same (fastpath.Remotes.SetSelf): so connections go on when channels
// become of another kind. Without addresses there is no table.
func (r Routes) translate(a4, a6 netip.Addr) error {
	t := newTransaction(selfTable)
	// After the tables that drop, which see the host's addresses, and before anything routes.
	t.chain("prerouting", unix.NF_INET_PRE_ROUTING, -299)
	t.chain("postrouting", unix.NF_INET_POST_ROUTING, 300)
	for _, n := range r.Nets {
		f, a := families[0], a4
		if n.Gateway.Is6() {
			f, a = families[1], a6
		}
		if !a.IsValid() {
			continue
		}
		for _, device := range r.Channels {
			toHost := slices.Concat(rule.In(device), rule.Addr(rule.Target, netip.PrefixFrom(a, a.BitLen())))
			t.rule("prerouting", slices.Concat(toHost, f.quoting(a), f.requote(n.Gateway)))
			t.rule("prerouting", slices.Concat(toHost, f.put(f.target, n.Gateway)))
			t.rule("postrouting", slices.Concat(rule.Out(device), rule.Addr(rule.Source, netip.PrefixFrom(n.Gateway, a.BitLen())), f.put(f.source, a)))
		}
	}
	if !a4.IsValid() && !a6.IsValid() {
		t.remove()
	}
	if err := t.commit(r.NS); err != nil {
		return fmt.Errorf("translate the host's addresses: %w", err)
	}
	return nil
}

// header is what differs between IPv4 and IPv6 headers.
type header struct{ source, target, size uint32 } // offsets of the addresses, and their size

var families = []header{{12, 16, 4}, {8, 24, 16}}

// put replaces an address of the IP header, and corrects the checksums that it is part of: that of an
// IPv4 header, and those of TCP, UDP and ICMPv6 (their pseudo header has it), also where only a
// packet's device will make them.
func (f header) put(offset uint32, a netip.Addr) []expr.Any {
	const headerSum = 10
	p := &expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size,
		CsumType: expr.CsumTypeInet, CsumOffset: headerSum, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
	}
	return []expr.Any{&expr.Immediate{Register: 1, Data: a.AsSlice()}, p}
}

// quoted is where an ICMP error has the source of the packet that it is about.
func (f header) quoted() uint32 {
	const icmpLen = 8
	return icmpLen + f.source
}

// quoting matches an ICMP error about a packet from an address.
func (f header) quoting(a netip.Addr) []expr.Any {
	proto, first, last := byte(unix.IPPROTO_ICMP), byte(3), byte(12) // RFC 792: not echo and its answer, 8 and 0
	if a.Is6() {
		proto, first, last = unix.IPPROTO_ICMPV6, 1, 127 // RFC 4443
	}
	at := func(offset, size uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size}
	}
	compare := func(op expr.CmpOp, data ...byte) []expr.Any {
		return []expr.Any{&expr.Cmp{Op: op, Register: 1, Data: data}}
	}
	return slices.Concat(
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}}, compare(expr.CmpOpEq, proto),
		[]expr.Any{at(0, 1)}, compare(expr.CmpOpGte, first), compare(expr.CmpOpLte, last), compare(expr.CmpOpNeq, 8),
		[]expr.Any{at(f.quoted(), f.size)}, compare(expr.CmpOpEq, a.AsSlice()...),
	)
}

// requote replaces the address that an ICMP error quotes, and corrects the error's checksum. The
// checksum of a quoted IPv4 header stays as it is: nobody looks at it.
func (f header) requote(a netip.Addr) []expr.Any {
	const icmpSum = 2
	return []expr.Any{&expr.Immediate{Register: 1, Data: a.AsSlice()}, &expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: f.quoted(), Len: f.size,
		CsumType: expr.CsumTypeInet, CsumOffset: icmpSum,
	}}
}

// marshal is an expression as the kernel reads it. An IPv6 header has no checksum of its own, but
// package expr leaves the flags for those behind it out of a payload statement without one: so the
// statement has one first.
func marshal(e expr.Any) ([]byte, error) {
	raw, err := expr.Marshal(unix.NFPROTO_INET, e)
	p, ok := e.(*expr.Payload)
	if err != nil || !ok || p.CsumFlags == 0 || p.Len != 16 {
		return raw, err
	}
	kind := binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, 8), unix.NFTA_PAYLOAD_CSUM_TYPE)
	at := bytes.Index(raw, binary.BigEndian.AppendUint32(kind, uint32(expr.CsumTypeInet)))
	if at < 0 {
		return nil, fmt.Errorf("statement %+v has no kind of checksum", p)
	}
	copy(raw[at+4:], []byte{0, 0, 0, 0})
	return raw, nil
}
