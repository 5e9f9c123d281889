package vxlan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/routes"
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

	// hopLimit of outer packets.
	hopLimit = 64
)

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
	header := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET6, 0, m.table.Protocol, 0}, unix.RTNH_F_ONLINK) // struct nhmsg
	if err := routes.Request(m.fabric.ns, rtmNewNexthop, mdnetlink.Create|mdnetlink.Replace, header, attrs); err != nil {
		return fmt.Errorf("set nexthop object %d: %w", number, err)
	}
	return nil
}

// removeNexthop removes a host's nexthop object, and with it all routes that name it.
func (m *Module) removeNexthop(number int) error {
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Uint32(nhaID, uint32(number))
	err := routes.Request(m.fabric.ns, rtmDelNexthop, 0, make([]byte, 8), attrs)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nexthop object %d: %w", number, err)
	}
	return nil
}

// nexthops lists the ends of all tunnels.
func (m *Module) nexthops() (map[int]channel.Host, error) {
	list, err := routes.Dump(m.fabric.ns, rtmGetNexthop, make([]byte, 8), mdnetlink.NewAttributeEncoder())
	if err != nil {
		return nil, fmt.Errorf("list nexthop objects: %w", err)
	}
	found := make(map[int]channel.Host)
	for _, one := range list {
		const header = 8
		if len(one.Data) < header || one.Data[2] != m.table.Protocol {
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
