package vxlan

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
)

// SetRoutes adds or changes routes; see [channel.Module].
func (m *Module) SetRoutes(ctx context.Context, list []channel.Route) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	want := make(map[netip.Addr]route, len(list))
	for _, r := range list {
		e := m.hosts[r.Host]
		if err := r.Check(e != nil, m.cfg.Prefix4, m.cfg.Prefix6); err != nil {
			return err
		}
		want[r.Addr] = route{e.number, r.State}
	}
	return m.putRoutes(want)
}

// putRoutes sets routes, and removes those of the same addresses with another state after: no
// packet finds none.
func (m *Module) putRoutes(want map[netip.Addr]route) error {
	rooms := make(map[int]int, len(m.hosts))
	for _, e := range m.hosts {
		rooms[e.number] = m.room(e)
	}
	var put, remove []mdnetlink.Message
	for a, r := range want {
		one, err := routeMessage(unix.RTM_NEWROUTE, mdnetlink.Create|mdnetlink.Replace, a, r, rooms[r.number])
		if err != nil {
			return err
		}
		put = append(put, one)
		before, ok := m.routes[a]
		if !ok || before.state == r.state {
			continue
		}
		if one, err = routeMessage(unix.RTM_DELROUTE, 0, a, before, 0); err != nil {
			return err
		}
		remove = append(remove, one)
	}
	if err := exchange(m.fabric.ns, put, nil); err != nil {
		return fmt.Errorf("set routes: %w", err)
	}
	if err := exchange(m.fabric.ns, remove, unix.ESRCH); err != nil {
		return fmt.Errorf("remove routes: %w", err)
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
	var remove []mdnetlink.Message
	for _, a := range list {
		r, ok := m.routes[a]
		if !ok {
			continue
		}
		one, err := routeMessage(unix.RTM_DELROUTE, 0, a, r, 0)
		if err != nil {
			return err
		}
		remove = append(remove, one)
	}
	if err := exchange(m.fabric.ns, remove, unix.ESRCH); err != nil {
		return fmt.Errorf("remove routes: %w", err)
	}
	for _, a := range list {
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
		list = append(list, channel.Route{Addr: a, Host: names[r.number], State: r.state})
	}
	return list, nil
}
