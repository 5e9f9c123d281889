package channel

import (
	"fmt"
	"net/netip"
	"slices"
)

// minMTU is what every network has to carry that has IPv6 (RFC 8200, 5).
const minMTU = 1280

// Check returns an error wrapping ErrUnderlay if channels of a network with these prefixes can't
// begin at the address.
func (u Underlay) Check(network ...netip.Prefix) error {
	if !u.Addr.IsValid() || u.Addr.Is4In6() || u.Addr.Zone() != "" {
		return fmt.Errorf("%w: address %s", ErrUnderlay, u.Addr)
	}
	if within(u.Addr, network) {
		return fmt.Errorf("%w: address %s of device %s is in the network's prefix", ErrUnderlay, u.Addr, u.Device)
	}
	return nil
}

// Check returns an error wrapping ErrRoute if a network with these prefixes can't have the route.
// isSet tells whether its host is.
func (r Route) Check(isSet bool, network ...netip.Prefix) error {
	switch {
	case !within(r.Addr, network):
		return fmt.Errorf("%w: %s is not in %s", ErrRoute, r.Addr, network)
	case !isSet:
		return fmt.Errorf("%w: %s leads to host %q, which is not set", ErrRoute, r.Addr, r.Host)
	case r.State != Opening && r.State != Open:
		return fmt.Errorf("%w: %s is %s", ErrRoute, r.Addr, r.State)
	}
	return nil
}

// Check returns an error wrapping ErrRoute if a network with these prefixes can't have such machines.
func (b Beyond) Check(network ...netip.Prefix) error {
	if !b.Prefix.IsValid() || b.Prefix != b.Prefix.Masked() || slices.ContainsFunc(network, b.Prefix.Overlaps) {
		return fmt.Errorf("%w: machines that are no endpoints can't have addresses of %s in network %s", ErrRoute, b.Prefix, network)
	}
	return nil
}

func within(a netip.Addr, network []netip.Prefix) bool {
	return slices.ContainsFunc(network, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Room returns how large a packet of an endpoint may be, in bytes, in a channel that adds outer
// bytes to each and begins at a device with an MTU. It returns an error wrapping ErrMTU if that is
// too small.
func (h Host) Room(mtu, outer int) (int, error) {
	if h.MTU != 0 {
		mtu = min(mtu, h.MTU)
	}
	if mtu -= outer; mtu < minMTU {
		return 0, fmt.Errorf("%w: %d bytes are left for endpoints' packets through %s, and at least %d have to be", ErrMTU, mtu, h.Local, minMTU)
	}
	return mtu, nil
}
