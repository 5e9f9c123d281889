package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// Prefixes are the routes to prefixes of machines beyond gateways, of one kind of channels in one
// network: the kernel takes the longest one that fits. No two kinds may have the same numbers. Its
// methods are called one at a time.
type Prefixes struct {
	NS       *netns.NS // the fabric's; it stays the caller's
	Protocol byte      // marks the routes (rtm_protocol), and no others
	Metric   uint32    // see [Table]
	// Gateways are the host's addresses in the network, one of each family that it has. Prefixes of
	// another family have no routes.
	Gateways []netip.Addr
}

// Way is where packets for a prefix go.
type Way struct {
	Nexthop int // the nexthop object of a gateway; or Here, or Nowhere
	Room    int // the size of the largest packet, in bytes; 0: the device says it
}

// Here and Nowhere are ways that are no nexthop object: to this host, whose own routes lead on, and to
// no gateway of this kind of channels. Where no other kind has one either packets are dropped: without
// that they would go to the host, which is no gateway.
const (
	Here    = 0
	Nowhere = -1
)

// fence is added to the metric of the routes that drop: all others come first.
const fence = 1 << 30

// place is where a route is: there may be one for each.
type place struct {
	prefix netip.Prefix
	metric uint32
}

// Set has these prefixes have routes, and no others.
func (p *Prefixes) Set(want map[netip.Prefix]Way) error {
	before, err := p.list()
	if err != nil {
		return err
	}
	after := make(map[place]Way)
	for prefix, w := range want {
		if !p.gateway(prefix).IsValid() {
			continue
		}
		if w.Nexthop != Nowhere {
			after[place{prefix, p.Metric}] = w
		}
		if w.Nexthop != Here {
			after[place{prefix, p.Metric + fence}] = Way{Nexthop: Nowhere}
		}
	}
	var put, remove []mdnetlink.Message
	for at, w := range after {
		if now, ok := before[at]; ok && now == w {
			continue
		}
		one, err := p.message(unix.RTM_NEWROUTE, mdnetlink.Create|mdnetlink.Replace, at, w)
		if err != nil {
			return err
		}
		put = append(put, one)
	}
	for at, w := range before {
		if _, stays := after[at]; stays {
			continue
		}
		one, err := p.message(unix.RTM_DELROUTE, 0, at, w)
		if err != nil {
			return err
		}
		remove = append(remove, one)
	}
	if err := exchange(p.NS, put, nil); err != nil {
		return fmt.Errorf("set routes to machines beyond gateways: %w", err)
	}
	if err := exchange(p.NS, remove, unix.ESRCH); err != nil {
		return fmt.Errorf("remove routes to machines beyond gateways: %w", err)
	}
	return nil
}

// List returns where packets go, without those for which there is nothing but a fence.
func (p *Prefixes) List() (map[netip.Prefix]Way, error) {
	all, err := p.list()
	found := make(map[netip.Prefix]Way)
	for at, w := range all {
		if at.metric == p.Metric {
			found[at.prefix] = w
		}
	}
	return found, err
}

// gateway is the host's address of a prefix's family.
func (p *Prefixes) gateway(prefix netip.Prefix) netip.Addr {
	for _, g := range p.Gateways {
		if g.Is4() == prefix.Addr().Is4() {
			return g
		}
	}
	return netip.Addr{}
}

// message makes a request about a route.
func (p *Prefixes) message(kind uint16, flags mdnetlink.HeaderFlags, at place, w Way) (mdnetlink.Message, error) {
	header := []byte{unix.AF_INET, byte(at.prefix.Bits()), 0, 0, unix.RT_TABLE_MAIN, p.Protocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0} // struct rtmsg
	if at.prefix.Addr().Is6() {
		header[0] = unix.AF_INET6
	}
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Bytes(unix.RTA_DST, at.prefix.Addr().AsSlice())
	attrs.Uint32(unix.RTA_PRIORITY, at.metric)
	switch w.Nexthop {
	case Nowhere:
		header[7] = unix.RTN_BLACKHOLE
	case Here:
		uplink, err := p.uplink()
		if err != nil {
			return mdnetlink.Message{}, err
		}
		attrs.Uint32(unix.RTA_OIF, uint32(uplink))
		attrs.Bytes(unix.RTA_GATEWAY, p.gateway(at.prefix).AsSlice())
	default:
		attrs.Uint32(rtaNexthop, uint32(w.Nexthop))
	}
	narrow(attrs, w.Room)
	return message(kind, flags, header, attrs)
}

// uplink is the index of the fabric's device towards the host.
func (p *Prefixes) uplink() (index int, err error) {
	err = p.NS.Do(func() error {
		device, err := net.InterfaceByName(fabric.UplinkDevice)
		if err == nil {
			index = device.Index
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", fabric.UplinkDevice, err)
	}
	return index, nil
}

func (p *Prefixes) list() (map[place]Way, error) {
	found := make(map[place]Way)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, unix.SizeofRtMsg)
		header[0], header[5] = family, p.Protocol
		attrs := mdnetlink.NewAttributeEncoder()
		attrs.Uint32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
		list, err := Dump(p.NS, unix.RTM_GETROUTE, header, attrs)
		if err != nil && !errors.Is(err, unix.ENOENT) { // no such table
			return nil, fmt.Errorf("list routes to machines beyond gateways: %w", err)
		}
		for _, one := range list {
			if len(one.Data) < unix.SizeofRtMsg || one.Data[5] != p.Protocol {
				continue
			}
			r, err := read(one.Data[unix.SizeofRtMsg:])
			if err != nil {
				return nil, err
			}
			w := Way{Nexthop: r.Nexthop, Room: r.Room}
			if one.Data[7] == unix.RTN_BLACKHOLE {
				w.Nexthop = Nowhere
			}
			if r.addr.IsValid() {
				found[place{netip.PrefixFrom(r.addr, int(one.Data[1])), r.metric}] = w
			}
		}
	}
	return found, nil
}
