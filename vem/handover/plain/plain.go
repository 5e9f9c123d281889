// Package plain saves sockets of IPv4 and IPv6 that are no connections of TCP, and makes
// them again: TCP listeners, TCP sockets that are not connected, UDP, UDP-Lite, ping and raw
// sockets, with their addresses, their options and the datagrams that wait in them.
//
//	Reader.Look ──▶ Socket, Socket.ReadQueue ──▶ Maker.Make, Maker.Fill
//	 any time        when nothing arrives any more
//
// Package sockopt reads the options, but for those that it leaves to CRIU. What waits in an
// accept queue is no part of a listener here.
//
// Datagrams get into the new socket as they got into the old one: package forge has the
// kernel receive them. What they don't keep is the time of their arrival.
package plain

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/sockopt"
)

// Socket is what there is of one socket.
type Socket struct {
	Inode  uint64         `json:"inode"` // by which a caller knows it
	Family int            `json:"family"`
	Type   int            `json:"type"`
	Proto  int            `json:"proto"`
	Local  netip.AddrPort `json:"local"` // IPv4 in IPv6 stays so; of a raw socket without a port
	Remote netip.AddrPort `json:"remote,omitzero"`
	Scope  uint32         `json:"scope,omitempty"` // interface of link-local addresses
	// Listening sockets have a backlog, which the caller knows.
	Listening bool `json:"listening,omitempty"`
	// Connecting sockets are about to connect, by a stream that is numbered from Sequence on.
	Connecting bool   `json:"connecting,omitempty"`
	Sequence   uint32 `json:"sequence,omitempty"`
	// Shut tells which sides were shut down. Of TCP it is both: the connection is over,
	// and the addresses are those that it had.
	Shut     Sides    `json:"shut,omitempty"`
	Settings Settings `json:"settings"`
	Queue    []Packet `json:"queue,omitempty"`
}

// Sides are those that shutdown(2) shuts.
type Sides int

// The sides: RCV_SHUTDOWN and SEND_SHUTDOWN of include/net/sock.h.
const (
	Receiving Sides = 1
	Sending   Sides = 2
	Both            = Receiving | Sending
)

// findShut finds which sides of a socket were shut down. That nothing but sending was, nothing
// tells.
func (s *Socket) findShut(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if err := poll(p, 0); err != nil {
		return err
	}
	switch hup := p[0].Revents&unix.POLLHUP != 0; { // every TCP socket without a connection has it
	case p[0].Revents&unix.POLLRDHUP == 0:
	case hup:
		s.Shut = Both
	default:
		s.Shut = Receiving
	}
	return nil
}

// shutDown shuts sides down. A socket that is not connected has ENOTCONN, and is shut all the
// same (net/ipv4/af_inet.c, inet_shutdown).
func (s *Socket) shutDown(fd int) error {
	if s.Shut == 0 {
		return nil
	}
	if err := unix.Shutdown(fd, int(s.Shut)-1); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}

// over tells whether it is a TCP connection that is over.
func (s *Socket) over() bool { return s.Type == unix.SOCK_STREAM && s.Shut != 0 }

// Settings are options that package sockopt has not, and those that it has.
type Settings struct {
	sockopt.Socket
	Device       string `json:"device,omitempty"` // SO_BINDTODEVICE
	ReuseAddress int    `json:"reuse_address,omitempty"`
	OnlyIPv6     bool   `json:"only_ipv6,omitempty"` // IPV6_V6ONLY
	// SendBuffer and ReceiveBuffer are as getsockopt gives them, twice of what was set;
	// BufferLock is SO_BUF_LOCK, -1 before Linux 5.14.
	SendBuffer    int    `json:"send_buffer"`
	ReceiveBuffer int    `json:"receive_buffer"`
	BufferLock    int    `json:"buffer_lock,omitempty"`
	Filter        []byte `json:"filter,omitempty"` // SO_ATTACH_FILTER: struct sock_filter, one after the other
	NonBlock      bool   `json:"nonblock,omitempty"`
}

// Packet is one datagram that waits in a socket.
type Packet struct {
	From  netip.AddrPort `json:"from"`
	To    netip.AddrPort `json:"to"`
	Class uint8          `json:"class,omitempty"`
	Hops  uint8          `json:"hops,omitempty"`
	Data  []byte         `json:"data"` // of a raw socket of IPv4, the whole packet
}

// UnsupportedError says why a socket can't be made again.
type UnsupportedError struct{ What string }

// Error implements error.
func (e *UnsupportedError) Error() string { return e.What }

func unsupported(format string, args ...any) error {
	return &UnsupportedError{fmt.Sprintf(format, args...)}
}

// Reader reads the sockets of one network namespace. It is no good for several goroutines.
type Reader struct{ options *sockopt.Reader }

// NewReader makes a reader for the sockets of ns.
func NewReader(ns sockopt.NetNS) *Reader { return &Reader{sockopt.NewReader(ns)} }

// Look reads all of a socket but for what waits in it. It changes nothing. It fails with an
// *[UnsupportedError] if the socket can't be made again.
//
// Cost: 30 us.
func (r *Reader) Look(fd int) (*Socket, error) { return r.look(&Socket{}, fd) }

