package wireguard

import (
	"context"
	"maps"
	"net/netip"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/routes"
)

type tableRoute = routes.Route

// asSet are routes as the kernel has them.
func (m *Module) asSet(list map[netip.Addr]route) map[netip.Addr]tableRoute {
	set := make(map[netip.Addr]tableRoute, len(list))
	for a, r := range list {
		one := tableRoute{Nexthop: nexthop4, State: r.state, Room: m.room(m.hosts[r.host])}
		if a.Is6() {
			one.Nexthop = nexthop6
		}
		set[a] = one
	}
	return set
}

// room is the size that a host's routes have to say: 0 if the device says it.
func (m *Module) room(e *entry) int {
	if e.status.MTU >= m.cfg.MTU {
		return 0
	}
	return e.status.MTU
}

// SetRoutes adds or changes routes; see [channel.Module].
func (m *Module) SetRoutes(ctx context.Context, list []channel.Route) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	want, before, fresh := make(map[netip.Addr]route, len(list)), make(map[netip.Addr]route), make(map[string][]netip.Addr)
	for _, r := range list {
		if err := r.Check(m.hosts[r.Host] != nil, m.cfg.Prefix4, m.cfg.Prefix6); err != nil {
			return err
		}
		want[r.Addr] = route{r.Host, r.State}
	}
	for a, r := range want {
		old, ok := m.routes[a]
		if ok {
			before[a] = old
		}
		if old.host != r.host {
			fresh[r.host] = append(fresh[r.host], a)
		}
	}
	var cfg wgtypes.Config
	for name, some := range fresh {
		cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: m.hosts[name].key, UpdateOnly: true, AllowedIPs: single(some)})
	}
	if len(cfg.Peers) > 0 {
		if err := m.wg.set(ctx, cfg); err != nil {
			return err
		}
	}
	if err := m.table.Set(m.asSet(want), m.asSet(before)); err != nil {
		return err
	}
	maps.Copy(m.routes, want)
	m.tryMachines(ctx, m.routeMachines(ctx, want))
	return nil
}

// RemoveRoutes removes routes; see [channel.Module].
func (m *Module) RemoveRoutes(ctx context.Context, list []netip.Addr) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	gone := make(map[netip.Addr]route)
	var addresses []netip.Addr
	for _, a := range list {
		if r, ok := m.routes[a]; ok {
			gone[a] = r
			addresses = append(addresses, a)
		}
	}
	if err := m.table.Remove(m.asSet(gone)); err != nil {
		return err
	}
	if err := m.wg.remove(ctx, addresses); err != nil {
		return err
	}
	if err := m.machines.module.RemoveRoutes(ctx, addresses); err != nil {
		return err
	}
	for a := range gone {
		delete(m.routes, a)
	}
	return nil
}

// Routes returns all routes; see [channel.Module].
func (m *Module) Routes(ctx context.Context) ([]channel.Route, error) {
	release, err := m.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var list []channel.Route
	for a, r := range m.routes {
		list = append(list, channel.Route{Addr: a, Host: r.host, State: r.state})
	}
	return list, nil
}
