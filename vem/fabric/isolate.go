package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/netns"
)

// Isolate cuts an attached endpoint off: its namespace keeps eth0 and its addresses,
// but nothing gets in or out until it is attached again, or rejoins.
//
// An endpoint with an inside address stays one step away from traffic: its device
// drops what the app sends, since the fast path does not know it, and no route leads
// there. The device of any other one is set down.
func (f *Fabric) Isolate(ctx context.Context, ep Endpoint) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	if err := f.isolate(ep); err != nil {
		return fmt.Errorf("isolate app %s in network %s: %w", ep.App, f.cfg.Network, err)
	}
	return nil
}

func (f *Fabric) isolate(ep Endpoint) error {
	f.apart.forget(ep)
	dev, err := f.in.link(endpointDevice(ep.Addr4))
	if err != nil || dev == nil {
		return err
	}
	if err := f.lengthen(dev, ep); err != nil {
		return err
	}
	if f.fast == nil || ep.mapping().kind() != fastpath.Translated {
		if err := f.in.nl.LinkSetDown(dev); err != nil {
			return fmt.Errorf("set device %s down: %w", dev.Attrs().Name, err)
		}
		return nil
	}
	index := dev.Attrs().Index
	for _, hop := range hops(ep) {
		err := f.in.nl.RouteDel(&netlink.Route{LinkIndex: index, Dst: ipNet(single(hop.outside)), Scope: netlink.SCOPE_LINK})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s: %w", hop.outside, err)
		}
	}
	f.apart.add(ep, index)
	return nil
}

// Rejoin attaches an endpoint that was isolated, and is as it was then. If it has an
// inside address, and this Fabric isolated it, only what Isolate took away is put
// back, which takes a tenth of the time: nothing is looked at or repaired. ns and
// errors are as for [Fabric.Attach].
func (f *Fabric) Rejoin(ctx context.Context, ep Endpoint, ns *netns.NS) error {
	if err := f.usable(ctx); err != nil {
		return err
	}
	index, ok := f.apart.find(ep)
	if !ok {
		return f.Attach(ctx, ep, ns)
	}
	if err := f.rejoin(ep, index); err != nil {
		return fmt.Errorf("attach app %s to network %s again: %w", ep.App, f.cfg.Network, err)
	}
	return nil
}

func (f *Fabric) rejoin(ep Endpoint, index int) error {
	for _, hop := range hops(ep) {
		if err := f.fast.Put(hop.outside, hop.inside, index, fastpath.Translated); err != nil {
			return err
		}
	}
	if err := f.routeTo(ep, index); err != nil {
		return err
	}
	f.apart.forget(ep)
	return nil
}

// apart are the endpoints that Isolate has cut off without setting their device down.
type apart struct {
	mu      sync.Mutex
	devices map[netip.Addr]place // by Addr4
}

// place is an endpoint's device and inside addresses.
type place struct {
	device  int
	mapping string
}

func (a *apart) add(ep Endpoint, device int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.devices == nil {
		a.devices = make(map[netip.Addr]place)
	}
	a.devices[ep.Addr4] = place{device, ep.mapping().String()}
}

func (a *apart) forget(ep Endpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.devices, ep.Addr4)
}

// find returns the device, unless the endpoint has other addresses by now.
func (a *apart) find(ep Endpoint) (device int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.devices[ep.Addr4]
	return p.device, ok && p.mapping == ep.mapping().String()
}
