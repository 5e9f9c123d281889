package installation

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/probe"
)

// hostChanged goes by what the directory says of a host.
func (i *Installation) hostChanged(ctx context.Context, p *part, before, h *directory.Host) {
	if h == nil {
		if before != nil && before.Name == p.identity.Host() {
			p.Run(i.upkeep.Announce) // it is in a directory once more that was restored
		}
		return
	}
	if h.Name == p.identity.Host() {
		if i.upkeep.Displaced(h) {
			p.Run(i.upkeep.Announce)
		}
		return
	}
	if h.Removed {
		p.peers.Remove(h.Name)
		p.server.Drop(h.Name)
		if err := p.mesh.RemoveHost(ctx, h.Name); err != nil {
			i.opt.Log.ErrorContext(ctx, "take the channels to a removed host down", slog.String("host", h.Name), slog.Any("error", err))
		}
		return
	}
	var at []mesh.Remote
	var ports []netip.AddrPort
	list := slices.Clone(h.Underlays)
	slices.SortStableFunc(list, func(a, b directory.Underlay) int { return a.Priority - b.Priority })
	for _, u := range list {
		to := netip.AddrPortFrom(u.Addr, h.Port)
		at = append(at, mesh.Remote{Addr: to, Priority: u.Priority})
		ports = append(ports, to)
	}
	i.askAt(ctx, p, h.Name, ports)
	p.mesh.SetHost(h.Name, at)
}

// askAt has a host asked at these addresses, the best first: what is under way by another one goes
// on by them.
func (i *Installation) askAt(ctx context.Context, p *part, host string, at []netip.AddrPort) {
	var ways []control.Address
	for _, to := range at { // in this order: a connection stays whose address is among them, as it is
		ways = append(ways, control.Address{To: to})
	}
	if err := p.peers.Set(host, ways); err != nil {
		i.opt.Log.ErrorContext(ctx, "the addresses of a host can't be used", slog.String("host", host), slog.Any("error", err))
	}
}

// endpointChanged goes by what the directory says of an endpoint.
func (i *Installation) endpointChanged(ctx context.Context, p *part, before, after *directory.Endpoint) {
	now := after
	if now == nil {
		now = before
	}
	if before != nil && before.Ports != "" || now.Ports != "" {
		p.gateway.LookAgain()
	}
	owner := peering.Owner{Host: now.Owner, Epoch: now.Epoch}
	if r := p.registrar.Load(); r != nil && r.Differs(ownership.SpotOf(*now), after) {
		r.Changed()
	}
	space, err := i.opt.Local.Space(now.Network)
	if err != nil || i.IsPrivate(now.Network) {
		return // no endpoint of this host is in the network
	}
	for _, a := range []netip.Addr{now.Addr, space.Pair(now.Addr)} {
		if !a.IsValid() {
			continue
		}
		if owner.Host == p.identity.Host() {
			p.mesh.Peering().Here(now.Network, a)
		}
		if err := p.mesh.Moved(ctx, now.Network, a, owner); err != nil {
			i.opt.Log.WarnContext(ctx, "forget where an endpoint was", slog.String("endpoint", a.String()), slog.Any("error", err))
		}
	}
}

// met compares tables with a host that is there again, and probes ways to it by what only both
// know.
func (i *Installation) met(p *part, s control.Status) {
	if !s.Connected {
		return
	}
	if k, err := probe.NewKey(*s.TLS); err != nil {
		i.opt.Log.Error("the ways to a host are not probed", slog.String("host", s.Host), slog.Any("error", err))
	} else {
		p.mesh.AskBy(s.Host, k)
	}
	p.Run(func(ctx context.Context) {
		if err := p.mesh.Met(ctx, s.Host); err != nil && ctx.Err() == nil {
			i.opt.Log.WarnContext(ctx, "compare channels with a host", slog.String("host", s.Host), slog.Any("error", err))
		}
	})
}
