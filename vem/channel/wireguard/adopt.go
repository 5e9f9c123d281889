package wireguard

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/fabric"
)

// adopt takes up what an earlier run has left, if all of it is there: a device with this host's key
// and hosts whose names the firewall's table has. Otherwise it removes the rest, and the next packet
// asks for the way anew.
func (m *Module) adopt(ctx context.Context) error {
	index, err := m.find()
	if err != nil || index == 0 {
		return err
	}
	d, err := m.look(ctx)
	if err != nil || d.PublicKey != m.keys.public || len(m.hosts) == 0 {
		if err != nil {
			m.cfg.Log.WarnContext(ctx, "what an earlier daemon had by WireGuard is given up", slog.String("network", m.cfg.Network), slog.Any("error", err))
		}
		return m.takeDown(ctx)
	}
	m.listenAt(uint16(d.ListenPort))
	m.device.index = index
	return m.adoptRoutes(ctx, d)
}

// look looks at the device and its hosts.
func (m *Module) look(ctx context.Context) (*wgtypes.Device, error) {
	if err := m.meet(ctx); err != nil {
		return nil, err
	}
	d, err := m.wg.get(ctx)
	if err != nil {
		return nil, err
	}
	guarded, err := m.guard.Hosts()
	if err != nil {
		return nil, err
	}
	known := make(map[wgtypes.Key]bool, len(d.Peers))
	for _, p := range d.Peers {
		known[p.PublicKey] = true
	}
	for _, g := range guarded {
		if e, ok := fromGuard(g); ok && known[e.key] {
			e.status.MTU = m.cfg.MTU
			m.hosts[g.Name] = e
		}
	}
	return d, nil
}

// adoptRoutes takes up those routes that the kernel and WireGuard have both, and removes the others.
func (m *Module) adoptRoutes(ctx context.Context, d *wgtypes.Device) error {
	all, err := m.table.List()
	if err != nil {
		return err
	}
	names := make(map[wgtypes.Key]string, len(m.hosts))
	for name, e := range m.hosts {
		names[e.key] = name
	}
	var strangers wgtypes.Config
	var alone []netip.Addr
	for _, p := range d.Peers {
		name, ok := names[p.PublicKey]
		if !ok {
			strangers.Peers = append(strangers.Peers, wgtypes.PeerConfig{PublicKey: p.PublicKey, Remove: true})
			continue
		}
		for _, n := range p.AllowedIPs {
			a, _ := address(n)
			if within.Contains(a) {
				continue
			}
			r, ok := all[a]
			if !ok {
				alone = append(alone, a)
				continue
			}
			m.routes[a] = route{name, r.State}
			if r.Room > 0 {
				m.hosts[name].status.MTU = r.Room
			}
		}
	}
	maps.DeleteFunc(all, func(a netip.Addr, _ tableRoute) bool { _, ok := m.routes[a]; return ok })
	if err := m.table.Remove(all); err != nil {
		return err
	}
	if len(strangers.Peers) > 0 {
		if err := m.wg.set(ctx, strangers); err != nil {
			return err
		}
	}
	if err := m.wg.remove(ctx, alone); err != nil {
		return err
	}
	return m.renew(ctx)
}

// renew adds what packets of machines beyond gateways need, if a release has made the device that carried
// none.
func (m *Module) renew(ctx context.Context) error {
	if ok, err := m.inside.Current(); err != nil || ok {
		return err
	}
	if err := m.nameDevice(m.device.index); err != nil {
		return fmt.Errorf("set address of %s: %w", fabric.WireGuardDevice, err)
	}
	var cfg wgtypes.Config
	for _, e := range m.hosts {
		cfg.Peers = append(cfg.Peers, e.peer(nil))
	}
	if err := m.wg.set(ctx, cfg); err != nil {
		return err
	}
	return m.inside.Close(guard.Machines{})
}
