package plain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Own is an option that ReadQueue changes for a while, and what it was.
type Own struct {
	Level int `json:"level"`
	Name  int `json:"name"`
	Value int `json:"value"`
}

// told are the options by which the kernel tells more of a datagram.
func (s *Socket) told() [][2]int {
	list := [][2]int{{unix.IPPROTO_IP, unix.IP_RECVTOS}, {unix.IPPROTO_IP, unix.IP_RECVTTL}, {unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR}}
	if s.Family == unix.AF_INET6 {
		list = append(list, [][2]int{
			{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS}, {unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT}, {unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO},
		}...)
	}
	return list
}

// Queues tells whether datagrams can wait in the socket.
func (s *Socket) Queues() bool { return s.Type != unix.SOCK_STREAM }

// peeks tells whether all that waits can be read and stays there: UDP has SO_PEEK_OFF.
func (s *Socket) peeks() bool {
	return s.Type == unix.SOCK_DGRAM && s.Proto != unix.IPPROTO_ICMP && s.Proto != unix.IPPROTO_ICMPV6
}

// Options lists the options that ReadQueue changes, for PutBack by a later daemon, if this
// one is killed meanwhile.
func (s *Socket) Options(fd int) ([]Own, error) {
	var list []Own
	names := s.told()
	if s.peeks() {
		names = append(names, [2]int{unix.SOL_SOCKET, unix.SO_PEEK_OFF})
	}
	for _, n := range names {
		v, err := unix.GetsockoptInt(fd, n[0], n[1])
		if err != nil {
			continue // this kind of socket, or this kernel, has none
		}
		list = append(list, Own{n[0], n[1], v})
	}
	return list, nil
}

// PutBack gives a socket the options that it had.
func PutBack(fd int, list []Own) error {
	var errs []error
	for _, o := range list {
		now, err := unix.GetsockoptInt(fd, o.Level, o.Name)
		if err == nil && now == o.Value {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.Level, o.Name, o.Value); err != nil {
			errs = append(errs, fmt.Errorf("put back option %d of level %d: %w", o.Name, o.Level, err))
		}
	}
	return errors.Join(errs...)
}

// ReadQueue reads the datagrams that wait in a socket to Queue. Nothing may arrive meanwhile.
// Those of UDP stay where they are. Those of ping and raw sockets, whose queues the kernel
// shows to nobody, are taken out.
func (s *Socket) ReadQueue(fd int, own []Own) (err error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if err := poll(p, 0); err != nil || p[0].Revents&unix.POLLIN == 0 {
		return err
	}
	defer func() { err = errors.Join(err, PutBack(fd, own)) }()
	flags := unix.MSG_DONTWAIT
	for _, o := range own {
		value := 1
		if o.Level == unix.SOL_SOCKET { // SO_PEEK_OFF
			value = 0
			flags |= unix.MSG_PEEK
		}
		if err := unix.SetsockoptInt(fd, o.Level, o.Name, value); err != nil {
			return fmt.Errorf("set option %d of level %d: %w", o.Name, o.Level, err)
		}
	}
	data, control := make([]byte, 1<<16), make([]byte, 1<<10)
	total, told := 0, 0
	for {
		n, cn, _, from, err := unix.Recvmsg(fd, data, control, flags)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && told < 2:
			// What an ICMP message has told of something that was sent, and sk_err_soft:
			// reading it takes it out, here as in the new socket.
			told++
			continue
		case err != nil:
			return fmt.Errorf("read what waits: %w", err)
		}
		if total += n; total > MaxQueue {
			return unsupported("more than %d MiB wait in it", MaxQueue>>20)
		}
		got := Packet{To: s.Local, Data: append([]byte(nil), data[:n]...)}
		got.From, _ = parse(from)
		segment, err := got.control(control[:cn])
		if err != nil {
			return err
		}
		s.Queue = append(s.Queue, got.split(segment)...)
	}
}

// control reads what the kernel tells of a datagram; segment is the size of the datagrams
// that it has put together to this one (UDP_GRO), or 0.
func (p *Packet) control(b []byte) (segment int, err error) {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return 0, fmt.Errorf("read what waits: %w", err)
	}
	for _, m := range messages {
		number := func() uint8 {
			if len(m.Data) >= 4 {
				return uint8(binary.NativeEndian.Uint32(m.Data))
			}
			return m.Data[0]
		}
		switch [2]int{int(m.Header.Level), int(m.Header.Type)} {
		case [2]int{unix.IPPROTO_IP, unix.IP_TOS}, [2]int{unix.IPPROTO_IPV6, unix.IPV6_TCLASS}:
			p.Class = number()
		case [2]int{unix.IPPROTO_IP, unix.IP_TTL}, [2]int{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT}:
			p.Hops = number()
		case [2]int{unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR}:
			if len(m.Data) >= 8 {
				p.To = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Data[4:8])), p.To.Port())
			}
		case [2]int{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO}:
			if len(m.Data) >= 16 {
				if a := netip.AddrFrom16([16]byte(m.Data[:16])); p.To.Addr().IsUnspecified() {
					p.To = netip.AddrPortFrom(a.Unmap(), p.To.Port())
				}
			}
		case [2]int{unix.IPPROTO_UDP, 104}: // UDP_GRO
			if len(m.Data) >= 4 {
				segment = int(binary.NativeEndian.Uint32(m.Data))
			}
		}
	}
	return segment, nil
}

// split undoes what the kernel put together.
func (p *Packet) split(segment int) []Packet {
	if segment <= 0 || segment >= len(p.Data) {
		return []Packet{*p}
	}
	var list []Packet
	for data := p.Data; len(data) > 0; {
		n := min(segment, len(data))
		one := *p
		one.Data, data = data[:n:n], data[n:]
		list = append(list, one)
	}
	return list
}

func poll(p []unix.PollFd, patience int) error {
	_, err := unix.Poll(p, patience)
	for errors.Is(err, unix.EINTR) {
		_, err = unix.Poll(p, patience)
	}
	return err
}
