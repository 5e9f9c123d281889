package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"

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
}

// InetQuery says which sockets to dump.
type InetQuery struct {
	Family uint8  // unix.AF_INET or unix.AF_INET6; a dump covers one of them
	Proto  uint8  // unix.IPPROTO_TCP or unix.IPPROTO_UDP
	States uint32 // see [States]
}

// struct inet_diag_req_v2 and inet_diag_msg of include/uapi/linux/inet_diag.h.
const (
	inetReqLen = 56
	inetMsgLen = 72
	inetMD5    = 18 // INET_DIAG_MD5SIG
)

// Inet dumps the IPv4 or IPv6 sockets that match q.
func (c *Conn) Inet(q InetQuery) ([]Inet, error) {
	req := make([]byte, inetReqLen)
	req[0], req[1] = q.Family, q.Proto
	binary.NativeEndian.PutUint32(req[4:], q.States)
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
	attributes(b[inetMsgLen:], func(kind uint16, _ []byte) { s.MD5 = s.MD5 || kind == inetMD5 })
	return s, true
}

func addrPort(family uint8, b []byte, port uint16) netip.AddrPort {
	if family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), port)
}
