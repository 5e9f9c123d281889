package vem

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/address"
)

// Share is what a network of this host has to do with the same network on other hosts, as
// [mesh.Network] does it.
type Share interface {
	// Here tells that an endpoint is on this host from now on.
	Here(a netip.Addr)
	// Told waits until other hosts let in what endpoints send that Here was called for: not for
	// long.
	Told(ctx context.Context)
	// Left tells that an endpoint is on this host no more. It does not wait for other hosts.
	Left(a netip.Addr)
	// SetSelf tells which addresses this host itself has in the network.
	SetSelf(a4, a6 netip.Addr)
	// Close takes the network out of the installation, before its fabric is removed.
	Close(ctx context.Context) error
	// Leave lets go of the network, whose traffic goes on.
	Leave() error
}

// Sharing has other hosts share a network, whose fabric is open. Whoever opens a Share closes it.
type Sharing func(ctx context.Context, network string, f Fabric, s address.Space) (Share, error)

// SetSharing has other hosts share all networks of this one, from now on: this host has joined an
// installation. Nil: it has left it, and networks are its own again. A network that can't be
// shared goes on alone, which is logged.
func (m *Manager) SetSharing(ctx context.Context, open Sharing) error {
	m.mu.Lock()
	m.sharing = open
	all := slices.Collect(maps.Values(m.networks))
	m.mu.Unlock()
	var errs []error
	for _, n := range all {
		errs = append(errs, m.reshare(ctx, n))
	}
	return errors.Join(errs...)
}

// reshare shares a network anew whose fabric is open.
func (m *Manager) reshare(ctx context.Context, n *network) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if n.fabric == nil {
		return nil
	}
	if err := m.unshare(ctx, n); err != nil {
		return err
	}
	s, err := m.spaceOf(n)
	if err != nil {
		return err
	}
	m.share(ctx, n, s)
	return nil
}

// share shares a network, if this host is not alone. The caller has n.changing.
func (m *Manager) share(ctx context.Context, n *network, s address.Space) {
	m.mu.Lock()
	open := m.sharing
	m.mu.Unlock()
	if open == nil {
		return
	}
	share, err := open(ctx, n.name, n.fabric, s)
	if err != nil {
		m.opt.Log.ErrorContext(ctx, "other hosts can't be reached from a network", slog.String("network", n.name), slog.Any("error", err))
		return
	}
	if e := m.residence(n.name); e != nil {
		c := e.Claim()
		share.SetSelf(c.Addr4, c.Addr6)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n.shared = share
}

// unshare takes a network out of the installation. The caller has n.changing.
func (m *Manager) unshare(ctx context.Context, n *network) error {
	m.mu.Lock()
	share := n.shared
	n.shared = nil
	m.mu.Unlock()
	if share == nil {
		return nil
	}
	return errors.Join(share.Close(ctx), m.dropQueue(ctx, n.name))
}

// tell tells other hosts of both addresses of an endpoint, if they share its network.
func (m *Manager) tell(n *network, c Claim, what func(Share, netip.Addr)) {
	m.mu.Lock()
	share := n.shared
	m.mu.Unlock()
	if share == nil {
		return
	}
	for _, a := range []netip.Addr{c.Addr4, c.Addr6} {
		if a.IsValid() {
			what(share, a)
		}
	}
}

// awaitTold waits until other hosts let in what the network's endpoints send, if they share it.
func (m *Manager) awaitTold(ctx context.Context, n *network) {
	m.mu.Lock()
	share := n.shared
	m.mu.Unlock()
	if share != nil {
		share.Told(ctx)
	}
}

// Present returns what the endpoints have that are in their networks.
func (m *Manager) Present() (list []Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.endpoints {
		if e.present {
			list = append(list, e.claim)
		}
	}
	return list
}

// Holding returns the names of the apps whose sockets are held.
func (m *Manager) Holding() map[string]bool {
	m.mu.Lock()
	all := slices.Collect(maps.Keys(m.endpoints))
	m.mu.Unlock()
	held := make(map[string]bool)
	for _, e := range all {
		if e.HeldInodes() != nil {
			held[e.Claim().App] = true
		}
	}
	return held
}

// Find returns what the endpoint has that has an address of either family, and is in its network.
func (m *Manager) Find(network string, a netip.Addr) (Claim, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.endpoints {
		if c := &e.claim; e.present && c.Network == network && (c.Addr4 == a || c.Addr6 == a) {
			return *c, true
		}
	}
	return Claim{}, false
}

// Away tells whether an endpoint that has an address of either family is connected to its network
// and not in it, see [Endpoint.Connect] and [Endpoint.Withdraw].
func (m *Manager) Away(network string, a netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.endpoints {
		if c := &e.claim; e.apart && c.Network == network && (c.Addr4 == a || c.Addr6 == a) {
			return true
		}
	}
	return false
}

// Space returns the address space of a network, which gets one if it has none.
func (m *Manager) Space(network string) (address.Space, error) { return m.space(network) }

// SetRanges says from which addresses of a network those of new endpoints are chosen, if nobody
// asks for one; none: from all.
func (m *Manager) SetRanges(network string, ranges []netip.Prefix) {
	n := m.network(network)
	m.mu.Lock()
	defer m.mu.Unlock()
	n.ranges = slices.Clone(ranges)
}

// outside tells whether an address is not to be chosen for a new endpoint. The caller has m.mu.
func (n *network) outside(a netip.Addr) bool {
	return len(n.ranges) > 0 && !slices.ContainsFunc(n.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
