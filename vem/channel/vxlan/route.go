package vxlan

import (
	"context"
	"maps"
	"net/netip"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/routes"
)

// SetRoutes adds or changes routes; see [channel.Module].
func (m *Module) SetRoutes(ctx context.Context, list []channel.Route) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	want := make(map[netip.Addr]routes.Route, len(list))
	for _, r := range list {
		e := m.hosts[r.Host]
		if err := r.Check(e != nil, m.cfg.Prefix4, m.cfg.Prefix6); err != nil {
			return err
		}
		want[r.Addr] = routes.Route{Nexthop: e.number, State: r.State}
	}
	return m.putRoutes(want)
}

// putRoutes sets routes, with the room that their hosts have.
func (m *Module) putRoutes(want map[netip.Addr]routes.Route) error {
	rooms := make(map[int]int, len(m.hosts))
	for _, e := range m.hosts {
		rooms[e.number] = m.room(e)
	}
	for a, r := range want {
		r.Room = rooms[r.Nexthop]
		want[a] = r
	}
	if err := m.table.Set(want, m.routes); err != nil {
		return err
	}
	maps.Copy(m.routes, want)
	return nil
}

// room is the size that a host's routes have to say: 0 if the device says it.
func (m *Module) room(e *entry) int {
	if e.status.MTU >= m.cfg.MTU {
		return 0
	}
	return e.status.MTU
}

// RemoveRoutes removes routes; see [channel.Module].
func (m *Module) RemoveRoutes(ctx context.Context, list []netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	gone := make(map[netip.Addr]routes.Route)
	for _, a := range list {
		if r, ok := m.routes[a]; ok {
			gone[a] = r
		}
	}
	if err := m.table.Remove(gone); err != nil {
		return err
	}
	for a := range gone {
		delete(m.routes, a)
	}
	return nil
}

// Routes returns all routes; see [channel.Module].
func (m *Module) Routes(ctx context.Context) ([]channel.Route, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	names := make(map[int]string, len(m.hosts))
	for name, e := range m.hosts {
		names[e.number] = name
	}
	var list []channel.Route
	for a, r := range m.routes {
		list = append(list, channel.Route{Addr: a, Host: names[r.Nexthop], State: r.State})
	}
	return list, nil
}
