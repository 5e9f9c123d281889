package vem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// Fabric is what a network is made of on this host: the methods of [fabric.Fabric] that a
// manager uses.
type Fabric interface {
	Attach(ctx context.Context, ep fabric.Endpoint, ns *netns.NS) error
	Isolate(ctx context.Context, ep fabric.Endpoint) error
	Rejoin(ctx context.Context, ep fabric.Endpoint, ns *netns.NS) error
	Detach(ctx context.Context, ep fabric.Endpoint) error
	SetPublications(ctx context.Context, list []fabric.Publication) error
	SetSelf(ctx context.Context, a4, a6 netip.Addr) error
	SetGateway(g fabric.Gateway) error
	Delete(ctx context.Context) error
	Close() error
}

var _ Fabric = (*fabric.Fabric)(nil)

// network is a network that an endpoint is, or was, in. Its fabric is there as long as an
// endpoint is in the network, or an operation uses it.
type network struct {
	name string

	// changing is held while the network's address space is read or made, and while the
	// kernel makes or removes the fabric.
	changing sync.Mutex
	fabric   Fabric // nil: not open. Whoever is one of users may read it
	users    int    // operations that use the fabric

	publishing  sync.Mutex // held from reading what is published to telling the fabric
	told        []fabric.Publication
	toldGateway fabric.Gateway
	toldAny     bool // told is what the fabric that is open was told last

	// The manager's mu guards these.
	space  *address.Space       // nil: not known yet
	shared Share                // nil: no other host shares the network
	ranges []netip.Prefix       // see SetRanges
	far    []fabric.Publication // see SetFar
}

// network returns what is known of a network.
func (m *Manager) network(name string) *network {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.networks[name]
	if !ok {
		n = &network{name: name}
		m.networks[name] = n
	}
	return n
}

// space is the address space of a network. A network gets one when it is first used and
// keeps it.
func (m *Manager) space(name string) (address.Space, error) {
	n := m.network(name)
	if s, ok := m.known(n); ok {
		return s, nil
	}
	n.changing.Lock()
	defer n.changing.Unlock()
	return m.spaceOf(n)
}

func (m *Manager) known(n *network) (address.Space, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.space == nil {
		return address.Space{}, false
	}
	return *n.space, true
}

// spaceOf is space for a caller that has n.changing.
func (m *Manager) spaceOf(n *network) (address.Space, error) {
	if s, ok := m.known(n); ok {
		return s, nil
	}
	s, err := m.opt.Spaces.Load(n.name)
	if errors.Is(err, fs.ErrNotExist) {
		s, err = m.newSpace(n.name)
	}
	if err == nil {
		err = s.Validate()
	}
	if err != nil {
		return s, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n.space = &s
	return s, nil
}

// newSpace gives a network an address space.
func (m *Manager) newSpace(name string) (address.Space, error) {
	s := m.opt.Default
	if name != DefaultNetwork {
		count, err := m.opt.Spaces.Count()
		if err != nil {
			return s, err
		}
		m.mu.Lock()
		m.numbered = max(count, m.numbered) + 1 // another network may not have saved its own yet
		n := m.numbered
		m.mu.Unlock()
		if s, err = nextSpace(s, n); err != nil {
			return s, err
		}
	}
	return s, m.opt.Spaces.Save(name, s)
}

// nextSpace is the n-th address space after s: 10.78.0.0/16 is the first one after
// 10.77.0.0/16.
func nextSpace(s address.Space, n int) (address.Space, error) {
	a4, a6 := s.Prefix4.Addr().As4(), s.Prefix6.Addr().As16()
	if int(a4[1])+n > 255 || int(a6[7])+n > 255 {
		return s, fmt.Errorf("make network: %w", address.ErrExhausted)
	}
	a4[1] += byte(n)
	a6[7] += byte(n)
	s.Prefix4 = netip.PrefixFrom(netip.AddrFrom4(a4), s.Prefix4.Bits())
	s.Prefix6 = netip.PrefixFrom(netip.AddrFrom16(a6), s.Prefix6.Bits())
	return s, nil
}

// in runs fn with the fabric of a network, which is made on first use and stays while fn
// runs. If no endpoint is in the network then, the fabric is removed.
func (m *Manager) in(ctx context.Context, name string, fn func(*network) error) (err error) {
	n := m.network(name)
	if err := m.enter(ctx, n); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.leave(context.WithoutCancel(ctx), n)) }()
	return fn(n)
}

