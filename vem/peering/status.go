package peering

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Status is a channel, for people.
type Status struct {
	Network string
	Host    string
	Up      bool
	Channel message.Channel // of one that is down: as it was up last
	// Since is when the channel came up, or went down; zero: before this process began.
	Since   time.Time
	Routes  []netip.Addr // endpoints of the other host that this one reaches, in their order
	Traffic channel.Counters
	// Unmet tells why the channel is not of the kind that this host was told to have; "": it is, or
	// this host was told none.
	Unmet string
}

// Channels are all channels that are up.
func (p *Peering) Channels(ctx context.Context) ([]Status, error) {
	all, err := p.Known(ctx)
	return slices.DeleteFunc(all, func(s Status) bool { return !s.Up }), err
}

// Known are all channels that are up, and those that were since this process began, in the order
// of networks and hosts.
func (p *Peering) Known(ctx context.Context) ([]Status, error) {
	var all []Status
	for _, n := range p.all() {
		list, err := n.channels(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Host, b.Host)) })
	return all, nil
}

func (n *Network) channels(ctx context.Context) (list []Status, err error) {
	traffic := make(map[channel.Module]map[string]channel.Counters)
	for _, m := range n.modules {
		report, err := m.Report(ctx)
		if err != nil {
			return nil, err
		}
		traffic[m] = report.Hosts
	}
	offers := make(map[string][]message.Offer)
	for _, l := range n.allLinks() {
		offers[l.host] = n.offers(l.host)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for host, l := range n.links {
		if l.last.Module == "" {
			continue // it never was up
		}
		list = append(list, Status{
			Network: n.name, Host: host, Up: l.channel != nil, Channel: l.last, Since: l.since,
			Routes: slices.SortedFunc(maps.Keys(l.routes), netip.Addr.Compare), Traffic: traffic[n.kinds[l.last.Module].Module][host],
			Unmet: n.unmet(l, offers[host]),
		})
	}
	return list, nil
}

// TakeDown takes channels that are up down, in the middle of their traffic: those to a host, or
// to all if it is "", of a network, or of all if it is "". It returns what they were. Endpoints
// are not told: the next packet brings a channel up again. Packets that are underway may be lost,
// as on any network.
func (p *Peering) TakeDown(ctx context.Context, network, host string) ([]Status, error) {
	all, err := p.Channels(ctx)
	if err != nil {
		return nil, err
	}
	var taken []Status
	var errs []error
	for _, s := range all {
		n := p.network(s.Network)
		if n == nil || network != "" && s.Network != network || host != "" && s.Host != host {
			continue
		}
		l := n.link(s.Host)
		if _, seen, up := n.now(l); up {
			if err := n.rest(ctx, l, version{seen.generation + 1, n.p.opt.Self}); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		s.Up, s.Since = false, time.Now()
		taken = append(taken, s)
	}
	return taken, errors.Join(errs...)
}
