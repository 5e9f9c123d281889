package mesh

import (
	"context"
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
	return r.Resolver.Resolve(ctx, q)
}

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
