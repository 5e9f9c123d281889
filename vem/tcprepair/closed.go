package tcprepair

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// SaveClosed saves a socket whose connection is over, in both directions, with data that
// the program has not read yet. The socket is in no list of the kernel's any more, so it
// has to be looked for among the descriptors of the processes. It is not changed.
//
// local tells whether an address is one of the network namespace's own. ok is false if
// the socket is no such socket, or has no unread data: then a copy loses nothing by its
// being closed. Fails with an *[UnsupportedError] if the socket has data that a copy can't
// have.
//
// Cost: 2 us for any other socket, 25 us for such a one.
func SaveClosed(e End, local func(netip.Addr) bool) (_ Connection, ok bool, err error) {
	info, err := unix.GetsockoptTCPInfo(e.FD, unix.IPPROTO_TCP, unix.TCP_INFO)
	if missing(err) || err == nil && info.State != closed {
		return Connection{}, false, nil
	}
	if err != nil {
		return Connection{}, false, fmt.Errorf("read TCP_INFO: %w", err)
	}
	unread, err := unix.IoctlGetInt(e.FD, unix.SIOCINQ)
	if err != nil {
		return Connection{}, false, fmt.Errorf("read SIOCINQ: %w", err)
	}
	if unread == 0 {
		return Connection{}, false, nil
	}
	s, err := overState(e, unread)
	if err != nil {
		return Connection{}, false, err
	}
	if !local(unmap(s.Local).Addr()) || !local(unmap(s.Remote).Addr()) {
		return Connection{}, false, unsupported("it is over, its other end was not in the app, and it has %d bytes that were not read", unread)
	}
	return Connection{Ends: []State{*s}}, true, nil
}

// overState is the state of a connection that is over. There is nothing to be agreed on
// any more, so that its numbers may be any: both streams begin at 1.
func overState(e End, unread int) (*State, error) {
	if err := refuse(e.FD); err != nil {
		return nil, err
	}
	events, err := poll(e.FD, unix.POLLPRI)
	if err != nil {
		return nil, fmt.Errorf("poll: %w", err)
	}
	switch {
	case events&unix.POLLERR != 0:
		return nil, unsupported("it was reset, and the program has neither read that nor the %d bytes before", unread)
	case events&unix.POLLPRI != 0:
		return nil, unsupported("it has urgent data")
	}
	s := &State{Inode: e.Inode, Sending: Sending{Finish: true, SendEnd: 1}, Receiving: Receiving{Finished: true}}
	name, err := unix.Getsockname(e.FD)
	if err != nil {
		return nil, fmt.Errorf("find address: %w", err)
	}
	s.Family, s.Local, s.Scope = parseAddress(name)
	if s.Remote, err = lastPeer(e.FD); err != nil {
		return nil, err
	}
	if s.Received, err = peekReceived(e.FD, unread); err != nil {
		return nil, err
	}
	s.ReceiveEnd = 1 + uint32(len(s.Received))
	s.Window.Announced = s.ReceiveEnd
	segment, err := getTCP(e.FD, unix.TCP_MAXSEG)
	if err != nil {
		return nil, fmt.Errorf("read TCP_MAXSEG: %w", err)
	}
	s.Negotiated.MSS = uint32(segment)
	return s, s.Options.save(e.FD, s.Family)
}

// lastPeer is the address that a socket was connected to. getpeername(2) refuses to tell
// it when the connection is over; SO_PEERNAME does not (net/core/sock.c, sk_getsockopt,
// and net/ipv4/af_inet.c, inet_getname).
func lastPeer(fd int) (netip.AddrPort, error) {
	var b [128]byte // struct sockaddr_storage
	v, err := getOption(fd, unix.SOL_SOCKET, unix.SO_PEERNAME, b[:unix.SizeofSockaddrInet6])
	if err != nil {
		// The option's size has to be at most that of the address.
		v, err = getOption(fd, unix.SOL_SOCKET, unix.SO_PEERNAME, b[:unix.SizeofSockaddrInet4])
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find the other end's address: %w", err)
	}
	port := binary.BigEndian.Uint16(v[2:])
	if binary.NativeEndian.Uint16(v) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(v[4:8])), port), nil
	}
	if len(v) < unix.SizeofSockaddrInet6 {
		return netip.AddrPort{}, unsupported("nothing tells what it was connected to")
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(v[8:24])), port), nil
}
