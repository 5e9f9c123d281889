// Package forge has the kernel of a network namespace receive packets that nobody sent:
// those that a socket made anew must have received to be what another one was.
//
// A packet to an address of the namespace goes out through the loopback device and comes in
// again. The kernel keeps the route that it chose for sending (net/ipv4/ip_input.c,
// ip_rcv_finish_core), so that nothing asks where the sender is: neither rp_filter nor any
// route matters. Rules of a firewall that the namespace has do. A socket that is bound to a
// device sees packets that were sent through a Wire of the same device
// (include/net/route.h, inet_iif).
//
// So does a packet to a multicast or broadcast address, by the route to an address of the
// namespace's own: it reaches one socket, and leaves nothing of itself on any device.
//
// Needs CAP_NET_RAW over the namespace.
package forge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Wire is where packets come from.
type Wire struct {
	four, six int
	// by are own addresses, of the device if there is one.
	by4, by6 netip.Addr
}

// Open makes a wire in the network namespace of the calling thread. What comes from it comes
// from a device, or, if that is "", from the one that the kernel chooses. The caller closes
// it; it may be used on any thread.
func Open(device string) (_ *Wire, err error) {
	w := &Wire{four: -1, six: -1, by4: netip.AddrFrom4([4]byte{127, 0, 0, 1}), by6: netip.IPv6Loopback()}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("forge packets: %w", err), w.Close())
		}
	}()
	if device != "" {
		if err := w.own(device); err != nil {
			return nil, err
		}
	}
	for p, family := range map[*int]int{&w.four: unix.AF_INET, &w.six: unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if family == unix.AF_INET6 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue // no IPv6 here
		}
		if err != nil {
			return nil, err
		}
		*p = fd
		if device == "" {
			continue
		}
		if err := unix.BindToDevice(fd, device); err != nil {
			return nil, fmt.Errorf("bind to device %s: %w", device, err)
		}
	}
	return w, nil
}

// own finds addresses of a device.
func (w *Wire) own(device string) error {
	nl := netlist.Here()
	link, err := nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	list, err := netlist.Addrs(nl)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, one := range list {
		a, _ := netip.AddrFromSlice(one.IP)
		switch {
		case one.LinkIndex != link.Attrs().Index:
		case a.Unmap().Is4():
			w.by4 = a.Unmap()
		case a.Is6():
			w.by6 = a
		}
	}
	return nil
}

// Close closes the wire.
func (w *Wire) Close() error {
	var errs []error
	for _, fd := range []int{w.four, w.six} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	w.four, w.six = -1, -1
	return errors.Join(errs...)
}

// Header is what a packet tells of itself besides what it carries. Addresses of IPv4 in IPv6
// are those of IPv4.
type Header struct {
	From, To netip.AddrPort // without ports for what has none
	Class    uint8          // type of service, traffic class
	Hops     uint8          // time to live, hop limit; 64 if 0
}

// Send has the namespace receive a packet of a protocol.
func (w *Wire) Send(h Header, proto uint8, payload []byte) error {
	from, to := h.From.Addr().Unmap(), h.To.Addr().Unmap()
	if from.Is4() != to.Is4() {
		return fmt.Errorf("forge packet from %s to %s: they are of two families", from, to)
	}
	hops := h.Hops
	if hops == 0 {
		hops = 64
	}
	var packet []byte
	if to.Is4() {
		packet = make([]byte, 20, 20+len(payload))
		packet[0], packet[1], packet[8], packet[9] = 0x45, h.Class, hops, proto
		// The kernel fills in length and checksum (net/ipv4/raw.c, raw_send_hdrinc).
		binary.BigEndian.PutUint16(packet[2:], uint16(20+len(payload)))
		copy(packet[12:], from.AsSlice())
		copy(packet[16:], to.AsSlice())
	} else {
		packet = make([]byte, 40, 40+len(payload))
		packet[0], packet[1] = 0x60|h.Class>>4, h.Class<<4
		packet[6], packet[7] = proto, hops
		binary.BigEndian.PutUint16(packet[4:], uint16(len(payload)))
		copy(packet[8:], from.AsSlice())
		copy(packet[24:], to.AsSlice())
	}
	return w.Raw(to, append(packet, payload...))
}

