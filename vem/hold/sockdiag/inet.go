package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Inet is one IPv4 or IPv6 socket.
type Inet struct {
	Family        uint8
	Proto         uint8
	State         State
	Local, Remote netip.AddrPort // IPv4 addresses of IPv6 sockets are unmapped
	Interface     uint32
	RecvQ, SendQ  uint32 // bytes; of a listener: length and limit of the accept queue
	UID           uint32
	Inode         uint32 // 0: no descriptor, as in an accept queue or after close
	Cookie        uint64
	MD5           bool // it has keys of TCP MD5 signatures; seen with CAP_NET_ADMIN only
	// Flow is what a TCP connection has carried; only if it was asked for.
	Flow Flow
	// Drops is how many packets the socket had no room for; only if it was asked for.
	Drops uint32
}

// Flow is what a TCP connection has carried, and when.
type Flow struct {
	Acked    uint64 // bytes that the other side has acknowledged; SYN and FIN count as one
	Received uint64 // bytes
	// SinceSent and SinceReceived tell how long ago the last payload went out, again or
	// for the first time, and came in. They are exact to a tick of the kernel (CONFIG_HZ),
	// and count from the connection's beginning where there was none.
	SinceSent, SinceReceived time.Duration
	// Silent tells that no payload has gone out yet: both times may then be the same.
	Silent bool
}

// InetQuery says which sockets to dump.
type InetQuery struct {
	Family uint8  // unix.AF_INET or unix.AF_INET6; a dump covers one of them
	Proto  uint8  // unix.IPPROTO_TCP or unix.IPPROTO_UDP
	States uint32 // see [States]
	// To are the remote addresses to list, IPv4 in IPv6 by its IPv4 address. Default:
	// all. The kernel chooses, so that the others cost next to nothing.
	To []netip.Prefix
	// Details are what else to tell. Default: nothing.
	Details Details
}

// Details are parts of an answer that cost the kernel more; they can be added up.
type Details uint8

// The details: bits of idiag_ext in struct inet_diag_req_v2.
const (
	WithFlow  Details = 1 << (inetInfo - 1)   // [Inet.Flow]
	WithDrops Details = 1 << (inetMemory - 1) // [Inet.Drops]
)

// struct inet_diag_req_v2 and inet_diag_msg of include/uapi/linux/inet_diag.h.
const (
	inetReqLen = 56
	inetMsgLen = 72
	inetInfo   = 2  // INET_DIAG_INFO
	inetMemory = 7  // INET_DIAG_SKMEMINFO
	inetMD5    = 18 // INET_DIAG_MD5SIG

	inetBytecode = 1 // INET_DIAG_REQ_BYTECODE
)

// Inet dumps the IPv4 or IPv6 sockets that match q.
func (c *Conn) Inet(q InetQuery) ([]Inet, error) {
	req := make([]byte, inetReqLen)
	req[0], req[1], req[2] = q.Family, q.Proto, byte(q.Details)
	binary.NativeEndian.PutUint32(req[4:], q.States)
	if len(q.To) > 0 {
		code := toOneOf(q.To)
		req = binary.NativeEndian.AppendUint16(req, uint16(4+len(code)))
		req = binary.NativeEndian.AppendUint16(req, inetBytecode)
		req = append(req, code...)
	}
	var out []Inet
	err := c.dump(req, func(msg []byte) {
		if s, ok := parseInet(msg); ok {
			s.Proto = q.Proto
			out = append(out, s)
		}
	})
	if err != nil {
		return out, fmt.Errorf("dump inet sockets: %w", err)
	}
	return out, nil
}

// toOneOf is a program that the kernel runs for each socket. An operation says how far to
// go on if it is true and if it is false; a program that ends exactly at its end accepts,
// one that goes beyond refuses (net/ipv4/inet_diag.c, inet_diag_bc_run). Where false leads
// to must be met by somebody who takes every true (valid_cc), hence the jumps.
func toOneOf(prefixes []netip.Prefix) []byte {
	const (
		jump       = 1 // INET_DIAG_BC_JMP: always false
		remoteCond = 8 // INET_DIAG_BC_D_COND, struct inet_diag_hostcond follows
		opSize     = 4
		condSize   = opSize + 8
	)
	ne := binary.NativeEndian
	total := -opSize // the last one needs no jump
	for _, p := range prefixes {
		total += condSize + p.Addr().BitLen()/8 + opSize
	}
	b := make([]byte, 0, total)
	for i, p := range prefixes {
		size := condSize + p.Addr().BitLen()/8
		b = ne.AppendUint16(append(b, remoteCond, byte(size)), uint16(size+opSize))
		family := byte(unix.AF_INET)
		if p.Addr().Is6() {
			family = unix.AF_INET6
		}
		b = ne.AppendUint32(append(b, family, byte(p.Bits()), 0, 0), ^uint32(0)) // any port
		b = append(b, p.Addr().AsSlice()...)
		if i < len(prefixes)-1 {
			b = ne.AppendUint16(append(b, jump, opSize), uint16(total-len(b)))
		}
	}
	return b
}

func parseInet(b []byte) (Inet, bool) {
	if len(b) < inetMsgLen {
		return Inet{}, false
	}
	ne, be := binary.NativeEndian, binary.BigEndian
	s := Inet{
		Family:    b[0],
		State:     State(b[1]),
		Interface: ne.Uint32(b[40:]),
		Cookie:    ne.Uint64(b[44:]),
		RecvQ:     ne.Uint32(b[56:]),
		SendQ:     ne.Uint32(b[60:]),
		UID:       ne.Uint32(b[64:]),
		Inode:     ne.Uint32(b[68:]),
	}
	s.Local = addrPort(s.Family, b[8:24], be.Uint16(b[4:]))
	s.Remote = addrPort(s.Family, b[24:40], be.Uint16(b[6:]))
	attributes(b[inetMsgLen:], func(kind uint16, value []byte) {
		switch kind {
		case inetMD5:
			s.MD5 = true
		case inetInfo:
			s.Flow = parseFlow(value)
		case inetMemory:
			s.Drops = parseDrops(value)
		}
	})
	return s, true
}

// parseFlow reads struct tcp_info of include/uapi/linux/tcp.h.
func parseFlow(b []byte) Flow {
	const sinceSent, sinceReceived, acked, received, sent, end = 44, 52, 120, 128, 156, 160
	if len(b) < end {
		return Flow{}
	}
	ne := binary.NativeEndian
	return Flow{
		Acked: ne.Uint64(b[acked:]), Received: ne.Uint64(b[received:]),
		SinceSent:     time.Duration(ne.Uint32(b[sinceSent:])) * time.Millisecond,
		SinceReceived: time.Duration(ne.Uint32(b[sinceReceived:])) * time.Millisecond,
		Silent:        ne.Uint32(b[sent:]) == 0, // tcpi_data_segs_out
	}
}

// parseDrops reads the array of include/uapi/linux/sock_diag.h, SK_MEMINFO_DROPS.
func parseDrops(b []byte) uint32 {
	const drops = 8 * 4
	if len(b) < drops+4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b[drops:])
}

func addrPort(family uint8, b []byte, port uint16) netip.AddrPort {
	if family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), port)
}
