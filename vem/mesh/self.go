package mesh

import (
	"context"
	"net/netip"

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

// outward is what endpoints of other hosts know a source as.
func (n *Network) outward(a netip.Addr) netip.Addr {
	self := n.self.Load()
	if self == nil {
		return a
	}
	for _, p := range n.nets {
		if a != p.Addr().Next() { // the gateway's
			continue
		}
		for _, s := range self {
			if s.IsValid() && s.Is4() == a.Is4() {
				return s
			}
		}
	}
	return a
}