// route is the address by whose route the kernel takes a packet for its own.
func (w *Wire) route(to netip.Addr) (netip.Addr, error) {
	switch {
	case !to.IsMulticast() && to != netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return to, nil
	case to.Is4():
		return w.by4, nil
	}
	// Linux drops those that the device, the loopback device here, is no member of
	// (net/ipv6/ip6_input.c, ip6_protocol_deliver_rcu).
	err := unix.SetsockoptIPv6Mreq(w.six, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: to.As16(), Interface: loopback})
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return to, fmt.Errorf("join multicast group %s: %w", to, err)
	}
	return w.by6, nil
}

// loopback is the number of the loopback device (include/net/net_namespace.h, LOOPBACK_IFINDEX).
const loopback = 1

// Raw has the namespace receive a whole packet, with its header.
func (w *Wire) Raw(to netip.Addr, packet []byte) error {
	to, err := w.route(to.Unmap())
	if err != nil {
		return err
	}
	fd := w.six
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		fd, sa = w.four, &unix.SockaddrInet4{Addr: to.As4()}
	}
	err = unix.Sendto(fd, packet, 0, sa)
	for errors.Is(err, unix.EINTR) {
		err = unix.Sendto(fd, packet, 0, sa)
	}
	if err != nil {
		return fmt.Errorf("forge packet to %s: %w", to, err)
	}
	return nil
}

// Datagram has the namespace receive a datagram of UDP or, with proto, UDP-Lite.
func (w *Wire) Datagram(h Header, proto uint8, data []byte) error {
	b := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(b, h.From.Port())
	binary.BigEndian.PutUint16(b[2:], h.To.Port())
	if proto == unix.IPPROTO_UDP { // of UDP-Lite it is what the checksum covers: 0 is all
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(data)))
	}
	b = append(b, data...)
	sum := checksum(h, proto, b)
	if sum == 0 {
		sum = 0xffff // 0 would be none
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return w.Send(h, proto, b)
}

// Segment is a segment of TCP without options.
type Segment struct {
	Header
	Sequence, Acknowledged uint32
	Flags                  Flags
	Window                 uint16
	Data                   []byte
}

// Flags are those of a segment.
type Flags uint8

// The flags, RFC 9293.
const (
	FIN Flags = 1
	SYN Flags = 2
	RST Flags = 4
	PSH Flags = 8
	ACK Flags = 16
)

// Segment has the namespace receive a segment of TCP.
func (w *Wire) Segment(s Segment) error {
	b := make([]byte, 20, 20+len(s.Data))
	binary.BigEndian.PutUint16(b, s.From.Port())
	binary.BigEndian.PutUint16(b[2:], s.To.Port())
	binary.BigEndian.PutUint32(b[4:], s.Sequence)
	binary.BigEndian.PutUint32(b[8:], s.Acknowledged)
	b[12], b[13] = 5<<4, byte(s.Flags)
	binary.BigEndian.PutUint16(b[14:], s.Window)
	b = append(b, s.Data...)
	binary.BigEndian.PutUint16(b[16:], checksum(s.Header, unix.IPPROTO_TCP, b))
	return w.Send(s.Header, unix.IPPROTO_TCP, b)
}

// checksum is that of the Internet (RFC 1071), of a payload with its pseudo header.
func checksum(h Header, proto uint8, payload []byte) uint16 {
	sum := uint32(proto) + uint32(len(payload))
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
	}
	add(h.From.Addr().Unmap().AsSlice())
	add(h.To.Addr().Unmap().AsSlice())
	add(payload)
	return ^uint16(sum)
}
