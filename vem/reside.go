package vem

import (
	"context"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/fabric"
)

// Reside has this host itself be in a network that other hosts share: endpoints of those see it
// at an address of its own, and reach it there, as they reach each other. Endpoints of this host
// see it at the gateway's address, as ever. at is that address; a zero one lets the manager choose,
// as for a new endpoint. name stands for the host where an app's name is shown.
//
// The network is there from then on, also without an app. A host that is in it already stays where
// it is. Reside returns the address, or what [Manager.Claim] and [fabric.Fabric.SetSelf] return. It
// is not called for one network twice at the same time. The gate is not asked: that is up to the
// caller.
func (m *Manager) Reside(ctx context.Context, in, name string, at netip.Addr) (netip.Addr, error) {
	if e := m.residence(in); e != nil {
		return e.Claim().Addr4, nil
	}
	e, err := m.claim(Claim{App: name, Network: in, Addr4: at, Host: true}, m.gate.Kept(in))
	if err != nil {
		return netip.Addr{}, err
	}
	c := e.Claim()
	err = m.in(ctx, in, func(n *network) error { return m.moveIn(ctx, n, e) })
	if err != nil {
		e.Free()
		return netip.Addr{}, err
	}
	return c.Addr4, nil
}

// moveIn tells the fabric and other hosts of the host's addresses.
func (m *Manager) moveIn(ctx context.Context, n *network, e *Endpoint) error {
	c := e.Claim()
	if err := n.fabric.SetSelf(ctx, c.Addr4, c.Addr6); err != nil {
		return err
	}
	e.setPresent(true)
	m.mu.Lock()
	share := n.shared
	m.mu.Unlock()
	if share == nil {
		return nil
	}
	share.SetSelf(c.Addr4, c.Addr6)
	m.tell(n, c, Share.Here)
	return nil
}

// MoveOut undoes [Manager.Reside]: other hosts don't see this one in the network any more, and ports
// lead to endpoints here only.
func (m *Manager) MoveOut(ctx context.Context, in string) error {
	e := m.residence(in)
	if e == nil {
		return nil
	}
	err := m.in(ctx, in, func(n *network) error {
		if err := n.fabric.SetSelf(ctx, netip.Addr{}, netip.Addr{}); err != nil {
			return err
		}
		m.mu.Lock()
		n.far = nil
		share := n.shared
		m.mu.Unlock()
		if share != nil {
			share.SetSelf(netip.Addr{}, netip.Addr{})
		}
		e.setPresent(false)
		m.tell(n, e.Claim(), Share.Left)
		return m.publish(ctx, n)
	})
	if err == nil {
		e.Free()
	}
	return err
}

// residence is what this host itself has in a network, nil if it is not there.
func (m *Manager) residence(network string) *Endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.endpoints {
		if c := &e.claim; e.present && c.Host && c.Network == network {
			return e
		}
	}
	return nil
}

// Appearances are the addresses of this host in a network: by those at which its own apps see it, those at which
// the apps of other hosts do. There are none if other hosts' apps don't see it.
func (m *Manager) Appearances(network string) map[netip.Addr]netip.Addr {
	e := m.residence(network)
	if e == nil {
		return nil
	}
	s, err := m.space(network)
	if err != nil {
		return nil
	}
	c, all := e.Claim(), make(map[netip.Addr]netip.Addr)
	if c.Addr4.IsValid() {
		all[s.Gateway4()] = c.Addr4
	}
	if c.Addr6.IsValid() && s.Gateway6().IsValid() {
		all[s.Gateway6()] = c.Addr6
	}
	return all
}

// Follows tells whether a connection of an endpoint of a network with an address goes on when the endpoint is on
// another host: with one in the network, or one to which a gateway of the network leads. With any other the
// host translates addresses, which the next one can't go on with.
func (m *Manager) Follows(network string, a netip.Addr) bool {
	a = a.Unmap()
	s, err := m.space(network)
	if err != nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(slices.Concat([]netip.Prefix{s.Prefix4, s.Prefix6}, m.gateway.Keep, m.gateway.Elsewhere), func(p netip.Prefix) bool {
		return p.IsValid() && p.Contains(a)
	})
}

// SetGateway says what this host forwards between its networks and other machines. A network is told
// with the next change of its published ports, and by [Manager.SetFar].
func (m *Manager) SetGateway(g fabric.Gateway) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gateway = g
}

// SetFar says which ports of this host lead to endpoints of a network that are on other hosts, from
// now on and in place of those that did. One that an app of this host publishes leads to that.
// The host is in the network, see [Manager.Reside]: else nothing is done.
func (m *Manager) SetFar(ctx context.Context, in string, list []fabric.Publication) error {
	if m.residence(in) == nil {
		return nil
	}
	list = slices.Clone(list)
	for i := range list {
		list[i].Far = true
	}
	return m.in(ctx, in, func(n *network) error {
		m.mu.Lock()
		n.far = list
		m.mu.Unlock()
		return m.publish(ctx, n)
	})
}

// farther returns those of a network's ports that lead to other hosts, and that no app of this host
// has. The caller has m.mu.
func (m *Manager) farther(n *network) []fabric.Publication {
	return slices.DeleteFunc(slices.Clone(n.far), func(f fabric.Publication) bool {
		p := Port{Proto: f.Proto, HostAddr: f.HostAddr, HostPort: f.HostPort, Port: f.Port}
		for e := range m.endpoints {
			if coming := e.apart && !e.gone; !coming && slices.ContainsFunc(e.claim.Ports, p.Meets) {
				return true
			}
		}
		return false
	})
}
