package vxlan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/channel"
)

// SetUnderlay says where channels may begin; see [channel.Module].
func (m *Module) SetUnderlay(ctx context.Context, list []channel.Underlay) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if err := m.setUnderlay(list); err != nil {
		return fmt.Errorf("set underlay of network %s: %w", m.cfg.Network, err)
	}
	return nil
}

func (m *Module) setUnderlay(list []channel.Underlay) error {
	want := make(map[netip.Addr]device)
	for _, u := range list {
		d, err := m.look(u)
		if err != nil {
			return err
		}
		want[u.Addr] = d
	}
	if m.device != 0 {
		if err := m.repair(); err != nil {
			return err
		}
		if err := m.guard.SetUnderlay(names(want)); err != nil {
			return err
		}
	}
	m.underlay = want
	return nil
}

// look looks at an underlay device.
func (m *Module) look(u channel.Underlay) (device, error) {
	link, err := m.host.nl.LinkByName(u.Device)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return device{}, fmt.Errorf("%w: there is no device %s", channel.ErrUnderlay, u.Device)
	}
	if err != nil {
		return device{}, fmt.Errorf("find device %s: %w", u.Device, err)
	}
	return device{u.Device, link.Attrs().MTU}, u.Check(m.cfg.Prefix4, m.cfg.Prefix6)
}