// LookConnecting is Look for a TCP socket that is about to connect (SYN_SENT). The kernel tells
// the caller alone to whom.
func (r *Reader) LookConnecting(fd int, to netip.AddrPort) (*Socket, error) {
	s, err := r.look(&Socket{Connecting: true}, fd)
	if err != nil {
		return nil, err
	}
	if s.Remote = to; s.Family == unix.AF_INET6 {
		s.Remote = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	return s, nil
}

func (r *Reader) look(s *Socket, fd int) (*Socket, error) {
	var err error
	for p, name := range map[*int]int{
		&s.Family: unix.SO_DOMAIN, &s.Type: unix.SO_TYPE, &s.Proto: unix.SO_PROTOCOL, &s.Settings.ReuseAddress: unix.SO_REUSEADDR,
		&s.Settings.SendBuffer: unix.SO_SNDBUF, &s.Settings.ReceiveBuffer: unix.SO_RCVBUF,
	} {
		if *p, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, name); err != nil {
			return nil, fmt.Errorf("look at socket: %w", err)
		}
	}
	if s.Family != unix.AF_INET && s.Family != unix.AF_INET6 {
		return nil, unsupported("it is of address family %d", s.Family)
	}
	if err := errors.Join(s.addresses(fd), s.findShut(fd)); err != nil {
		return nil, err
	}
	read := r.options.Read
	if s.Connecting {
		read = r.options.ReadConnecting
	}
	options, _, err := read(fd)
	if err != nil {
		return nil, err
	}
	if options == nil {
		return nil, unsupported("it is a socket of a kind that is not known")
	}
	s.Settings.Socket = *options
	if s.Family == unix.AF_INET6 {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return nil, fmt.Errorf("read IPV6_V6ONLY: %w", err)
		}
		s.Settings.OnlyIPv6 = only != 0
	}
	return s, s.Settings.read(fd)
}

func (s *Socket) addresses(fd int) error {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("find address: %w", err)
	}
	s.Local, s.Scope = parse(name)
	if s.Proto == unix.IPPROTO_TCP && s.Type == unix.SOCK_STREAM {
		listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err != nil {
			return fmt.Errorf("look at socket: %w", err)
		}
		s.Listening = listening != 0
	}
	switch peer, err := unix.Getpeername(fd); {
	case err == nil:
		var scope uint32
		if s.Remote, scope = parse(peer); scope != 0 {
			s.Scope = scope
		}
	case !errors.Is(err, unix.ENOTCONN):
		return fmt.Errorf("find peer: %w", err)
	}
	if s.Type == unix.SOCK_RAW { // its port is its protocol, or nothing
		s.Local, s.Remote = netip.AddrPortFrom(s.Local.Addr(), 0), netip.AddrPortFrom(s.Remote.Addr(), 0)
	}
	return nil
}

func (s *Settings) read(fd int) error {
	var err error
	if s.BufferLock, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK); err != nil {
		s.BufferLock = -1
	}
	if s.Device, err = unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil {
		return fmt.Errorf("read SO_BINDTODEVICE: %w", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("read flags: %w", err)
	}
	s.NonBlock = flags&unix.O_NONBLOCK != 0
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("find owner: %w", err)
	}
	s.UID, s.GID = st.Uid, st.Gid
	s.Filter, err = readFilter(fd)
	return err
}

// connected tells whether the socket has a peer.
func (s *Socket) connected() bool { return s.Remote.IsValid() && !s.Remote.Addr().IsUnspecified() }

// bound tells whether the socket has an address of its own.
func (s *Socket) bound() bool { return s.Local.Port() != 0 || !s.Local.Addr().IsUnspecified() }

// Check tells whether a socket that came from another host can be one.
func (s *Socket) Check() error {
	fits := func(a netip.AddrPort) bool {
		return !a.IsValid() || a.Addr().Zone() == "" && a.Addr().Is4() == (s.Family == unix.AF_INET)
	}
	switch {
	case s.Family != unix.AF_INET && s.Family != unix.AF_INET6:
		return fmt.Errorf("address family %d", s.Family)
	case s.Type != unix.SOCK_STREAM && s.Type != unix.SOCK_DGRAM && s.Type != unix.SOCK_RAW, s.Type == unix.SOCK_STREAM && s.Proto != unix.IPPROTO_TCP:
		return fmt.Errorf("socket of type %d and protocol %d", s.Type, s.Proto)
	case !s.Local.IsValid(), !fits(s.Local), !fits(s.Remote):
		return fmt.Errorf("addresses %s and %s", s.Local, s.Remote)
	case s.Connecting && (s.Type != unix.SOCK_STREAM || s.Listening || !s.Remote.IsValid()):
		return fmt.Errorf("connecting socket of type %d to %s", s.Type, s.Remote)
	case s.Shut < 0 || s.Shut > Both:
		return fmt.Errorf("sides %d that were shut down", s.Shut)
	case len(s.Settings.Filter) > maxFilter || len(s.Settings.Filter)%filterSize != 0:
		return fmt.Errorf("packet filter of %d bytes", len(s.Settings.Filter))
	}
	total := 0
	for _, p := range s.Queue {
		total += len(p.Data)
		if !p.From.IsValid() || !p.To.IsValid() || p.From.Addr().Unmap().Is4() != p.To.Addr().Unmap().Is4() || len(p.Data) > 1<<16 || total > MaxQueue {
			return fmt.Errorf("datagram of %d bytes from %s to %s", len(p.Data), p.From, p.To)
		}
	}
	return s.Settings.Check()
}

// MaxQueue bounds the bytes that wait in one socket.
const MaxQueue = 64 << 20

func parse(sa unix.Sockaddr) (a netip.AddrPort, scope uint32) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), 0
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), sa.ZoneId
	}
	return netip.AddrPort{}, 0
}

func (s *Socket) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if s.Family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().Unmap().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if a.Addr().IsLinkLocalUnicast() {
		sa.ZoneId = s.Scope
	}
	return sa
}

// Made is a socket that was made again.
type Made struct {
	*Socket
	File *os.File
	// Problems are what it has otherwise.
	Problems []error
}
