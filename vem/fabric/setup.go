package fabric

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/local"
	"github.com/snapctl/snapctl/vem/netlist"
)

// insideSysctls turn the fabric's namespace into a router and nothing else.
//
//   - rp_filter 1: an app cannot send from another's IPv4 address. The effective
//     value is the larger of all and the device's, and a new namespace has
//     init_net's, so all goes to 0 first.
//   - ip_early_demux 0: no socket lookup for packets that are only forwarded.
//   - send_redirects: everything enters and leaves through different devices or
//     is meant to.
var insideSysctls = []sysctl{
	{"ipv4/ip_forward", "1", required},
	{"ipv4/ip_early_demux", "0", required},
	{"ipv4/conf/all/rp_filter", "0", required},
	{"ipv4/conf/default/rp_filter", "1", required},
	{"ipv4/conf/all/send_redirects", "0", required},
	{"ipv4/conf/default/send_redirects", "0", required},
	{"ipv4/conf/all/accept_redirects", "0", required},
	{"ipv4/conf/default/accept_redirects", "0", required},
}

var insideSysctls6 = []sysctl{
	{"ipv6/conf/all/disable_ipv6", "0", required},
	{"ipv6/conf/default/disable_ipv6", "0", required},
	{"ipv6/conf/all/forwarding", "1", required},
	{"ipv6/conf/default/forwarding", "1", required},
	{"ipv6/conf/default/addr_gen_mode", "1", required},
	{"ipv6/conf/default/accept_dad", "0", required},
	{"ipv6/conf/default/accept_ra", "0", required},
}

// setupInside configures what the fabric's namespace has without any link: it
// forwards, it has its next-hop addresses, and it refuses what it does not know.
func (f *Fabric) setupInside() error {
	settings := insideSysctls
	addrs := []netip.Addr{nextHop4}
	nets := []netip.Prefix{f.cfg.Prefix4}
	if f.cfg.Prefix6.IsValid() {
		settings = slices.Concat(insideSysctls, insideSysctls6)
		addrs = append(addrs, nextHop6)
		nets = append(nets, f.cfg.Prefix6)
	}
	if err := f.in.set(settings...); err != nil {
		return err
	}
	lo, err := f.in.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find device lo: %w", err)
	}
	if err := f.in.nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set device lo up: %w", err)
	}
	for _, a := range addrs {
		if err := f.in.addr(lo, a); err != nil {
			return err
		}
	}
	for _, p := range nets {
		// Without it a packet to an address that no app has would go to the host,
		// which would send it back.
		if err := f.in.route(netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Priority: math.MaxInt32}); err != nil {
			return err
		}
	}
	if !f.cfg.Prefix6.IsValid() {
		return nil
	}
	return f.in.replaceTable("snapctl", insideRuleset())
}

// setupHost makes or adopts the link between fabric and host, and gives the host
// its routes into the network.
func (f *Fabric) setupHost(ctx context.Context) error {
	name := f.HostDevice()
	owner, err := f.host.owner(name, f.alias())
	if err != nil {
		return err
	}
	if owner == others {
		return fmt.Errorf("%w: %s", ErrForeign, name)
	}
	want := veth{name: UplinkDevice, mac: fabricMAC, mtu: f.cfg.MTU}
	want.far.name, want.far.mac = name, hostMAC
	p, err := findVeth(f.in, f.host, want)
	if errors.Is(err, ErrAttached) {
		// Not connected to each other: from a run whose namespace is gone.
		if owner == unmarked {
			return fmt.Errorf("%w: %s", ErrForeign, name)
		}
		if err := errors.Join(f.in.removeLink(UplinkDevice), f.host.removeLink(name)); err != nil {
			return err
		}
		p, err = nil, nil
	}
	if err != nil {
		return err
	}
	if p == nil {
		if p, err = makeVeth(f.in, f.host, want); err != nil {
			return err
		}
	}
	if err := f.host.nl.LinkSetAlias(p.far, f.alias()); err != nil {
		return fmt.Errorf("set alias of %s: %w", name, err)
	}
	if err := p.setMTU(f.in, f.host, f.cfg.MTU); err != nil {
		return err
	}
	f.uplink = p.near.Attrs().Index
	if f.hostPath, err = f.host.checkPrefixes(p.far, f.prefixes()); err != nil || f.hostPath != nil {
		return err
	}
	if err := f.nameHost(p.far); err != nil {
		return err
	}
	if err := p.up(f.in, f.host); err != nil {
		return err
	}
	if err := f.routeHost(p.far.Attrs().Index); err != nil {
		return err
	}
	if err := local.Await(ctx, f.host.ns, f.host.nl, f.cfg.space().Gateway6()); err != nil {
		return err
	}
	return f.routeUplink()
}

