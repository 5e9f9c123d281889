package installation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/overview"
)

// Trace follows the way to an endpoint, see [overview.Trace].
func (i *Installation) Trace(ctx context.Context, r overview.Request, tell func(overview.Step)) bool {
	return overview.Trace(ctx, guide{i}, r, tell)
}

// guide knows the way to endpoints.
type guide struct{ *Installation }

var _ overview.Guide = guide{}

// Networks implements [overview.Guide].
func (g guide) Networks() map[string][]netip.Prefix {
	all := make(map[string][]netip.Prefix)
	add := func(name string, prefixes ...netip.Prefix) {
		for _, p := range prefixes {
			if p.IsValid() {
				all[name] = append(all[name], p)
			}
		}
	}
	if p := g.part.Load(); p != nil && p.cache.Load() != nil {
		for _, n := range p.cache.Load().Networks() {
			add(n.Name, n.Prefix4, n.Prefix6)
		}
	}
	for _, e := range g.opt.Local.Present() {
		if _, ok := all[e.Network]; ok {
			continue
		}
		if s, err := g.opt.Local.Space(e.Network); err == nil {
			add(e.Network, s.Prefix4, s.Prefix6)
		}
	}
	return all
}

// Control implements [overview.Guide].
func (g guide) Control(host string) overview.Control {
	p, err := g.running()
	if err != nil {
		return overview.Control{Err: err}
	}
	return p.control(host)
}

// AskOwner implements [overview.Guide].
func (g guide) AskOwner(ctx context.Context, e overview.Resolution) (overview.Resolution, error) {
	p, err := g.running()
	if err != nil {
		return e, err
	}
	o, err := p.peers.Resolve(ctx, e.Host, e.Network, e.Addr4)
	if _, nobody := errors.AsType[*message.NotFoundError](err); nobody {
		return e, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	e.Host, e.Epoch, e.State = o.Host, o.Epoch, o.State.String()
	return e, err
}
