package fabric

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/fabric/local"
	"github.com/snapctl/snapctl/vem/netns"
)

// Endpoint is an app's place in the network.
//
// An app that is the copy of another one goes on using the addresses that were
// frozen with it. They are the inside addresses: eth0 has them, and the app sees
// itself by them, but to everybody else, in routes and publications, it is Addr4
// and Addr6. Any number of endpoints may have the same inside addresses, which need
// not lie in the network's prefixes. An app may also reach itself by Addr4 and
// Addr6, but never anybody else whose address is its own inside address, or be
// reached by them: a copy and a running original at that address do not meet.
//
// Inside addresses need BPF; see [Fabric.FastPath].
type Endpoint struct {
	App     string           // for errors and logs
	Addr4   netip.Addr       // in Prefix4; it identifies the endpoint within the network
	Addr6   netip.Addr       // in Prefix6; zero: no IPv6
	Inside4 netip.Addr       // zero: Addr4
	Inside6 netip.Addr       // zero: Addr6
	MAC     net.HardwareAddr // zero: made from Addr4
	Apart   bool             // Attach makes all but what lets traffic in
}

func (f *Fabric) check(ep Endpoint) error {
	free := func(netip.Addr) bool { return false }
	space := f.cfg.space()
	if !ep.Addr4.Is4() {
		return fmt.Errorf("%w: %s is not an IPv4 address", ErrConfig, ep.Addr4)
	}
	if err := space.Check(ep.Addr4, free); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if ep.Addr6.IsValid() {
		if !ep.Addr6.Is6() {
			return fmt.Errorf("%w: %s is not an IPv6 address", ErrConfig, ep.Addr6)
		}
		if err := space.Check(ep.Addr6, free); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	if ep.MAC != nil && (len(ep.MAC) != 6 || ep.MAC[0]&1 != 0) {
		return fmt.Errorf("%w: %s is not a unicast hardware address", ErrConfig, ep.MAC)
	}
	return nil
}

// appSysctls are set before the app's device exists, which inherits them.
//
//   - mptcp.enabled: since Go 1.24 a net.Listen is an MPTCP socket where the kernel
//     allows it, and CRIU cannot save those; without it every program falls back.
//   - ping_group_range, ip_unprivileged_port_start: as Docker and podman, so that a
//     program that is not root can ping and bind port 80 of its own namespace.
//   - addr_gen_mode 1 (none), accept_dad, accept_ra: no traffic of the kernel's own.
//   - accept_redirects: routes are the fabric's business. The effective value is
//     all or default's, so both (Documentation/networking/ip-sysctl.rst).
var appSysctls = []sysctl{
	{"mptcp/enabled", "0", optional},
	{"ipv4/ping_group_range", "0 2147483647", required},
	{"ipv4/ip_unprivileged_port_start", "0", required},
	{"ipv4/conf/all/accept_redirects", "0", required},
	{"ipv4/conf/default/accept_redirects", "0", required},
	{"ipv6/conf/all/disable_ipv6", "0", optional},
	{"ipv6/conf/default/disable_ipv6", "0", optional},
	{"ipv6/conf/default/addr_gen_mode", "1", optional},
	{"ipv6/conf/default/accept_dad", "0", optional},
	{"ipv6/conf/default/accept_ra", "0", optional},
	{"ipv6/conf/default/accept_redirects", "0", optional},
}

// Attach connects the app's namespace to the network: eth0 with the endpoint's
// addresses, default routes, loopback up, and routes to it in the fabric. It may
// be repeated, and then repairs what is missing, and replaces inside addresses by
// others or none. Existing connections, sockets and other devices of the namespace
// stay as they are.
//
// It returns an error wrapping [ErrConfig], [ErrAttached] if the endpoint leads to
// another namespace (which, when it has died, can take the kernel a moment to
// clear: Detach does it at once), or [fastpath.ErrUnsupported] if the endpoint has
// an inside address and this host can't translate. If it fails, a device that it
// made is gone again.
//
// Cost: some 2 ms, mostly the kernel's when it makes a device.
func (f *Fabric) Attach(ctx context.Context, ep Endpoint, ns *netns.NS) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if err := f.attach(ctx, ep, ns); err != nil {
		return fmt.Errorf("attach app %s to network %s: %w", ep.App, f.cfg.Network, err)
	}
	return nil
}

