package installation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/cache"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/installation/errand"
	"github.com/snapctl/snapctl/vem/installation/relocate"
	"github.com/snapctl/snapctl/vem/membership/wire"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/probe"
	"github.com/snapctl/snapctl/vem/registrar"
	"github.com/snapctl/snapctl/vem/slowpath"
	"github.com/snapctl/snapctl/vem/trust"
)

// part is what runs while this host is in an installation.
type part struct {
	errand.Errands

	identity *trust.Identity
	server   *control.Server
	doors    *relocate.Doors
	tls      func(host string) *tls.Config // by which a host is asked
	peers    *control.Peers
	mesh     *mesh.Mesh
	local    Networks
	gateway  *gateway.Forwarder

	seen    overview.Sightings
	ranges  *ownership.Ranges
	reached chan struct{} // closed when the directory was reached for the first time

	cache     atomic.Pointer[cache.Cache]         // nil: the directory was not reached yet
	registrar atomic.Pointer[registrar.Registrar] // likewise
}

// known is what is known of a host.
func (p *part) known(host string) (directory.Host, bool) {
	c := p.cache.Load()
	if c == nil {
		return directory.Host{}, false
	}
	h, err := c.Host(host)
	return h, err == nil
}

// Owner implements [peering.Owners].
func (p *part) Owner(ctx context.Context, network string, a netip.Addr) (peering.Owner, error) {
	r := p.registrar.Load()
	if r == nil {
		return peering.Owner{}, fmt.Errorf("look up endpoint %s: %w", a, directory.ErrUnavailable)
	}
	return r.Owner(ctx, network, a)
}

// Known implements [peering.Owners].
func (p *part) Known(network string, a netip.Addr) (peering.Owner, bool) {
	if c := p.cache.Load(); c != nil {
		e, ok := c.Known(network, a)
		return peering.Owner{Host: e.Owner, Epoch: e.Epoch}, ok
	}
	return peering.Owner{}, false
}

// Resolve implements [control.Owners].
func (p *part) Resolve(ctx context.Context, _ message.Caller, network string, a netip.Addr) (message.Owner, error) {
	o, err := p.Owner(ctx, network, a)
	if errors.Is(err, slowpath.ErrNobody) {
		return message.Owner{}, &message.NotFoundError{By: p.identity.Host(), Network: network, Address: a}
	}
	owner := message.Owner{Host: o.Host, Epoch: o.Epoch, State: message.Running}
	if e, ok := p.local.Find(network, a); ok && p.local.Holding()[e.App] {
		owner.State = message.Held
	}
	return owner, err
}

// locals are the endpoints of this host, with the epochs that the directory has.
type locals struct {
	networks Networks
	part     *part
}

// Epoch implements [peering.Locals].
func (l locals) Epoch(network string, a netip.Addr) (uint64, bool) {
	e, ok := l.networks.Find(network, a)
	if !ok {
		return 0, false
	}
	if r := l.part.registrar.Load(); r != nil {
		return r.Epoch(e), true
	}
	return 1, true
}

// Away implements [mesh.Locals].
func (l locals) Away(network string, a netip.Addr) bool { return l.networks.Away(network, a) }

// All implements [peering.Locals].
func (l locals) All(network string) (list []message.Endpoint) {
	space, err := l.networks.Space(network)
	if err != nil {
		return nil
	}
	r := l.part.registrar.Load()
	for _, e := range l.networks.Present() {
		if e.Network != network {
			continue
		}
		epoch := uint64(1)
		if r != nil {
			epoch = r.Epoch(e)
		}
		for _, a := range []netip.Addr{e.Addr4, space.Pair(e.Addr4)} {
			if a.IsValid() {
				list = append(list, message.Endpoint{Address: a, Epoch: epoch})
			}
		}
	}
	return list
}

// desk answers what is about certificates, and lets hosts that greet this one probe it.
type desk struct {
	wire.Desk

	mesh *mesh.Mesh
	log  *slog.Logger
}

// streams are those that other hosts may open.
func (d *desk) streams() map[string]func(context.Context, message.Caller, *control.Stream) error {
	return map[string]func(context.Context, message.Caller, *control.Stream) error{wire.CAKind: d.ShareCA}
}

// Greeted implements [control.Hosts].
func (d *desk) Greeted(from message.Caller, _ message.Greeting) {
	k, err := probe.NewKey(*from.TLS)
	if err != nil {
		d.log.Error("the probes of a host are not answered", slog.String("host", from.Host), slog.Any("error", err))
		return
	}
	d.mesh.AnswerTo(from.Host, k)
}

func peerOf(cs tls.ConnectionState) (string, bool) {
	p, ok := trust.PeerOf(cs)
	return p.Host, ok
}
