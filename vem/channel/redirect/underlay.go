package redirect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/netlist"
)

// SetUnderlay says where channels may begin; see [channel.Module].
func (m *Module) SetUnderlay(ctx context.Context, list []channel.Underlay) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if err := m.setUnderlay(list); err != nil {
		return fmt.Errorf("set underlay of %s: %w", m.cfg.Device, err)
	}
	return nil
}

func (m *Module) setUnderlay(list []channel.Underlay) error {
	want, addrs := make(map[netip.Addr]device), make([]netip.Addr, 0, len(list))
	keep := make(map[int]bool)
	for _, u := range list {
		d, err := m.find(u)
		if err != nil {
			return err
		}
		want[u.Addr], keep[d.index] = d, true
		addrs = append(addrs, u.Addr)
	}
	before, err := m.arrivals()
	if err != nil {
		return err
	}
	// Addresses first: without them a tunnelled packet is not ours.
	if err := m.cfg.Remotes.SetHere(addrs); err != nil {
		return err
	}
	for index := range keep {
		if err := m.ends.InstallArrive(m.net(), index); err != nil {
			return err
		}
	}
	for _, index := range before {
		if keep[index] {
			continue
		}
		if err := fastpath.RemoveArrive(m.net(), index, m.device); err != nil {
			return err
		}
	}
	m.underlay = want
	return nil
}

// find looks at an underlay device.
func (m *Module) find(u channel.Underlay) (device, error) {
	link, err := m.nl.LinkByName(u.Device)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return device{}, fmt.Errorf("%w: there is no device %s", channel.ErrUnderlay, u.Device)
	}
	if err != nil {
		return device{}, fmt.Errorf("find device %s: %w", u.Device, err)
	}
	attrs := link.Attrs()
	switch {
	case attrs.EncapType != "ether":
		return device{}, fmt.Errorf("%w: packets of device %s have no Ethernet headers (it is of type %s)", channel.ErrUnderlay, u.Device, attrs.EncapType)
	case attrs.Index == m.device:
		return device{}, fmt.Errorf("%w: device %s is the network's own", channel.ErrUnderlay, u.Device)
	}
	return device{attrs.Index, attrs.MTU}, u.Check(m.cfg.Prefix4, m.cfg.Prefix6)
}

// arrivals returns the devices of the host that have this network's program, and takes those of
// networks that are gone off all of them.
func (m *Module) arrivals() (mine []int, err error) {
	links, err := netlist.Links(m.nl)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var there []int
	for _, l := range links {
		there = append(there, l.Attrs().Index)
	}
	for _, index := range there {
		networks, err := fastpath.Arrivals(m.net(), index)
		if err != nil {
			return nil, err
		}
		for _, network := range networks {
			if network == m.device {
				mine = append(mine, index)
				continue
			}
			if slices.Contains(there, network) {
				continue
			}
			if err := fastpath.RemoveArrive(m.net(), index, network); err != nil {
				return nil, err
			}
		}
	}
	return mine, nil
}

// replaceArrivals puts this run's program where an earlier one's is.
func (m *Module) replaceArrivals() error {
	mine, err := m.arrivals()
	if err != nil {
		return err
	}
	for _, index := range mine {
		if err := m.ends.InstallArrive(m.net(), index); err != nil {
			return err
		}
	}
	return nil
}