func (f *Fabric) attach(ctx context.Context, ep Endpoint, ns *netns.NS) (err error) {
	f.apart.forget(ep)
	if err := f.check(ep); err != nil {
		return err
	}
	if err := f.checkInside(ep); err != nil {
		return err
	}
	if ep.mapping().kind() == fastpath.Translated && f.fast == nil {
		return fmt.Errorf("give it inside address %s: %w", ep.mapping().inside(ep.Addr4), f.fastPath)
	}
	app, err := openSide(ns)
	if err != nil {
		return err
	}
	defer app.close() //nolint:errcheck // a handle
	want := f.endpointVeth(ep)
	p, err := findVeth(f.in, app, want)
	if err != nil {
		return err
	}
	if err := app.setDiffering(appSysctls...); err != nil {
		return err
	}
	if p == nil {
		if p, err = makeVeth(f.in, app, want); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, f.lengthen(p.near, ep), f.in.removeLink(want.name))
			}
		}()
	}
	if err := p.setMTU(f.in, app, f.cfg.MTU); err != nil {
		return err
	}
	if err := app.up("lo"); err != nil {
		return err
	}
	for _, hop := range hops(ep) {
		if err := app.addr(p.far, hop.inside); err != nil {
			return err
		}
	}
	if err := app.renumber(p.far, parseMapping(p.near.Attrs().Alias), ep); err != nil {
		return err
	}
	if err := p.up(f.in, app); err != nil {
		return err
	}
	if err := routeApp(app, p.far, ep); err != nil {
		return err
	}
	for _, hop := range hops(ep) {
		if err := local.Await(ctx, app.ns, app.nl, hop.inside); err != nil {
			return err
		}
	}
	if ep.Apart {
		return f.remember(p.near, ep)
	}
	if err := f.shorten(ep, p.near.Attrs().Index); err != nil {
		return err
	}
	if err := f.remember(p.near, ep); err != nil {
		return err
	}
	return f.routeEndpoint(p.near, ep, want.far.mac)
}

func (f *Fabric) endpointVeth(ep Endpoint) veth {
	want := veth{name: endpointDevice(ep.Addr4), mac: fabricMAC, mtu: f.cfg.MTU}
	want.far.name, want.far.mac = AppDevice, ep.MAC
	if ep.MAC == nil {
		want.far.mac = endpointMAC(ep.Addr4)
	}
	return want
}

// routeApp gives the app its way to everybody.
func routeApp(app *side, eth netlink.Link, ep Endpoint) error {
	index := eth.Attrs().Index
	for _, hop := range hops(ep) {
		if err := app.neigh(index, hop.via, fabricMAC); err != nil {
			return err
		}
		if err := app.route(netlink.Route{
			LinkIndex: index, Dst: ipNet(hop.all), Gw: hop.via.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		}); err != nil {
			return err
		}
	}
	return nil
}

// routeEndpoint gives everybody the way to the app: from then on it gets traffic.
func (f *Fabric) routeEndpoint(dev netlink.Link, ep Endpoint, mac net.HardwareAddr) error {
	index := dev.Attrs().Index
	for _, hop := range hops(ep) {
		if err := f.in.neigh(index, hop.outside, mac); err != nil {
			return err
		}
	}
	return f.routeTo(ep, index)
}

func (f *Fabric) routeTo(ep Endpoint, index int) error {
	for _, hop := range hops(ep) {
		if err := f.in.route(netlink.Route{LinkIndex: index, Dst: ipNet(single(hop.outside)), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
	}
	return nil
}

// hop is one address family of an endpoint.
type hop struct {
	outside, inside, via netip.Addr
	all                  netip.Prefix
}

func hops(ep Endpoint) []hop {
	list := []hop{{ep.Addr4, ep.Inside4, nextHop4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)}}
	if ep.Addr6.IsValid() {
		list = append(list, hop{ep.Addr6, ep.Inside6, nextHop6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)})
	}
	for i := range list {
		if !list[i].inside.IsValid() {
			list[i].inside = list[i].outside
		}
	}
	return list
}

// Detach removes the endpoint's device, and with it eth0 in the app's namespace,
// whether or not that still exists. The address answers "host unreachable" from
// then on. It does nothing if the endpoint is not attached. Inside addresses do not
// matter.
func (f *Fabric) Detach(ctx context.Context, ep Endpoint) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if err := f.detach(ep); err != nil {
		return fmt.Errorf("detach app %s from network %s: %w", ep.App, f.cfg.Network, err)
	}
	return nil
}

func (f *Fabric) detach(ep Endpoint) error {
	if err := f.check(ep); err != nil {
		return err
	}
	f.apart.forget(ep)
	dev, err := f.in.link(endpointDevice(ep.Addr4))
	if err != nil {
		return err
	}
	if err := f.lengthen(dev, ep); err != nil || dev == nil {
		return err
	}
	return f.in.removeLink(dev.Attrs().Name)
}