// hostNet is one address family of the network as the host sees it.
type hostNet struct {
	prefix           netip.Prefix
	gateway, nextHop netip.Addr
	all              netip.Prefix
}

func (f *Fabric) prefixes() []hostNet {
	space := f.cfg.space()
	list := []hostNet{{space.Prefix4, space.Gateway4(), nextHop4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)}}
	if space.Prefix6.IsValid() {
		list = append(list, hostNet{space.Prefix6, space.Gateway6(), nextHop6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)})
	}
	return list
}

// nameHost gives snap-NETWORK the host's addresses in the network.
func (f *Fabric) nameHost(dev netlink.Link) error {
	name := dev.Attrs().Name
	// Before the device is up, when it would make itself a link-local address and
	// start to solicit routers.
	if err := f.host.set(
		sysctl{"ipv4/conf/" + name + "/accept_redirects", "0", required},
		sysctl{"ipv4/conf/" + name + "/send_redirects", "0", required},
		sysctl{"ipv6/conf/" + name + "/addr_gen_mode", "1", optional},
		sysctl{"ipv6/conf/" + name + "/accept_dad", "0", optional},
		sysctl{"ipv6/conf/" + name + "/accept_ra", "0", optional},
	); err != nil {
		return err
	}
	for _, n := range f.prefixes() {
		if err := f.host.addr(dev, n.gateway); err != nil {
			return err
		}
	}
	return nil
}

// routeHost gives the host its way into the network.
func (f *Fabric) routeHost(index int) error {
	for _, n := range f.prefixes() {
		if err := f.host.neigh(index, n.nextHop, fabricMAC); err != nil {
			return err
		}
		// The source address makes apps see the gateway, not whatever else the
		// host is called.
		if err := f.host.route(netlink.Route{
			LinkIndex: index, Dst: ipNet(n.prefix), Gw: n.nextHop.AsSlice(), Src: n.gateway.AsSlice(),
			Flags: int(netlink.FLAG_ONLINK),
		}); err != nil {
			return err
		}
	}
	return nil
}

// routeUplink gives the network its way to the host and beyond.
func (f *Fabric) routeUplink() error {
	for _, n := range f.prefixes() {
		if err := f.in.neigh(f.uplink, n.gateway, hostMAC); err != nil {
			return err
		}
		if err := f.in.route(netlink.Route{LinkIndex: f.uplink, Dst: ipNet(single(n.gateway)), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		if err := f.in.route(netlink.Route{LinkIndex: f.uplink, Dst: ipNet(n.all), Gw: n.gateway.AsSlice()}); err != nil {
			return err
		}
	}
	return nil
}

// alias marks the host's device as this fabric's; two daemons with different
// folders in one namespace do not steal from each other.
func (f *Fabric) alias() string { return "snapctl " + f.path() }

// owner says whose the host's device is, judged by its alias.
type owner int

const (
	nobody   owner = iota // no such device
	ours                  // made by this fabric or an earlier run of it
	unmarked              // no alias: ours if connected to us (killed after making it)
	others
)

func (s *side) owner(name, alias string) (owner, error) {
	link, err := s.link(name)
	if err != nil || link == nil {
		return nobody, err
	}
	switch {
	case link.Type() != "veth":
		return others, nil
	case link.Attrs().Alias == alias:
		return ours, nil
	case link.Attrs().Alias == "":
		return unmarked, nil
	}
	return others, nil
}

// checkPrefixes returns as its first value an error wrapping ErrPrefixInUse if
// another device has a route for a prefix or a part of it. A wider route is no
// obstacle.
func (s *side) checkPrefixes(own netlink.Link, nets []hostNet) (conflict, err error) {
	for _, n := range nets {
		routes, err := netlist.Routes(s.nl, family(n.gateway), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil || r.LinkIndex == own.Attrs().Index {
				continue
			}
			ones, _ := r.Dst.Mask.Size()
			a, _ := netip.AddrFromSlice(r.Dst.IP)
			if ones >= n.prefix.Bits() && n.prefix.Contains(a.Unmap()) {
				return fmt.Errorf("%w: route %s through %s", ErrPrefixInUse, r.Dst, s.linkName(r.LinkIndex)), nil
			}
		}
	}
	return nil, nil
}

func (s *side) linkName(index int) string {
	link, err := s.nl.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("device %d", index)
	}
	return link.Attrs().Name
}

// removeHost deletes the host's device, which takes routes and addresses along.
func (f *Fabric) removeHost() error {
	if f.host == nil {
		return nil
	}
	who, err := f.host.owner(f.HostDevice(), f.alias())
	if err != nil || who != ours {
		return err // one without alias goes with the fabric's end, if it is ours
	}
	return f.host.removeLink(f.HostDevice())
}
