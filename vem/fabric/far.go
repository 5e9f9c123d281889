package fabric

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/fabric/outward"
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
	// Narrow makes the fabric answer a packet that a program has marked with one of these sizes by
	// "too big", or fragment it to that size. Other sizes mean nothing from then on. It stays so until
	// the network is deleted.
	Narrow func(sizes []int) error
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
		Prefix4: f.cfg.Prefix4, Prefix6: f.cfg.Prefix6, MTU: f.cfg.MTU, Narrow: f.outward().Narrow,
	}, nil
}

// SetSelf gives the host addresses of the network that endpoints of other hosts see it at, and
// reach it at. They must be nobody else's; a zero one gives none. Endpoints of this host see it
// at the gateway's addresses, which every host has: only what goes to other hosts is
// translated, without state, as it is for an endpoint with an inside address.
// It returns an error wrapping [outward.ErrAddress] if one can't be the host's.
func (f *Fabric) SetSelf(ctx context.Context, a4, a6 netip.Addr) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if f.hostPath != nil {
		return fmt.Errorf("set the host's addresses in network %s: %w", f.cfg.Network, f.hostPath)
	}
	err := f.outward().SetSelf(f.fast, a4, a6)
	if err == nil && f.fast != nil {
		err = f.fast.Remotes().SetSelf(a4, a6)
	}
	if err != nil {
		return fmt.Errorf("set the host's addresses in network %s: %w", f.cfg.Network, err)
	}
	return nil
}

// PassOn makes the slow path's device in the fabric, which has Ethernet headers, pass on what
// the slow path writes: to endpoints here, and to those of other hosts, these also by routes that
// are not open to all yet. Call it when the device has been made; [Open] does it for
// [SlowDevice] if that is there. Without a fast path the fabric's routes do that.
func (f *Fabric) PassOn(ctx context.Context, device string) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if f.fast == nil {
		return nil
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
	return table.Install(f.in.net(), dev.Attrs().Index, fastpath.Waiting)
}

// outward are the fabric's routes for traffic of other hosts.
func (f *Fabric) outward() outward.Routes {
	r := outward.Routes{NS: f.in.ns, NL: f.in.nl, Uplink: f.uplink, Channels: []string{VXLANDevice, WireGuardDevice, MachinesDevice}}
	for _, n := range f.prefixes() {
		r.Nets = append(r.Nets, outward.Net{Prefix: n.prefix, Gateway: n.gateway})
	}
	return r
}
