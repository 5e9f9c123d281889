package wireguard

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/guard"
)

const (
	// padding is what WireGuard pads packets to a multiple of.
	padding = 16
	// maxHosts bounds the numbers of hosts.
	maxHosts = 1023
)

// Offer is what other hosts have to know to make their ends of channels: the UDP port of this
// host's device, and its public key.
func (m *Module) Offer(ctx context.Context) (port uint16, parameters []byte, err error) {
	release, err := m.take(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer release()
	if m.device.index == 0 && m.device.reserved == nil {
		if err := m.reservePort(ctx); err != nil {
			return 0, nil, err
		}
	}
	return m.device.port, slices.Clone(m.keys.public[:]), nil
}

// SetHost makes or changes the channel to a host; see [channel.Module].
func (m *Module) SetHost(ctx context.Context, h channel.Host) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.setHost(ctx, h); err != nil {
		return fmt.Errorf("set channel to host %s: %w", h.Name, err)
	}
	return nil
}

func (m *Module) setHost(ctx context.Context, h channel.Host) error {
	now, err := m.check(h)
	if err != nil {
		return err
	}
	if err := m.bringUp(ctx); err != nil {
		return err
	}
	if err := m.repair(); err != nil {
		return err
	}
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
	if err := m.putPeer(ctx, before, now); err != nil {
		return err
	}
	m.hosts[h.Name] = now
	m.tryMachines(ctx, m.tellMachines(ctx))
	if before == nil {
		return nil
	}
	if m.room(now) != m.room(before) {
		mine := maps.Clone(m.routes)
		maps.DeleteFunc(mine, func(_ netip.Addr, r route) bool { return r.host != h.Name })
		if err := m.table.Set(m.asSet(mine), m.asSet(mine)); err != nil {
			return err
		}
	}
	gone := slices.DeleteFunc(before.addresses(), func(a netip.Addr) bool { return slices.Contains(now.addresses(), a) })
	return m.guard.Shut(gone)
}

// putPeer makes or changes the host's peer. One with another key than before takes its addresses
// over, in one step.
func (m *Module) putPeer(ctx context.Context, before, now *entry) error {
	cfg := wgtypes.Config{Peers: []wgtypes.PeerConfig{now.peer(nil)}}
	if before != nil && before.key != now.key {
		cfg.Peers = []wgtypes.PeerConfig{now.peer(m.addresses(now.status.Host.Name)), {PublicKey: before.key, Remove: true}}
	}
	return m.wg.set(ctx, cfg)
}

// peer is the host as WireGuard has it, with further addresses.
func (e *entry) peer(list []netip.Addr) wgtypes.PeerConfig {
	h := e.status.Host
	return wgtypes.PeerConfig{
		PublicKey: e.key, Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.Remote, h.Port)),
		AllowedIPs: single(append([]netip.Addr{addressOf(e.key)}, list...)),
	}
}

