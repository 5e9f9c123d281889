package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
)

// mapping is the addresses that an endpoint has inside its namespace, at most one
// of each family. It is empty for a plain endpoint, whose addresses are the same
// inside and outside.
//
// The kernel keeps it as the alias of the endpoint's device in the fabric, so it
// lives as long as the device, an adopting run finds it, and `ip link` shows it.
type mapping []netip.Addr

const mappingPrefix = "inside "

// String returns the alias: "inside 10.77.0.7 fd77::7", or nothing.
func (m mapping) String() string {
	if len(m) == 0 {
		return ""
	}
	list := make([]string, len(m))
	for i, a := range m {
		list[i] = a.String()
	}
	return mappingPrefix + strings.Join(list, " ")
}

// parseMapping reads an alias. One that is no mapping is that of a plain endpoint.
func parseMapping(alias string) mapping {
	text, ok := strings.CutPrefix(alias, mappingPrefix)
	if !ok {
		return nil
	}
	var m mapping
	for field := range strings.FieldsSeq(text) {
		a, err := netip.ParseAddr(field)
		if err != nil {
			return nil
		}
		m = append(m, a)
	}
	return m
}

// inside returns the address that stands for outside in the namespace.
func (m mapping) inside(outside netip.Addr) netip.Addr {
	for _, a := range m {
		if a.Is4() == outside.Is4() {
			return a
		}
	}
	return outside
}

// kind is what the endpoint's device has to do.
func (m mapping) kind() fastpath.Kind {
	if len(m) == 0 {
		return fastpath.Plain
	}
	return fastpath.Translated
}

func (ep Endpoint) mapping() mapping {
	var m mapping
	kind := fastpath.Plain
	for _, hop := range hops(ep) {
		m = append(m, hop.inside)
		if hop.inside != hop.outside {
			kind = fastpath.Translated
		}
	}
	if kind == fastpath.Plain {
		return nil
	}
	return m
}

// checkInside looks at what an app can't have as an address of its own.
func (f *Fabric) checkInside(ep Endpoint) error {
	if ep.Inside6.IsValid() && !ep.Addr6.IsValid() {
		return fmt.Errorf("%w: inside address %s without an IPv6 address outside", ErrConfig, ep.Inside6)
	}
	space := f.cfg.space()
	for _, hop := range hops(ep) {
		switch {
		case hop.inside.BitLen() != hop.outside.BitLen() || hop.inside.Is4In6() || hop.inside.Zone() != "":
			return fmt.Errorf("%w: inside address %s for %s", ErrConfig, hop.inside, hop.outside)
		case !hop.inside.IsGlobalUnicast():
			return fmt.Errorf("%w: inside address %s is not an ordinary unicast one", ErrConfig, hop.inside)
		case hop.inside == space.Gateway4() || hop.inside == space.Gateway6():
			return fmt.Errorf("%w: inside address %s is the gateway's, which the app has to reach", ErrConfig, hop.inside)
		}
	}
	return nil
}

// renumber takes the addresses of an earlier mapping off the app's device. The new
// ones have to be there already: with its last address a device loses its routes.
func (s *side) renumber(eth netlink.Link, before mapping, ep Endpoint) error {
	for _, hop := range hops(ep) {
		old := before.inside(hop.outside)
		if old == hop.inside {
			continue
		}
		err := s.nl.AddrDel(eth, &netlink.Addr{IPNet: ipNet(single(old))})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s from %s: %w", old, eth.Attrs().Name, err)
		}
	}
	return nil
}

// remember keeps the endpoint's mapping. It comes after renumber, which is done again
// if it was interrupted, and before there is a route, by which Open finds endpoints.
func (f *Fabric) remember(dev netlink.Link, ep Endpoint) error {
	alias := ep.mapping().String()
	if dev.Attrs().Alias == alias {
		return nil
	}
	if err := f.in.nl.LinkSetAlias(dev, alias); err != nil {
		return fmt.Errorf("set alias of %s: %w", dev.Attrs().Name, err)
	}
	return nil
}
