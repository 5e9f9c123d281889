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

// PassOn makes the slow path's device in the fabric, which has Ethernet headers, pass on
// what the slow path writes: to endpoints here, and to those of other hosts, these also by
// routes that are not open to all yet. The device's name is its name in the fabric.
func (f *Fabric) PassOn(ctx context.Context, device string) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if f.fast == nil {
		return fmt.Errorf("pass packets on from device %s: %w", device, f.fastPath)
	}
	dev, err := f.in.nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("pass packets on from device %s: %w", device, err)
	}
	return f.fast.Install(f.in.nl, dev.Attrs().Index, fastpath.Waiting)
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
