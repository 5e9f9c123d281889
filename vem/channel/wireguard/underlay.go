package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
)

// SetUnderlay says where channels may begin; see [channel.Module].
func (m *Module) SetUnderlay(ctx context.Context, list []channel.Underlay) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.setUnderlay(list); err != nil {
		return fmt.Errorf("set underlay of network %s: %w", m.cfg.Network, err)
	}
	return nil
}

func (m *Module) setUnderlay(list []channel.Underlay) error {
	want := make(map[netip.Addr]under)
	for _, u := range list {
		d, err := m.lookAt(u)
		if err != nil {
			return err
		}
		want[u.Addr] = d
	}
	if m.device.index != 0 {
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

// lookAt looks at an underlay device.
func (m *Module) lookAt(u channel.Underlay) (under, error) {
	link, err := m.host.nl.LinkByName(u.Device)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return under{}, fmt.Errorf("%w: there is no device %s", channel.ErrUnderlay, u.Device)
	}
	if err != nil {
		return under{}, fmt.Errorf("find device %s: %w", u.Device, err)
	}
	return under{u.Device, link.Attrs().MTU}, u.Check(m.cfg.Prefix4, m.cfg.Prefix6)
}

// names are the devices that have the addresses.
func names(underlay map[netip.Addr]under) guard.Underlay {
	list := make(guard.Underlay, len(underlay))
	for a, d := range underlay {
		list[a] = d.name
	}
	return list
}

// repair puts the host's firewall table back if somebody has taken it away.
func (m *Module) repair() error {
	have, err := m.guard.There()
	if err != nil || have {
		return err
	}
	return m.install()
}

// install puts the host's firewall table where it is to be, for all hosts.
func (m *Module) install() error {
	var list []guard.Host
	for _, e := range m.hosts {
		list = append(list, e.guarded())
	}
	return m.guard.Install(names(m.underlay), list)
}
