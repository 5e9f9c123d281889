package vem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/snapctl/snapctl/vem/address"
)

// Claim is what an endpoint has, or is to have.
type Claim struct {
	ID      string // the holder knows the app by it; it does not change
	App     string // the app's name, for messages and [Manager.Owners]
	Network string
	// Addr4 and Addr6 are the addresses by which others know the app. For a new endpoint,
	// zero Addr4: any that is free. Addr6 goes with it.
	Addr4, Addr6 netip.Addr
	// Inside4 and Inside6 are the addresses by which the app knows itself, if these are
	// others, see [fabric.Endpoint].
	Inside4, Inside6 netip.Addr
	Ports            []Port
	// Spare is nil, or how the endpoint can be had by somebody else.
	Spare *Spare
	// Host says that the endpoint is this host's own, see [Manager.Reside].
	Host bool
}

// Spare is an endpoint that nobody uses yet. If an app asks for its address, or no other
// address is free, it gives the address up.
type Spare struct {
	// GiveUp removes whoever has the endpoint, unless it is not spare any more. It returns
	// when the endpoint has been freed, or is somebody's for good.
	GiveUp func(ctx context.Context) error
}

// Port is a port of the host that leads to a port of the app.
type Port struct {
	Proto    string     // tcp or udp
	HostAddr netip.Addr // zero: all of the host's
	HostPort uint16
	Port     uint16
}

// Meets tells whether two ports can't both be there.
func (p Port) Meets(q Port) bool {
	return p.Proto == q.Proto && p.HostPort == q.HostPort &&
		(p.HostAddr == q.HostAddr || !p.HostAddr.IsValid() || !q.HostAddr.IsValid())
}

// spot is an address in a network.
type spot struct {
	network string
	addr    netip.Addr
}

// TakenError is an address that an endpoint of another app has.
type TakenError struct {
	App     string // that has it
	Network string
	Addr    netip.Addr
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("app %s has endpoint %s of network %s", e.App, e.Addr, e.Network)
}

// PortError is a port of the host that another app has.
type PortError struct {
	App  string // that has it
	Port Port
}

func (e *PortError) Error() string {
	return fmt.Sprintf("publish host port %d/%s: app %s has it", e.Port.HostPort, e.Port.Proto, e.App)
}

// AddressError is an address that no endpoint of the network can have.
type AddressError struct {
	Network string
	Prefix  netip.Prefix
	Err     error // wraps address.ErrOutside or address.ErrReserved
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("endpoint in network %s (%s): %v", e.Network, e.Prefix, e.Err)
}

func (e *AddressError) Unwrap() error { return e.Err }

// SpareError is an address that a spare endpoint has. Whoever gets the error calls GiveUp,
// claims Addr, and calls Done, which is all that undoes the reservation of the address:
// until then nobody gets it who has not asked for it.
type SpareError struct {
	Addr   netip.Addr
	GiveUp func(ctx context.Context) error
	Done   func()
}

func (e *SpareError) Error() string { return fmt.Sprintf("a spare endpoint has %s", e.Addr) }

// Claim makes an endpoint, which is not attached yet. The caller frees it.
//
// Returns a [*PortError] or [*TakenError] if another app has what is claimed, a
// [*SpareError] if a spare endpoint has the address or the last one that is left, an
// [*AddressError] if nobody can have the address, an error wrapping
// [address.ErrExhausted] if none is left, and what the gate says.
func (m *Manager) Claim(ctx context.Context, c Claim) (*Endpoint, error) {
	asked := c.Addr4.IsValid()
	e, err := m.claim(c, m.gate.Kept(c.Network))
	if err != nil {
		return nil, err
	}
	if err := m.gate.Claim(ctx, e.Claim(), asked); err != nil {
		e.Free()
		return nil, err
	}
	return e, nil
}

func (m *Manager) claim(c Claim, kept map[netip.Addr]string) (*Endpoint, error) {
	s, err := m.space(c.Network)
	if err != nil {
		return nil, err
	}
	n := m.network(c.Network)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkPorts(nil, c.Ports); err != nil {
		return nil, err
	}
	if c.Addr4, err = m.choose(c, s, n, kept); err != nil {
		return nil, err
	}
	c.Addr6 = s.Pair(c.Addr4)
	e := m.add(c, false)
	e.wanted = true
	return e, nil
}

