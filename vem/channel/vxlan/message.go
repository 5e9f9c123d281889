package vxlan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/netns"
)

// Numbers of include/uapi/linux/nexthop.h and lwtunnel.h that package unix does not have, and ours.
const (
	rtmNewNexthop = 104
	rtmDelNexthop = 105
	rtmGetNexthop = 106

	nhaID        = 1
	nhaOIF       = 5
	nhaGateway   = 6
	nhaEncapType = 7
	nhaEncap     = 8

	encapIP  = 2
	encapIP6 = 4

	encapID    = 1
	encapDst   = 2
	encapSrc   = 3
	encapTTL   = 4
	encapFlags = 6

	// include/uapi/linux/if_tunnel.h, as they are in network byte order
	tunnelChecksum     = 0x0001
	tunnelKey          = 0x0004
	tunnelDontFragment = 0x0100

	rtaNexthop = 30

	// protocol marks what is this package's (rtm_protocol, nh_protocol).
	protocol = 77
	// metric has the fabric's own routes, which have 0 or IPv6's usual 1024, come first.
	metric = 2048
	// hopLimit of outer packets.
	hopLimit = 64
	// batch is how many requests are sent at once, for their answers to find room.
	batch = 256
)

// request makes one request in a namespace, and waits for its answer.
func request(ns *netns.NS, kind uint16, flags mdnetlink.HeaderFlags, header []byte, attrs *mdnetlink.AttributeEncoder) error {
	m, err := message(kind, flags, header, attrs)
	if err != nil {
		return err
	}
	return exchange(ns, []mdnetlink.Message{m}, nil)
}

func message(kind uint16, flags mdnetlink.HeaderFlags, header []byte, attrs *mdnetlink.AttributeEncoder) (mdnetlink.Message, error) {
	data, err := attrs.Encode()
	if err != nil {
		return mdnetlink.Message{}, fmt.Errorf("encode a request: %w", err)
	}
	return mdnetlink.Message{
		Header: mdnetlink.Header{Type: mdnetlink.HeaderType(kind), Flags: mdnetlink.Request | mdnetlink.Acknowledge | flags},
		Data:   append(header, data...),
	}, nil
}

func dial(ns *netns.NS) (*mdnetlink.Conn, error) {
	c, err := mdnetlink.Dial(unix.NETLINK_ROUTE, &mdnetlink.Config{NetNS: int(ns.File().Fd())})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	const buffer = 4 << 20
	err = errors.Join(c.SetOption(mdnetlink.CapAcknowledge, true), c.SetOption(mdnetlink.GetStrictCheck, true), c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set netlink socket up: %w", err), c.Close())
	}
	return c, nil
}

// exchange makes requests in their order and waits for all answers. An error of one that fine
// allows is none. It returns the first of the others, and makes no request of a later batch then.
func exchange(ns *netns.NS, list []mdnetlink.Message, fine error) error {
	if len(list) == 0 {
		return nil
	}
	c, err := dial(ns)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // all answers have come
	for len(list) > 0 {
		some := list[:min(batch, len(list))]
		list = list[len(some):]
		if _, err := c.SendMessages(some); err != nil {
			return err
		}
		var failed error
		for range some { // each answer is a message of its own
			if _, err := c.Receive(); err != nil && failed == nil && (fine == nil || !errors.Is(err, fine)) {
				failed = err
			}
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// dump lists objects in a namespace.
func dump(ns *netns.NS, kind uint16, header []byte, attrs *mdnetlink.AttributeEncoder) ([]mdnetlink.Message, error) {
	m, err := message(kind, mdnetlink.Dump, header, attrs)
	if err != nil {
		return nil, err
	}
	c, err := dial(ns)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // a list
	return c.Execute(m)
}

// putNexthop makes a host's nexthop object, or changes it for all routes at once.
func (m *Module) putNexthop(number int, h channel.Host) error {
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Uint32(nhaID, uint32(number))
	attrs.Uint32(nhaOIF, uint32(m.device))
	attrs.Bytes(nhaGateway, gateway(h.Name).AsSlice())
	kind, flags := uint16(encapIP), uint16(tunnelKey|tunnelDontFragment)
	if h.Local.Is6() {
		// Over IPv6 a receiver takes no UDP packet without a checksum (RFC 8200, 8.1).
		kind, flags = encapIP6, tunnelKey|tunnelDontFragment|tunnelChecksum
	}
	attrs.Uint16(nhaEncapType, kind)
	attrs.Nested(nhaEncap, func(e *mdnetlink.AttributeEncoder) error {
		e.Bytes(encapID, binary.BigEndian.AppendUint64(nil, uint64(m.cfg.vni())))
		e.Bytes(encapDst, h.Remote.AsSlice())
		e.Bytes(encapSrc, h.Local.AsSlice())
		e.Uint8(encapTTL, hopLimit)
		e.Bytes(encapFlags, binary.BigEndian.AppendUint16(nil, flags))
		return nil
	})
	header := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET6, 0, protocol, 0}, unix.RTNH_F_ONLINK) // struct nhmsg
	if err := request(m.fabric.ns, rtmNewNexthop, mdnetlink.Create|mdnetlink.Replace, header, attrs); err != nil {
		return fmt.Errorf("set nexthop object %d: %w", number, err)
	}
	return nil
}

// removeNexthop removes a host's nexthop object, and with it all routes that name it.
func (m *Module) removeNexthop(number int) error {
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Uint32(nhaID, uint32(number))
	err := request(m.fabric.ns, rtmDelNexthop, 0, make([]byte, 8), attrs)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nexthop object %d: %w", number, err)
	}
	return nil
}

