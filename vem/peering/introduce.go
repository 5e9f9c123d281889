package peering

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/snapctl/snapctl/vem/control"
)

// A route is for all endpoints of this host, so the other host has to know all of them: by a
// channel without an outer header it lets in only what comes from those that it has a route to
// (see channel.Direct). When a channel has come up both hosts tell each other of their endpoints,
// by comparing tables, and a host that gets another endpoint tells it to those that it has channels
// to. What an endpoint sends before that may be lost, and is sent again.

// Here tells the hosts that this one has channels to of an endpoint of this host that has come to a
// network. It does not wait for them.
func (p *Peering) Here(network string, a netip.Addr) {
	n := p.network(network)
	if n == nil {
		return
	}
	for _, l := range n.allLinks() {
		n.mu.Lock()
		_, known := l.ours[a]
		tell := l.channel != nil && !known
		n.mu.Unlock()
		if tell {
			n.introduceSoon(l)
		}
	}
}

// introduceSoon tells the other host of a link of this host's endpoints, beside all else: once more
// if that is under way.
func (n *Network) introduceSoon(l *link) {
	n.mu.Lock()
	under := l.telling
	l.telling, l.again = true, under
	n.mu.Unlock()
	if under {
		return
	}
	n.p.opt.Run(func(ctx context.Context) {
		for more := true; more; {
			n.tryIntroduce(ctx, l)
			n.mu.Lock()
			more = l.again && ctx.Err() == nil
			l.telling, l.again = more, false
			n.mu.Unlock()
		}
	})
}

// tryIntroduce is introduce, whose error is logged: it is done again when there is a connection to
// the host, or by the watch.
func (n *Network) tryIntroduce(ctx context.Context, l *link) {
	ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
	defer cancel()
	if err := n.introduce(ctx, l); err != nil && ctx.Err() == nil {
		n.p.opt.Log.InfoContext(ctx, "a host was not told of all endpoints of this one yet", slog.String("host", l.host), slog.Any("error", err))
	}
}

// introduce compares tables with the other host of a link, so that each knows all endpoints of the
// other. Nobody has the link's turn meanwhile who waits for this.
func (n *Network) introduce(ctx context.Context, l *link) error {
	if _, _, up := n.now(l); !up {
		return nil
	}
	n.setAllOurs(l)
	merged, equal, err := n.p.opt.Peers.Reconcile(ctx, l.host, n.table(ctx, l.host))
	if err == nil && !equal {
		_, err = n.merge(ctx, l.host, merged, l.host)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l.introduced = l.channel != nil
	return nil
}

// setAllOurs notes that the other host of a channel that is up is to reach all endpoints of this
// one.
func (n *Network) setAllOurs(l *link) {
	all := n.p.opt.Locals.All(n.name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.channel == nil {
		return
	}
	for _, e := range all {
		l.ours[e.Address] = max(l.ours[e.Address], e.Epoch)
	}
}

func (n *Network) isIntroduced(l *link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return l.introduced
}

// strange are the links that are up and whose hosts were not told of all endpoints.
func (n *Network) strange() (list []*link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		if l.channel != nil && !l.introduced {
			list = append(list, l)
		}
	}
	return list
}
