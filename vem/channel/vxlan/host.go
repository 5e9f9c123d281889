package vxlan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/channel/routes"
)

// maxHosts bounds how many hosts there are.
const maxHosts = 1023

// SetHost makes or changes the channel to a host; see [channel.Module].
func (m *Module) SetHost(ctx context.Context, h channel.Host) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if err := m.setHost(h); err != nil {
		return fmt.Errorf("set channel to host %s: %w", h.Name, err)
	}
	return nil
}

func (m *Module) setHost(h channel.Host) error {
	mtu, err := m.check(h)
	if err != nil {
		return err
	}
	if err := m.bringUp(); err != nil {
		return err
	}
	h.Accept, h.Sources = slices.Clone(h.Accept), slices.Clone(h.Sources)
	if err := m.repair(); err != nil {
		return err
	}
	now := &entry{status: channel.Status{Host: h, MTU: mtu}}
	before := m.hosts[h.Name]
	if before == nil {
		if now.number, err = m.free(); err != nil {
			return err
		}
		err = m.guard.Add(now.guarded())
	} else {
		now.number, now.seen = before.number, before.seen
		err = m.guard.Let(before.guarded(), now.guarded())
	}
	if err != nil {
		return err
	}
	if err := m.neighbour(h.Name); err != nil {
		return err
	}
	if err := m.putNexthop(now.number, h); err != nil {
		return err
	}
	m.hosts[h.Name] = now
	if err := m.tellBeyond(); err != nil || before == nil {
		return err
	}
	if m.room(now) != m.room(before) {
		mine := maps.Clone(m.routes)
		maps.DeleteFunc(mine, func(_ netip.Addr, r routes.Route) bool { return r.Nexthop != now.number })
		if err := m.putRoutes(mine); err != nil {
			return err
		}
	}
	gone := slices.DeleteFunc(before.addresses(), func(a netip.Addr) bool { return slices.Contains(now.addresses(), a) })
	return m.guard.Shut(gone)
}

// check tells how much room a host's channel has, or why it can't be.
func (m *Module) check(h channel.Host) (mtu int, err error) {
	if err := h.Check(); err != nil {
		return 0, err
	}
	for _, k := range append([]channel.Kind{h.Kind}, h.Accept...) {
		if k != channel.VXLAN {
			return 0, fmt.Errorf("%w: %s", channel.ErrKind, k)
		}
	}
	if hardware(h.Name).String() == hardware(m.cfg.Self).String() {
		return 0, fmt.Errorf("%w %s: its name gives it the hardware address of this host: give it another name", channel.ErrHost, h.Name)
	}
	from, ok := m.underlay[h.Local]
	if !ok {
		return 0, fmt.Errorf("%w: address %s of this host was not given", channel.ErrUnderlay, h.Local)
	}
	for _, a := range append([]netip.Addr{h.Remote}, h.Sources...) {
		for name, other := range m.hosts {
			if name != h.Name && slices.Contains(other.addresses(), a) {
				return 0, fmt.Errorf("%w: %s is an address of host %s", channel.ErrHost, a, name)
			}
		}
	}
	return h.Room(from.mtu, channel.VXLAN.Outer(h.Local))
}

// free returns a number that no host has.
func (m *Module) free() (int, error) {
	used := make(map[int]bool, len(m.hosts))
	for _, e := range m.hosts {
		used[e.number] = true
	}
	first := m.cfg.numbers().firstHost
	for number := first; number < first+maxHosts; number++ {
		if !used[number] {
			return number, nil
		}
	}
	return 0, fmt.Errorf("%w: there are %d hosts already", channel.ErrHost, maxHosts)
}

// neighbour enters the hardware address of a host's device, for good.
func (m *Module) neighbour(name string) error {
	err := m.fabric.nl.NeighSet(&netlink.Neigh{
		LinkIndex: m.device, Family: unix.AF_INET6, State: netlink.NUD_PERMANENT, IP: gateway(name).AsSlice(), HardwareAddr: hardware(name),
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", gateway(name), err)
	}
	return nil
}

// RemoveHost removes the channel to a host; see [channel.Module].
func (m *Module) RemoveHost(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if err := m.removeHost(name); err != nil {
		return fmt.Errorf("remove channel to host %s: %w", name, err)
	}
	return nil
}

func (m *Module) removeHost(name string) error {
	e := m.hosts[name]
	switch {
	case e == nil:
		return nil
	case len(m.hosts) == 1:
		return m.takeDown()
	}
	if err := m.removeNexthop(e.number); err != nil {
		return err
	}
	maps.DeleteFunc(m.routes, func(_ netip.Addr, r routes.Route) bool { return r.Nexthop == e.number })
	if err := m.guard.Drop(e.guarded()); err != nil {
		return err
	}
	delete(m.hosts, name)
	// Another host may get the number.
	return errors.Join(m.letMachines(), m.tellBeyond())
}

// Hosts returns all hosts; see [channel.Module].
func (m *Module) Hosts(ctx context.Context) (map[string]channel.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	found := make(map[string]channel.Status, len(m.hosts))
	for name, e := range m.hosts {
		s := e.status
		s.Host.Accept, s.Host.Sources = slices.Clone(s.Host.Accept), slices.Clone(s.Host.Sources)
		found[name] = s
	}
	return found, nil
}

// adopt reads what an earlier run has left. A tunnel whose host nobody knows, since somebody else
// took the firewall's table away, is removed: the next packet asks for the way anew.
func (m *Module) adopt() (err error) {
	if m.device, err = m.find(); err != nil || m.device == 0 {
		return err
	}
	sources, err := m.guard.Hosts()
	if err != nil {
		return err
	}
	ends, err := m.nexthops()
	if err != nil {
		return err
	}
	for number, h := range ends {
		known := sources[number]
		if h.Name = known.Name; h.Name == "" {
			if err := m.removeNexthop(number); err != nil {
				return err
			}
			continue
		}
		h.Sources = slices.DeleteFunc(known.Addresses, func(a netip.Addr) bool { return a == h.Remote })
		m.hosts[h.Name] = &entry{number: number, status: channel.Status{Host: h, MTU: m.cfg.MTU}}
	}
	if len(m.hosts) == 0 { // what bringUp had begun
		return m.takeDown()
	}
	if err := m.remark(); err != nil {
		return err
	}
	return m.adoptRoutes()
}

// remark has packets be marked as this release does, if an earlier one has made the tables. That did not
// tell hosts apart: what it has marked meanwhile is let in as what endpoints send.
func (m *Module) remark() error {
	if ok, err := m.inside.Current(); err != nil || ok {
		return err
	}
	if err := m.closeInside(guard.Machines{}); err != nil {
		return err
	}
	for _, e := range m.hosts {
		if err := m.guard.Add(e.guarded()); err != nil {
			return err
		}
	}
	return nil
}

func (m *Module) adoptRoutes() error {
	found, err := m.table.List()
	if err != nil {
		return err
	}
	m.routes = found
	rooms := make(map[int]int)
	for _, r := range found {
		rooms[r.Nexthop] = max(rooms[r.Nexthop], r.Room)
	}
	for _, e := range m.hosts {
		if room := rooms[e.number]; room > 0 {
			e.status.MTU = room
		}
	}
	return nil
}