// addresses are all that the host may send from.
func (e *entry) addresses() []netip.Addr {
	list := []netip.Addr{e.status.Host.Remote}
	for _, a := range e.status.Host.Sources {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// guarded is the host as the guard knows it. The note is what the device does not have.
func (e *entry) guarded() guard.Host {
	h := e.status.Host
	note := fmt.Sprintf("%s %s %s", e.key, h.Local, netip.AddrPortFrom(h.Remote, h.Port))
	return guard.Host{Number: e.number, Name: h.Name, Addresses: e.addresses(), Note: note}
}

// fromGuard returns the host again; false if the note makes no sense.
func fromGuard(g guard.Host) (*entry, bool) {
	parts := strings.Fields(g.Note)
	if len(parts) != 3 {
		return nil, false
	}
	k, err1 := wgtypes.ParseKey(parts[0])
	local, err2 := netip.ParseAddr(parts[1])
	remote, err3 := netip.ParseAddrPort(parts[2])
	if err1 != nil || err2 != nil || err3 != nil {
		return nil, false
	}
	h := channel.Host{Name: g.Name, Kind: channel.WireGuard, Local: local, Remote: remote.Addr(), Port: remote.Port(), Parameters: k[:]}
	h.Sources = slices.DeleteFunc(g.Addresses, func(a netip.Addr) bool { return a == h.Remote })
	return &entry{number: g.Number, key: k, status: channel.Status{Host: h}}, true
}

// check tells what a host will be, or why it can't be.
func (m *Module) check(h channel.Host) (*entry, error) {
	if err := h.Check(); err != nil {
		return nil, err
	}
	for _, k := range append([]channel.Kind{h.Kind}, h.Accept...) {
		if k != channel.WireGuard {
			return nil, fmt.Errorf("%w: %s", channel.ErrKind, k)
		}
	}
	from, ok := m.underlay[h.Local]
	if !ok {
		return nil, fmt.Errorf("%w: address %s of this host was not given", channel.ErrUnderlay, h.Local)
	}
	k, err := wgtypes.NewKey(h.Parameters)
	if err != nil || k == (wgtypes.Key{}) || k == m.keys.public || h.Port == 0 {
		return nil, fmt.Errorf("%w %s: it has told no port and public key of its own for WireGuard", channel.ErrHost, h.Name)
	}
	now := &entry{key: k}
	h.Parameters, h.Accept, h.Sources = slices.Clone(h.Parameters), slices.Clone(h.Accept), slices.Clone(h.Sources)
	now.status.Host = h
	for name, other := range m.hosts {
		if name == h.Name {
			continue
		}
		if other.key == k {
			return nil, fmt.Errorf("%w %s: its public key is that of host %s", channel.ErrHost, h.Name, name)
		}
		for _, a := range now.addresses() {
			if slices.Contains(other.addresses(), a) {
				return nil, fmt.Errorf("%w: %s is an address of host %s", channel.ErrHost, a, name)
			}
		}
	}
	now.status.MTU, err = h.Room(from.mtu, channel.WireGuard.Outer(h.Local))
	if now.status.MTU < m.cfg.MTU {
		now.status.MTU -= now.status.MTU % padding
	}
	return now, err
}

// free returns a number that no host has.
func (m *Module) free() (int, error) {
	var used [maxHosts + 1]bool
	for _, e := range m.hosts {
		used[e.number] = true
	}
	for number := 1; number <= maxHosts; number++ {
		if !used[number] {
			return number, nil
		}
	}
	return 0, fmt.Errorf("%w: there are %d hosts already", channel.ErrHost, maxHosts)
}

// RemoveHost removes the channel to a host; see [channel.Module].
func (m *Module) RemoveHost(ctx context.Context, name string) error {
	release, err := m.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.removeHost(ctx, name); err != nil {
		return fmt.Errorf("remove channel to host %s: %w", name, err)
	}
	return nil
}

func (m *Module) removeHost(ctx context.Context, name string) error {
	e := m.hosts[name]
	switch {
	case e == nil:
		return nil
	case len(m.hosts) == 1:
		return m.takeDown(ctx)
	}
	if err := m.machines.module.RemoveHost(ctx, name); err != nil {
		return err
	}
	mine := maps.Clone(m.routes)
	maps.DeleteFunc(mine, func(_ netip.Addr, r route) bool { return r.host != name })
	if err := m.table.Remove(m.asSet(mine)); err != nil {
		return err
	}
	if err := m.wg.set(ctx, wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: e.key, Remove: true}}}); err != nil {
		return err
	}
	maps.DeleteFunc(m.routes, func(a netip.Addr, _ route) bool { _, ok := mine[a]; return ok })
	if err := m.guard.Drop(e.guarded()); err != nil {
		return err
	}
	delete(m.hosts, name)
	return nil
}

// Hosts returns all hosts; see [channel.Module].
func (m *Module) Hosts(ctx context.Context) (map[string]channel.Status, error) {
	release, err := m.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	found := make(map[string]channel.Status, len(m.hosts))
	for name, e := range m.hosts {
		s := e.status
		s.Host.Accept, s.Host.Sources = slices.Clone(s.Host.Accept), slices.Clone(s.Host.Sources)
		s.Host.Parameters = slices.Clone(s.Host.Parameters)
		found[name] = s
	}
	return found, nil
}
