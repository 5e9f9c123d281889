package vem

import (
	"context"
	"errors"
	"net/netip"
)

// Gate says which endpoints may be in the networks that this host shares with others. Its methods
// are called without a lock, and at the same time.
type Gate interface {
	// Kept returns the addresses of a network that are not free on this host though no app here
	// has them, each with the app that may have it: empty for nobody.
	Kept(network string) map[netip.Addr]string
	// Claim is called for a new endpoint, before anything else is made of its app. asked tells
	// that its address was asked for, and not chosen among those of this host. Returns a
	// [*TakenError] if an app of another host has the address.
	Claim(ctx context.Context, c Claim, asked bool) error
	// Admit returns why an endpoint may not be in its network now, or nil. It does not wait.
	Admit(c Claim) error
}

// openGate is the gate of a host that shares nothing.
type openGate struct{}

func (openGate) Kept(string) map[netip.Addr]string        { return nil }
func (openGate) Claim(context.Context, Claim, bool) error { return nil }
func (openGate) Admit(Claim) error                        { return nil }

// SetGate has a gate decide from now on. It is called before there are endpoints.
func (m *Manager) SetGate(g Gate) { m.gate = g }

// Admitted returns why the endpoint may not be in its network now, or nil. The zero Endpoint is in
// none.
func (e *Endpoint) Admitted() error {
	if e.m == nil {
		return nil
	}
	return e.m.gate.Admit(e.Claim())
}

// Present tells whether the endpoint is in its network.
func (e *Endpoint) Present() bool {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	return e.present
}

// admit has an endpoint that may not be in its network be out of it.
func (e *Endpoint) admit(ctx context.Context) error {
	err := e.Admitted()
	if err == nil {
		return nil
	}
	return errors.Join(err, e.Shut(ctx))
}

// Shut takes the endpoint out of its network. Unlike after Detach, its app goes on, or is to go
// on: the endpoint stays this host's as far as it is.
func (e *Endpoint) Shut(ctx context.Context) error {
	e.m.mu.Lock()
	there := e.present || e.apart
	e.m.mu.Unlock()
	if !there {
		return nil
	}
	return e.detach(ctx)
}

// Wanted returns what the endpoints have whose apps run, are held, or are being made: in their
// networks or not.
func (m *Manager) Wanted() (list []Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.endpoints {
		if e.wanted {
			list = append(list, e.claim)
		}
	}
	return list
}