// nexthops lists the ends of all tunnels.
func (m *Module) nexthops() (map[int]channel.Host, error) {
	list, err := dump(m.fabric.ns, rtmGetNexthop, make([]byte, 8), mdnetlink.NewAttributeEncoder())
	if err != nil {
		return nil, fmt.Errorf("list nexthop objects: %w", err)
	}
	found := make(map[int]channel.Host)
	for _, one := range list {
		const header = 8
		if len(one.Data) < header || one.Data[2] != protocol {
			continue
		}
		ad, err := mdnetlink.NewAttributeDecoder(one.Data[header:])
		if err != nil {
			return nil, fmt.Errorf("read nexthop object: %w", err)
		}
		number, h := 0, channel.Host{Kind: channel.VXLAN}
		for ad.Next() {
			switch ad.Type() {
			case nhaID:
				number = int(ad.Uint32())
			case nhaEncap:
				ad.Nested(func(e *mdnetlink.AttributeDecoder) error {
					for e.Next() {
						switch e.Type() {
						case encapDst:
							h.Remote, _ = netip.AddrFromSlice(e.Bytes())
						case encapSrc:
							h.Local, _ = netip.AddrFromSlice(e.Bytes())
						}
					}
					return nil
				})
			}
		}
		if err := ad.Err(); err != nil {
			return nil, fmt.Errorf("read nexthop object: %w", err)
		}
		found[number] = h
	}
	return found, nil
}

// table is where a route of a state is.
func table(s channel.State) uint32 {
	if s == channel.Opening {
		return openingTable
	}
	return unix.RT_TABLE_MAIN
}

// routeMessage makes a request about a route. room is the size of the largest packet, if that is
// less than the device's.
func routeMessage(kind uint16, flags mdnetlink.HeaderFlags, a netip.Addr, r route, room int) (mdnetlink.Message, error) {
	header := []byte{unix.AF_INET, 32, 0, 0, 0, protocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0} // struct rtmsg
	if a.Is6() {
		header[0], header[1] = unix.AF_INET6, 128
	}
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Bytes(unix.RTA_DST, a.AsSlice())
	attrs.Uint32(unix.RTA_TABLE, table(r.state))
	attrs.Uint32(unix.RTA_PRIORITY, metric)
	attrs.Uint32(rtaNexthop, uint32(r.number))
	if room > 0 {
		// Locked: otherwise IPv6 forwards by the device's (ip6_dst_mtu_maybe_forward).
		attrs.Nested(unix.RTA_METRICS, func(e *mdnetlink.AttributeEncoder) error {
			e.Uint32(unix.RTAX_LOCK, 1<<unix.RTAX_MTU)
			e.Uint32(unix.RTAX_MTU, uint32(room))
			return nil
		})
	}
	return message(kind, flags, header, attrs)
}

// listRoutes lists the routes that the kernel has of a family and state, with the room of each; 0
// is the device's.
func (m *Module) listRoutes(family byte, state channel.State) (routes map[netip.Addr]route, rooms map[int]int, err error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[5] = family, protocol
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Uint32(unix.RTA_TABLE, table(state))
	list, err := dump(m.fabric.ns, unix.RTM_GETROUTE, header, attrs)
	if errors.Is(err, unix.ENOENT) { // no such table
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list routes: %w", err)
	}
	routes, rooms = make(map[netip.Addr]route), make(map[int]int)
	for _, one := range list {
		if len(one.Data) < unix.SizeofRtMsg || one.Data[5] != protocol {
			continue
		}
		ad, err := mdnetlink.NewAttributeDecoder(one.Data[unix.SizeofRtMsg:])
		if err != nil {
			return nil, nil, fmt.Errorf("read route: %w", err)
		}
		r, room := route{state: state}, 0
		var a netip.Addr
		for ad.Next() {
			switch ad.Type() {
			case unix.RTA_DST:
				a, _ = netip.AddrFromSlice(ad.Bytes())
			case rtaNexthop:
				r.number = int(ad.Uint32())
			case unix.RTA_METRICS:
				ad.Nested(func(e *mdnetlink.AttributeDecoder) error {
					for e.Next() {
						if e.Type() == unix.RTAX_MTU {
							room = int(e.Uint32())
						}
					}
					return nil
				})
			}
		}
		if err := ad.Err(); err != nil {
			return nil, nil, fmt.Errorf("read route: %w", err)
		}
		if a.IsValid() && r.number != 0 {
			routes[a] = r
			if room > 0 {
				rooms[r.number] = room
			}
		}
	}
	return routes, rooms, nil
}
