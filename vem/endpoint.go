package vem

import (
	"context"
	"errors"
	"slices"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// Endpoint is an app's place in its network: from [Manager.Claim] or [Manager.Adopt] on,
// until it is freed, nobody else gets its address and ports. Operations on one endpoint
// are done one after the other; that is the caller's business.
type Endpoint struct {
	m  *Manager
	id string // see Claim

	holding holding

	// The manager's mu guards these.
	claim   Claim
	present bool // in its network, see Presence
	apart   bool // connected to its network, and not in it, see [Endpoint.Connect]
	gone    bool // apart, and its ports lead to it all the same, see [Endpoint.Withdraw]
	wanted  bool // its app runs, is held, or is being made
	ready   bool // a spare endpoint that is complete
	kept    bool // see [Endpoint.Keep]
}

// Claim returns what the endpoint has now. The caller does not change its ports.
func (e *Endpoint) Claim() Claim {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	return e.claim
}

// Ready notes that a spare endpoint is complete: it is given up at once.
func (e *Endpoint) Ready() {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	e.ready = true
}

// Use makes a spare endpoint that of an app: it is not given up any more.
func (e *Endpoint) Use(app string) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	e.claim.App, e.claim.Spare = app, nil
}

// AddPorts publishes more ports of the host, from the next time on that the endpoint is
// attached or rejoins. Returns a [*PortError], and adds none, if another app has one.
func (e *Endpoint) AddPorts(ports []Port) error {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if err := e.m.checkPorts(e, ports); err != nil {
		return err
	}
	e.claim.Ports = slices.Concat(e.claim.Ports, ports)
	return nil
}

// Attach connects the app's namespace to the network, which is made if it is not there,
// and publishes the endpoint's ports. It may be repeated, see [fabric.Fabric.Attach]. If the gate
// does not admit the endpoint, Attach returns the gate's error, and the endpoint is in no network.
func (e *Endpoint) Attach(ctx context.Context, ns *netns.NS) error {
	if err := e.admit(ctx); err != nil {
		return err
	}
	ep, name := e.setPresent(true)
	return e.m.in(ctx, name, func(n *network) error {
		if err := n.fabric.Attach(ctx, ep, ns); err != nil {
			return err
		}
		e.m.tell(n, e.Claim(), Share.Here)
		err := e.m.publish(ctx, n)
		e.m.awaitTold(ctx, n)
		return err
	})
}

// Connect gives the app's namespace the device and the addresses that Attach gives it, while the endpoint
// is not in its network: nothing comes in, and nobody is told. It is for an app that moves to this host,
// before it does. Attach, or Detach, ends it.
func (e *Endpoint) Connect(ctx context.Context, ns *netns.NS) error {
	ep, name := e.setApart(false)
	ep.Apart = true
	return e.m.in(ctx, name, func(n *network) error { return n.fabric.Attach(ctx, ep, ns) })
}

// Withdraw takes an attached endpoint out of its network, and leaves the app's namespace its device and
// addresses: nothing gets in or out. What is sent to the endpoint waits at the slow paths of hosts, until
// it is attached again, here or on another host. Its published ports lead to it as before: who connects
// there would be refused else. Withdrawing again does nothing more. It is for an app that moves to another
// host.
func (e *Endpoint) Withdraw(ctx context.Context) error {
	ep, name := e.setApart(true)
	return e.m.in(ctx, name, func(n *network) error {
		e.m.tell(n, e.Claim(), Share.Left)
		if err := n.fabric.Isolate(ctx, ep); err != nil {
			return err
		}
		return e.m.publish(ctx, n)
	})
}

func (e *Endpoint) setApart(gone bool) (ep fabric.Endpoint, network string) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	e.present, e.apart, e.gone, e.wanted = false, true, gone, true
	return e.claim.endpoint(), e.claim.Network
}

// Isolate cuts an attached endpoint off, until it is attached again or rejoins.
func (e *Endpoint) Isolate(ctx context.Context) error {
	c := e.Claim()
	return e.m.in(ctx, c.Network, func(n *network) error { return n.fabric.Isolate(ctx, c.endpoint()) })
}

// Rejoin undoes Isolate, if the gate admits the endpoint. netPath is where the app's network
// namespace is bound.
func (e *Endpoint) Rejoin(ctx context.Context, netPath string) (err error) {
	if err := e.admit(ctx); err != nil {
		return err
	}
	c := e.Claim()
	ns, err := netns.Open(netPath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	return e.m.in(ctx, c.Network, func(n *network) error {
		if err := n.fabric.Rejoin(ctx, c.endpoint(), ns); err != nil || len(c.Ports) == 0 {
			return err
		}
		return e.m.publish(ctx, n)
	})
}

// Detach undoes Attach; the last endpoint to leave takes the network along. It does
// nothing if the endpoint is not attached.
func (e *Endpoint) Detach(ctx context.Context) error {
	e.m.mu.Lock()
	e.wanted = e.kept
	e.m.mu.Unlock()
	return e.detach(ctx)
}

// Keep has other hosts know until the endpoint is freed that it is this host's, though its app is stopped: the
// app is about to move to another host, or has come from one.
func (e *Endpoint) Keep() {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	e.kept, e.wanted = true, true
}

func (e *Endpoint) detach(ctx context.Context) error {
	c := e.Claim()
	return e.m.in(ctx, c.Network, func(n *network) error {
		if err := n.fabric.Detach(ctx, c.endpoint()); err != nil {
			return err
		}
		e.setPresent(false)
		e.m.tell(n, c, Share.Left)
		return e.m.publish(ctx, n)
	})
}

// Free gives the endpoint's address and ports back, once it is detached. Freeing it again does
// nothing.
func (e *Endpoint) Free() {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	delete(e.m.endpoints, e)
}

func (e *Endpoint) setPresent(present bool) (ep fabric.Endpoint, network string) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	e.present, e.apart, e.gone = present, false, false
	e.wanted = e.wanted || present
	return e.claim.endpoint(), e.claim.Network
}

// endpoint is the claim as a fabric knows it.
func (c *Claim) endpoint() fabric.Endpoint {
	ep := fabric.Endpoint{App: c.App, Addr4: c.Addr4, Addr6: c.Addr6}
	if c.Inside4 != c.Addr4 {
		ep.Inside4 = c.Inside4
	}
	if c.Inside6 != c.Addr6 {
		ep.Inside6 = c.Inside6
	}
	return ep
}
