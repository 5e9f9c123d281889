package peering

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Reconcile implements [control.Channels]: of what both hosts have the newer counts.
func (p *Peering) Reconcile(ctx context.Context, from message.Caller, theirs message.Table) (message.Table, error) {
	n := p.network(theirs.Network)
	if n == nil {
		return message.Table{Network: theirs.Network}, nil
	}
	return n.merge(ctx, from.Host, theirs, from.Host)
}

// Met compares with another host what both have, after there was no connection to it for a while:
// it may have been started anew, or have missed what this one said.
func (p *Peering) Met(ctx context.Context, host string) error {
	var errs []error
	for _, n := range p.all() {
		errs = append(errs, n.compareWith(ctx, n.link(host)))
	}
	return errors.Join(errs...)
}

// merge takes over what a table of another host has that is newer, whose channel is said to be
// begun by a host. It returns what this host has then. If the channel does not come up here, the
// other host is asked for another kind.
func (n *Network) merge(ctx context.Context, host string, theirs message.Table, by string) (message.Table, error) {
	l := n.link(host)
	ours, err := n.mergeNow(ctx, l, theirs, by)
	if _, other := errors.AsType[*kindError](err); other {
		n.soon("have a channel of another kind", l, func(ctx context.Context) error {
			return n.replace(ctx, l, theirs.Channel.Generation+1, Way{})
		})
	}
	return ours, err
}

// soon does something about a link beside all else.
func (n *Network) soon(what string, l *link, do func(context.Context) error) {
	n.p.opt.Run(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
		defer cancel()
		n.try(ctx, what, l, do)
	})
}

func (n *Network) try(ctx context.Context, what string, l *link, do func(context.Context) error) {
	if err := do(ctx); err != nil && ctx.Err() == nil {
		n.p.opt.Log.WarnContext(ctx, "a channel can't be mended yet", slog.String("doing", what), slog.String("network", n.name), slog.String("host", l.host), slog.Any("error", err))
	}
}

func (n *Network) mergeNow(ctx context.Context, l *link, theirs message.Table, by string) (message.Table, error) {
	host := l.host
	release, err := l.take(ctx)
	if err != nil {
		return message.Table{}, err
	}
	defer release()
	if c := theirs.Channel; c != nil {
		if _, seen, _ := n.now(l); (version{c.Generation, by}).newer(seen) {
			if err := n.up(ctx, l, *c, version{c.Generation, by}); err != nil {
				return message.Table{}, err
			}
		}
	}
	if _, _, up := n.now(l); !up {
		return n.table(ctx, host), nil
	}
	var theirsNow []message.Endpoint
	for _, r := range theirs.Routes {
		if r.Owner == host {
			theirsNow = append(theirsNow, message.Endpoint{Address: r.Address, Epoch: r.Epoch})
			continue
		}
		if epoch, ok := n.p.opt.Locals.Epoch(n.name, r.Address); ok && epoch == r.Epoch {
			n.setOurs(l, r.Address, epoch)
		}
	}
	n.setAllOurs(l)
	err = n.learn(ctx, l, theirsNow)
	return n.table(ctx, host), err
}

// Introduce implements [control.Channels].
func (p *Peering) Introduce(ctx context.Context, from message.Caller, r message.IntroduceRequest) error {
	refused := &message.RefusedError{By: p.opt.Self, Why: "the channel is not up, or was changed", Hint: "both hosts compare what they have, and that mends it"}
	n := p.network(r.Network)
	if n == nil {
		return refused
	}
	l := n.link(from.Host)
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if _, seen, up := n.now(l); !up || seen.generation != r.Generation || seen.by == adopted {
		return refused
	}
	return n.learn(ctx, l, r.Endpoints)
}

// learn takes over routes to endpoints that the other host says it has, but for those that are
// known to be another one's. What it returns an error for it leaves out. The caller has the link's
// turn.
func (n *Network) learn(ctx context.Context, l *link, list []message.Endpoint) error {
	all := make(map[netip.Addr]route)
	for _, e := range list {
		if r, news := n.news(l, e); news {
			all[e.Address] = r
		}
	}
	if len(all) == 0 {
		return nil
	}
	err := n.setRoutes(ctx, l, all)
	if len(all) == 1 || !errors.Is(err, channel.ErrRoute) {
		return err
	}
	var errs []error // one of them can't work, and nothing was changed
	for a, r := range all {
		errs = append(errs, n.setRoute(ctx, l, a, r))
	}
	return errors.Join(errs...)
}

// news is the route to an endpoint that the other host says it has; false if there is nothing to
// be changed.
func (n *Network) news(l *link, e message.Endpoint) (route, bool) {
	// Its first packet opens it: one that waits in the slow path is not overtaken.
	state := channel.Opening
	if now, ok := n.route(l, e.Address); ok {
		if now.epoch >= e.Epoch {
			return now, false
		}
		state = now.state
	}
	if _, ours := n.p.opt.Locals.Epoch(n.name, e.Address); ours {
		return route{}, false
	}
	if o, ok := n.p.opt.Owners.Known(n.name, e.Address); ok && o.Host != l.host && o.Epoch >= e.Epoch {
		return route{}, false
	}
	return route{e.Epoch, state}, true
}

// Counters implements [control.Channels].
func (p *Peering) Counters(ctx context.Context, from message.Caller, network string) ([]message.Counters, error) {
	var all []message.Counters
	for _, n := range p.all() {
		if network != "" && n.name != network {
			continue
		}
		for _, m := range n.modules {
			report, err := m.Report(ctx)
			if err != nil {
				return nil, err
			}
			c, ok := report.Hosts[from.Host]
			now, _, up := n.now(n.link(from.Host))
			if !ok || !up || n.kinds[now.Module].Module != m {
				continue
			}
			one := message.Counters{
				Network: n.name, Module: now.Module,
				PacketsIn: c.Received.Packets, BytesIn: c.Received.Bytes, PacketsOut: c.Sent.Packets, BytesOut: c.Sent.Bytes,
			}
			if last := c.Last(); !last.IsZero() {
				one.IdleFor = max(0, time.Since(last))
			}
			all = append(all, one)
		}
	}
	return all, nil
}