// Adopt makes an endpoint that an earlier manager had. Nothing is checked, and nothing is
// done to the network. If the endpoint is not present, it was detached, and may only be
// detached again and freed.
func (m *Manager) Adopt(c Claim, present Presence) *Endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.add(c, present == Present)
	if present == Kept {
		e.kept, e.wanted = true, true
	}
	return e
}

// Presence tells whether an endpoint is in its network.
type Presence int

// An endpoint is present from its first Attach on until it is detached: one that is freed
// without ever having been attached has left nothing in the network.
const (
	Absent Presence = iota
	Present
	// Kept is an endpoint that is absent, and whose app is stopped, see [Endpoint.Keep].
	Kept
)

// add enters an endpoint into the table. The caller has m.mu.
func (m *Manager) add(c Claim, present bool) *Endpoint {
	c.Ports = slices.Clone(c.Ports)
	e := &Endpoint{m: m, id: c.ID, claim: c, present: present, wanted: present, holding: holding{keeping: make(chan struct{}, 1)}}
	m.endpoints[e] = struct{}{}
	return e
}

// checkPorts refuses ports that an endpoint other than self has. The caller has m.mu.
func (m *Manager) checkPorts(self *Endpoint, ports []Port) error {
	for e := range m.endpoints {
		if e == self {
			continue
		}
		for _, p := range ports {
			if slices.ContainsFunc(e.claim.Ports, p.Meets) {
				return &PortError{App: e.claim.App, Port: p}
			}
		}
	}
	return nil
}

// choose returns the address that the claim can have. The caller has m.mu.
func (m *Manager) choose(c Claim, s address.Space, n *network, kept map[netip.Addr]string) (netip.Addr, error) {
	used := make(map[netip.Addr]*Endpoint)
	var spare *Endpoint
	for e := range m.endpoints {
		if e.claim.Network != c.Network {
			continue
		}
		used[e.claim.Addr4] = e
		at := spot{c.Network, e.claim.Addr4}
		switch {
		case e.claim.Spare == nil || c.Spare != nil: // a spare endpoint is in the way of none of its kind
		case c.Addr4 == e.claim.Addr4, !c.Addr4.IsValid() && m.reserved[at] == 0 && e.better(spare):
			spare = e
		}
	}
	inUse := func(a netip.Addr) bool { return used[a] != nil }
	addr := cmp.Or(c.Addr4, keptFor(c, kept, inUse))
	var err error
	if addr.IsValid() {
		if app := kept[addr]; app != "" && app != c.App {
			return addr, &TakenError{App: app, Network: c.Network, Addr: addr}
		}
		err = s.Check(addr, inUse)
	} else {
		addr, err = s.Next(func(a netip.Addr) bool {
			_, is := kept[a]
			return is || inUse(a) || n.outside(a) || m.reserved[spot{c.Network, a}] > 0
		})
	}
	switch {
	case err == nil:
		return addr, nil
	case spare != nil && (errors.Is(err, address.ErrInUse) || errors.Is(err, address.ErrExhausted)):
		return addr, m.reserve(spare)
	case errors.Is(err, address.ErrInUse):
		return addr, &TakenError{App: used[addr].claim.App, Network: c.Network, Addr: addr}
	case errors.Is(err, address.ErrExhausted):
		return addr, fmt.Errorf("choose endpoint in network %s: %w", c.Network, err)
	default:
		return addr, &AddressError{Network: c.Network, Prefix: s.Prefix4, Err: err}
	}
}

// keptFor returns the address that is kept for an app which asks for none.
func keptFor(c Claim, kept map[netip.Addr]string, inUse func(netip.Addr) bool) netip.Addr {
	for a, app := range kept {
		if app == c.App && c.Spare == nil && !inUse(a) {
			return a
		}
	}
	return netip.Addr{}
}

// better tells whether a spare endpoint is to be given up rather than the best one that
// was found so far. One that is complete is better than one that is still being made, for
// which the new app would have to wait. The caller has m.mu.
func (e *Endpoint) better(best *Endpoint) bool {
	return best == nil || e.ready && !best.ready
}

// reserve keeps the address of a spare endpoint for whoever gets the error. The caller has
// m.mu.
func (m *Manager) reserve(spare *Endpoint) *SpareError {
	at := spot{spare.claim.Network, spare.claim.Addr4}
	m.reserved[at]++
	return &SpareError{Addr: at.addr, GiveUp: spare.claim.Spare.GiveUp, Done: sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.reserved[at]--; m.reserved[at] == 0 {
			delete(m.reserved, at)
		}
	})}
}
