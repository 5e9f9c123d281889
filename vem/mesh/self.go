package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/slowpath"
)

// SetSelf says at which addresses of the network endpoints of other hosts see this host itself, see
// [fabric.Fabric.SetSelf]. Its packets come into the slow path with the gateway's.
func (n *Network) SetSelf(a4, a6 netip.Addr) { n.self.Store(&[2]netip.Addr{a4, a6}) }

// resolverOf finds ways for the network's endpoints, and for the host itself.
type resolverOf struct {
	n *Network
	slowpath.Resolver
}

// Resolve implements [slowpath.Resolver].
func (r resolverOf) Resolve(ctx context.Context, q slowpath.Query) (slowpath.Way, error) {
	q.Source = r.n.outward(q.Source)
	w, err := r.Resolver.Resolve(ctx, q)
	away := r.n.m.opt.Locals.Away(r.n.name, q.Destination)
	switch {
	case errors.Is(err, slowpath.ErrNobody) && away:
		return nil, errAway
	case errors.Is(err, slowpath.ErrSource):
		o, known := r.n.m.opt.Owners.Known(r.n.name, q.Destination)
		if away || known && o.Host != r.n.m.opt.Self {
			return nil, fmt.Errorf("%w: %w", slowpath.ErrStray, err)
		}
	}
	return w, err
}

// errAway is that an endpoint of this host moves: who sends to it waits until it has moved, or stays.
var errAway = errors.New("the endpoint moves")

// outward is the endpoint of this host by which other hosts know a source. A machine behind this host
// has none of its own: the way back to it is that to the host.
func (n *Network) outward(a netip.Addr) netip.Addr {
	self := n.self.Load()
	if self == nil {
		return a
	}
	gateways := slices.ContainsFunc(n.nets, func(p netip.Prefix) bool { return a == p.Addr().Next() })
	for _, s := range self {
		if s.IsValid() && s.Is4() == a.Is4() && (gateways || n.behind(a)) {
			return s
		}
	}
	return a
}
