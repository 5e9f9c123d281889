package vxlan

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/channel/routes"
)

// numbers are what two modules of one fabric have different.
type numbers struct {
	protocol, prefixes byte // of nexthop objects and routes to endpoints, and of those to machines
	metric             uint32
	opening, aside     int // see [routes.Table]
	firstHost          int // hosts have the numbers from there on
}

// numbers are those of this module.
func (c *Config) numbers() numbers {
	if c.Machines {
		// Its rules come before all others that lead to routes which are being opened.
		return numbers{protocol: 79, prefixes: 89, metric: 2050, opening: 7075, aside: 7076, firstHost: 3001}
	}
	return numbers{protocol: 77, prefixes: 87, metric: 2048, opening: 7077, firstHost: 1}
}

// SetBeyond says which machines beyond gateways there are; see [channel.Router].
func (m *Module) SetBeyond(ctx context.Context, list []channel.Beyond) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	for _, b := range list {
		if err := b.Check(m.cfg.Prefix4, m.cfg.Prefix6); err != nil {
			return err
		}
	}
	m.beyond.list = append([]channel.Beyond{}, list...)
	return m.tellBeyond()
}

// beyond is what there is of machines beyond gateways.
type beyond struct {
	list     []channel.Beyond // nil: not told yet: what an earlier process was told goes on
	let      *guard.Machines  // what the fabric's firewall lets in; nil: that is not known
	prefixes routes.Prefixes
}

// tellBeyond has routes and the fabric's firewall be as they are to be for these machines, once this
// process knows of them. m.mu is held.
func (m *Module) tellBeyond() error {
	if m.beyond.list == nil {
		return nil
	}
	if err := m.letMachines(); err != nil {
		return err
	}
	ways := make(map[netip.Prefix]routes.Way)
	var here []netip.Prefix
	for _, b := range m.beyond.list {
		w := routes.Way{Nexthop: routes.Nowhere}
		for _, name := range slices.Backward(b.Hosts) {
			if e := m.hosts[name]; e != nil {
				w = routes.Way{Nexthop: e.number, Room: m.room(e)}
			}
		}
		if b.Here {
			w = routes.Way{Nexthop: routes.Here}
			here = append(here, b.Prefix)
		}
		ways[b.Prefix] = w
	}
	if m.table.Aside != 0 {
		if err := m.table.SetSources(m.fabric.nl, here); err != nil {
			return err
		}
	}
	return m.beyond.prefixes.Set(ways)
}

// machines are those of which packets are let in: none until this process knows of them.
func (m *Module) machines() (let guard.Machines) {
	by := make(map[string][]netip.Prefix)
	for _, b := range m.beyond.list {
		if b.Here {
			let.Here = append(let.Here, b.Prefix)
		}
		for _, name := range slices.Concat(b.Hosts, b.Senders) {
			by[name] = append(by[name], b.Prefix)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		if e := m.hosts[name]; e != nil {
			let.Of = append(let.Of, guard.Sender{From: from(e.number), Prefixes: by[name]})
		}
	}
	return let
}

// letMachines brings the fabric's firewall up to date.
func (m *Module) letMachines() error {
	let := m.machines()
	if m.device == 0 || m.beyond.let != nil && reflect.DeepEqual(let, *m.beyond.let) {
		return nil
	}
	return m.closeInside(let)
}

// closeInside has the fabric's firewall let in nothing of machines but what is given.
func (m *Module) closeInside(let guard.Machines) error {
	m.beyond.let = nil // if it fails
	if err := m.inside.Close(let); err != nil {
		return err
	}
	m.beyond.let = &let
	return nil
}

// Via tells where packets for machines beyond gateways go; see [channel.Router].
func (m *Module) Via(ctx context.Context) (map[netip.Prefix]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	ways, err := m.beyond.prefixes.List()
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", m.cfg.Network, err)
	}
	names := map[int]string{routes.Here: ""}
	for name, e := range m.hosts {
		names[e.number] = name
	}
	via := make(map[netip.Prefix]string)
	for p, w := range ways {
		if name, ok := names[w.Nexthop]; ok {
			via[p] = name
		}
	}
	return via, nil
}
