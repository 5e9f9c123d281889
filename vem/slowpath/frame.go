package slowpath

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths and offsets of headers: Ethernet (IEEE 802.3), IPv4 (RFC 791), IPv6 (RFC 8200).
const (
	ethLen  = 14
	macLen  = 6
	etherAt = 12 // the type of what follows

	v4Len    = 20 // without options
	v4Total  = 2
	v4Frag   = 6
	v4Proto  = 9
	v4Source = 12
	v4Target = 16

	v6Len     = 40
	v6Payload = 4
	v6Next    = 6
	v6Source  = 8
	v6Target  = 24
)

// maxExtensions bounds the extension headers that are looked behind. More of them are legal,
// and never seen.
const maxExtensions = 8

// packet is what a frame says about itself.
type packet struct {
	source, target netip.Addr
	ip             []byte // the IP packet, without what the frame has behind it
	next           byte   // the protocol behind the IP header and the extensions
	fragment       bool   // it is a fragment, and not the first one
	at             int    // where in ip that protocol's header begins; len(ip) if it is not there
}

// parse reads the headers of an Ethernet frame with an IP packet. ok is false if it is
// something else, or shorter than it says.
func parse(frame []byte) (p packet, ok bool) {
	if len(frame) < ethLen {
		return packet{}, false
	}
	ip := frame[ethLen:]
	switch binary.BigEndian.Uint16(frame[etherAt:]) {
	case unix.ETH_P_IP:
		return parse4(ip)
	case unix.ETH_P_IPV6:
		return parse6(ip)
	}
	return packet{}, false
}

func parse4(ip []byte) (packet, bool) {
	if len(ip) < v4Len || ip[0]>>4 != 4 {
		return packet{}, false
	}
	header, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[v4Total:]))
	if header < v4Len || total < header || total > len(ip) {
		return packet{}, false
	}
	return packet{
		source:   netip.AddrFrom4([4]byte(ip[v4Source:])),
		target:   netip.AddrFrom4([4]byte(ip[v4Target:])),
		ip:       ip[:total],
		next:     ip[v4Proto],
		fragment: binary.BigEndian.Uint16(ip[v4Frag:])&0x1fff != 0,
		at:       header,
	}, true
}

func parse6(ip []byte) (packet, bool) {
	if len(ip) < v6Len || ip[0]>>4 != 6 {
		return packet{}, false
	}
	total := v6Len + int(binary.BigEndian.Uint16(ip[v6Payload:]))
	if total > len(ip) {
		return packet{}, false
	}
	p := packet{
		source: netip.AddrFrom16([16]byte(ip[v6Source:])),
		target: netip.AddrFrom16([16]byte(ip[v6Target:])),
		ip:     ip[:total],
		next:   ip[v6Next],
		at:     v6Len,
	}
	p.skipExtensions()
	return p, true
}

// skipExtensions moves next and at behind the extension headers (RFC 8200, section 4).
func (p *packet) skipExtensions() {
	for range maxExtensions {
		rest := p.ip[p.at:]
		if len(rest) < 8 { // each of them has at least so much
			return
		}
		switch p.next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			p.at += 8 + 8*int(rest[1])
		case unix.IPPROTO_FRAGMENT:
			p.at += 8
			if binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				p.fragment = true
				p.next = rest[0]
				return // what follows is no header
			}
		default:
			return
		}
		p.next = rest[0]
		if p.at > len(p.ip) {
			p.at = len(p.ip)
		}
	}
}

// answerable tells whether an ICMP error may answer the packet: not an ICMP error, not a later
// fragment, and nothing whose source is no single host (RFC 1812, 4.3.2.7; RFC 4443, 2.4 (e)).
func (p *packet) answerable() bool {
	if p.fragment || !single(p.source) {
		return false
	}
	switch {
	case p.source.Is4() && p.next == unix.IPPROTO_ICMP:
		return p.at < len(p.ip) && !isError4(p.ip[p.at])
	case p.source.Is6() && p.next == unix.IPPROTO_ICMPV6:
		const redirect = 137 // RFC 4861
		return p.at < len(p.ip) && p.ip[p.at] >= 128 && p.ip[p.at] != redirect
	}
	return true
}

// isError4 tells whether a type of ICMP is that of an error (RFC 792).
func isError4(kind byte) bool {
	switch kind {
	case 3, 4, 5, 11, 12: // unreachable, source quench, redirect, time exceeded, parameter problem
		return true
	}
	return false
}

// single tells whether an address can be that of one host that is somewhere else.
func single(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && (a.Is6() || a.As4()[0] < 240)
}

// turn makes a frame that came out of the device one that goes into it: its hardware
// addresses change places.
func turn(frame []byte) {
	var mac [macLen]byte
	copy(mac[:], frame[:macLen])
	copy(frame[:macLen], frame[macLen:2*macLen])
	copy(frame[macLen:2*macLen], mac[:])
}

// last returns the last address of a prefix: of an IPv4 one, its broadcast address.
func last(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(raw)
	return a
}