func (m *Manager) enter(ctx context.Context, n *network) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	if n.fabric == nil {
		s, err := m.spaceOf(n)
		if err != nil {
			return err
		}
		if n.fabric, err = m.open(ctx, n.name, s); err != nil {
			n.fabric = nil
			return err
		}
		m.share(ctx, n, s)
	}
	n.users++
	return nil
}

// leave ends one use of a network. The last user removes the fabric of a network that has
// no endpoint any more: an app that ends at the same time still uses it.
func (m *Manager) leave(ctx context.Context, n *network) error {
	n.changing.Lock()
	defer n.changing.Unlock()
	n.users--
	if n.users > 0 || m.inhabited(n.name) {
		return nil
	}
	f := n.fabric
	n.fabric, n.told, n.toldAny = nil, nil, false
	return errors.Join(m.unshare(ctx, n), m.dropQueue(ctx, n.name), f.Delete(ctx), f.Close())
}

// inhabited tells whether an endpoint is in the network, or connected to it.
func (m *Manager) inhabited(network string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.endpoints {
		if (e.present || e.apart) && e.claim.Network == network {
			return true // the network is left again when the endpoint is detached
		}
	}
	return false
}

// publish tells the fabric all ports that the network's endpoints publish. The caller is
// one of the network's users.
func (m *Manager) publish(ctx context.Context, n *network) error {
	n.publishing.Lock()
	defer n.publishing.Unlock()
	all, gateway := m.publications(n)
	// A transaction of the firewall takes some 10 ms, for one app at a time.
	if n.toldAny && slices.Equal(n.told, all) && n.toldGateway.Equal(gateway) {
		return nil
	}
	n.toldAny = false
	if err := n.fabric.SetGateway(gateway); err != nil { // the network is there, and may have come later
		m.opt.Log.ErrorContext(ctx, "this host is no gateway of a network", slog.String("network", n.name), slog.Any("error", err))
	}
	if err := n.fabric.SetPublications(ctx, all); err != nil {
		return err
	}
	n.told, n.toldGateway, n.toldAny = all, gateway, true
	return nil
}

// publications are the published ports of the endpoints in a network, always in the same
// order, and what else the host forwards.
func (m *Manager) publications(n *network) ([]fabric.Publication, fabric.Gateway) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all, resides := m.farther(n), false
	for e := range m.endpoints {
		if !e.present && !e.gone || e.claim.Network != n.name {
			continue
		}
		resides = resides || e.claim.Host
		for _, p := range e.claim.Ports {
			one := fabric.Publication{Proto: p.Proto, HostAddr: p.HostAddr, HostPort: p.HostPort, Addr: e.claim.Addr4, Port: p.Port}
			if all = append(all, one); e.claim.Addr6.IsValid() && !p.HostAddr.IsValid() {
				one.Addr = e.claim.Addr6
				all = append(all, one)
			}
		}
	}
	if !resides && !m.gateway.On { // on a host that is alone nothing has it forward IPv6
		all = slices.DeleteFunc(all, func(p fabric.Publication) bool { return p.Addr.Is6() })
	}
	slices.SortFunc(all, func(a, b fabric.Publication) int {
		return cmp.Or(cmp.Compare(a.HostPort, b.HostPort), strings.Compare(a.Proto, b.Proto), a.HostAddr.Compare(b.HostAddr), a.Addr.Compare(b.Addr))
	})
	return all, m.gateway
}

// Addresses tells how many addresses of a network are free, and its IPv4 prefix. The address
// of a spare endpoint counts as free: it is given up to whoever asks for it.
func (m *Manager) Addresses(network string) (free int, _ netip.Prefix, err error) {
	s, err := m.space(network)
	if err != nil {
		return 0, netip.Prefix{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	free = s.Size()
	for e := range m.endpoints {
		if e.claim.Network == network && e.claim.Spare == nil {
			free--
		}
	}
	return free, s.Prefix4, nil
}

// Owners tells which app has each address of a network that is in use.
func (m *Manager) Owners(network string) map[netip.Addr]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	owners := make(map[netip.Addr]string)
	for e := range m.endpoints {
		if e.claim.Network == network {
			owners[e.claim.Addr4], owners[e.claim.Addr6] = e.claim.App, e.claim.App
		}
	}
	return owners
}
