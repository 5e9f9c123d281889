package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/netns"
)

// Far is what a data channel needs of a fabric to reach endpoints of other hosts. All of it
// belongs to the fabric.
type Far struct {
	Remotes          *fastpath.Remotes
	Host             *netns.NS // the host's namespace
	Device           string    // the host's device of the network, in Host
	Prefix4, Prefix6 netip.Prefix
	MTU              int // of all apps' devices
	// Narrow makes the fabric answer a packet that a program has marked with a size by "too
	// big", or fragment it to that size. It stays so until the network is deleted.
	Narrow func(size int) error
}

// Far returns what data channels need. It returns an error wrapping
// [fastpath.ErrUnsupported] if this host has no fast path, or [ErrPrefixInUse] if no packet
// of the network gets to the host.
func (f *Fabric) Far() (Far, error) {
	if f.fast == nil {
		return Far{}, fmt.Errorf("reach other hosts from network %s: %w", f.cfg.Network, f.fastPath)
	}
	if f.hostPath != nil {
		return Far{}, fmt.Errorf("reach other hosts from network %s: %w", f.cfg.Network, f.hostPath)
	}
	return Far{
		Remotes: f.fast.Remotes(), Host: f.host.ns, Device: f.HostDevice(),
		Prefix4: f.cfg.Prefix4, Prefix6: f.cfg.Prefix6, MTU: f.cfg.MTU, Narrow: f.narrow,
	}, nil
}

// SetSelf gives the host addresses of the network that endpoints of other hosts see it at, and
// reach it at. They must be nobody else's; a zero one gives none. Endpoints of this host see it
// at the gateway's addresses, which every host has: only what goes to other hosts is
// translated, without state, as it is for an endpoint with an inside address.
func (f *Fabric) SetSelf(ctx context.Context, a4, a6 netip.Addr) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	far, err := f.Far()
	if err != nil {
		return err
	}
	if err := f.setSelf(far.Remotes, a4, a6); err != nil {
		return fmt.Errorf("set the host's addresses in network %s: %w", f.cfg.Network, err)
	}
	return nil
}

func (f *Fabric) setSelf(remotes *fastpath.Remotes, a4, a6 netip.Addr) error {
	for _, n := range f.prefixes() {
		a := a4
		if n.gateway.Is6() {
			a = a6
		}
		if a.IsValid() && (!n.prefix.Contains(a) || a == n.gateway) {
			return fmt.Errorf("%w: %s is not an address of %s for the host", ErrConfig, a, n.prefix)
		}
		before, err := f.self(n)
		if err != nil {
			return err
		}
		for _, b := range before {
			if b == a {
				continue
			}
			if err := f.fast.Remove(b); err != nil {
				return err
			}
			if err := f.in.nl.RouteDel(f.selfRoute(b)); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route to %s: %w", b, err)
			}
		}
		if !a.IsValid() {
			continue
		}
		if err := f.in.route(*f.selfRoute(a)); err != nil { // for the next Open to find it
			return err
		}
		if err := f.fast.Put(a, n.gateway, f.uplink, fastpath.Plain); err != nil {
			return err
		}
	}
	return remotes.SetSelf(a4, a6)
}

func (f *Fabric) selfRoute(a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: f.uplink, Dst: ipNet(single(a)), Scope: netlink.SCOPE_LINK}
}

// self returns the addresses that the host has for other hosts: one, or two after a SetSelf
// that was cut short.
func (f *Fabric) self(n hostNet) (list []netip.Addr, err error) {
	all, err := f.in.nl.RouteListFiltered(family(n.gateway), &netlink.Route{LinkIndex: f.uplink}, netlink.RT_FILTER_OIF)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range all {
		if a, ok := hostRoute(r); ok && n.prefix.Contains(a) && a != n.gateway {
			list = append(list, a)
		}
	}
	return list, nil
}

// PassOn makes the slow path's device in the fabric, which has Ethernet headers, pass on what
// the slow path writes: to endpoints here, and to those of other hosts, these also by routes that
// are not open to all yet. Call it when the device has been made; [Open] does it for
// [SlowDevice] if that is there.
func (f *Fabric) PassOn(ctx context.Context, device string) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if f.fast == nil {
		return fmt.Errorf("pass packets on from device %s: %w", device, f.fastPath)
	}
	if err := f.passOn(f.fast, device); err != nil {
		return fmt.Errorf("pass packets on from device %s: %w", device, err)
	}
	return nil
}

// passOn does nothing if there is no such device.
func (f *Fabric) passOn(table *fastpath.Table, device string) error {
	dev, err := f.in.link(device)
	if err != nil || dev == nil {
		return err
	}
	return table.Install(f.in.nl, dev.Attrs().Index, fastpath.Waiting)
}

// narrow adds a table of routes for packets marked with a size, whose number is that size. The
// routes lead to the host, where a program takes fragments on to the other host. The size is
// locked, without which IPv6 forwards by the device's (include/net/ip6_route.h,
// ip6_dst_mtu_maybe_forward).
func (f *Fabric) narrow(size int) error {
	for _, n := range f.prefixes() {
		if err := f.in.route(netlink.Route{
			LinkIndex: f.uplink, Dst: ipNet(n.all), Gw: n.gateway.AsSlice(), Table: size, MTU: size, MTULock: true,
		}); err != nil {
			return err
		}
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Table, rule.Priority = family(n.gateway), uint32(size), size, size
		if err := f.in.nl.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule for packets of more than %d bytes: %w", size, err)
		}
	}
	return nil
}
