package peering

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/peering/rule"
)

// offer are how this host can be reached by channels from another one, with what its modules have
// to tell.
func (n *Network) offer(ctx context.Context, host string) (list []message.Offer) {
	for _, o := range n.offers(host) {
		module, ok := n.kinds[o.Module].Module.(channel.Offerer)
		if !ok {
			list = append(list, o)
			continue
		}
		port, parameters, err := module.Offer(ctx)
		if err != nil {
			n.p.opt.Log.WarnContext(ctx, "a kind of channels can't be offered", slog.String("network", n.name), slog.String("kind", o.Module), slog.Any("error", err))
			continue
		}
		o.Parameters, o.Underlay = parameters, slices.Clone(o.Underlay)
		for i, a := range o.Underlay {
			o.Underlay[i] = netip.AddrPortFrom(a.Addr(), port)
		}
		list = append(list, o)
	}
	return list
}

// told is a channel as the other host is told of it: with what this host's module has, and not with
// what it needs of the other one's.
func (n *Network) told(ctx context.Context, l *link, c message.Channel) message.Channel {
	c.Parameters, c.Given = nil, rule.Given(n.able(l, n.offers(l.host)))
	if module, ok := n.kinds[c.Module].Module.(channel.Offerer); ok {
		if port, parameters, err := module.Offer(ctx); err == nil {
			c.Local, c.Parameters = netip.AddrPortFrom(c.Local.Addr(), port), parameters
		}
	}
	return c
}

// start has a channel that this host has made last be ready for packets. If that fails they may
// wait, and go as soon as it is.
func (n *Network) start(ctx context.Context, l *link, m channel.Module, v version) {
	s, ok := m.(channel.Starter)
	if !ok || v.by != n.p.opt.Self {
		return
	}
	if err := s.Start(ctx, l.host); err != nil {
		n.p.opt.Log.InfoContext(ctx, "a channel is not ready yet", slog.String("network", n.name), slog.String("host", l.host), slog.Any("error", err))
	}
}
