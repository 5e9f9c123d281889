package peering

import (
	"context"
	"errors"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
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
		errs = append(errs, n.introduce(ctx, n.link(host)))
	}
	return errors.Join(errs...)
}

// merge takes over what a table of another host has that is newer, whose channel is said to be
// begun by a host. It returns what this host has then.
func (n *Network) merge(ctx context.Context, host string, theirs message.Table, by string) (message.Table, error) {
	l := n.link(host)
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
	var errs []error
	for _, r := range theirs.Routes {
		if r.Owner == host {
			errs = append(errs, n.learn(ctx, l, r))
			continue
		}
		if epoch, ok := n.p.opt.Locals.Epoch(n.name, r.Address); ok && epoch == r.Epoch {
			n.setOurs(l, r.Address, epoch)
		}
	}
	n.setAllOurs(l)
	return n.table(ctx, host), errors.Join(errs...)
}

// learn takes over a route to an endpoint that the other host says it has. The caller has the
// link's turn.
func (n *Network) learn(ctx context.Context, l *link, r message.Route) error {
	// Its first packet opens it: one that waits in the slow path is not overtaken.
	state := channel.Opening
	if now, ok := n.route(l, r.Address); ok {
		if now.epoch >= r.Epoch {
			return nil
		}
		state = now.state
	}
	if _, ours := n.p.opt.Locals.Epoch(n.name, r.Address); ours {
		return nil
	}
	if o, err := n.p.opt.Owners.Owner(ctx, n.name, r.Address); err == nil && o.Host != l.host && o.Epoch >= r.Epoch {
		return nil
	}
	return n.setRoute(ctx, l, r.Address, route{r.Epoch, state})
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
