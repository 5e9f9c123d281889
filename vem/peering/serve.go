package peering

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/peering/rule"
)

// Connect implements [control.Channels]: another host asks for a way to an endpoint of this one.
func (p *Peering) Connect(ctx context.Context, from message.Caller, r message.ConnectRequest) (message.Channel, error) {
	n := p.network(r.Network)
	epoch, ok := p.opt.Locals.Epoch(r.Network, r.Wanted.Address)
	if n == nil || !ok || epoch != r.Wanted.Epoch {
		return message.Channel{}, p.notOurs(ctx, r, epoch, ok && n != nil)
	}
	if err := p.checkSource(ctx, from, r); err != nil {
		return message.Channel{}, err
	}
	l := n.link(from.Host)
	release, err := l.take(ctx)
	if err != nil {
		return message.Channel{}, err
	}
	defer release()
	c, err := n.agree(ctx, l, from, r.Offers, r.Generation, Way{})
	if err != nil {
		return message.Channel{}, err
	}
	if err := n.setRoute(ctx, l, r.Source.Address, route{r.Source.Epoch, channel.Open}); err != nil {
		return message.Channel{}, err
	}
	n.setOurs(l, r.Wanted.Address, epoch)
	return c, nil
}

// notOurs says who has an endpoint that this host was asked for in vain.
func (p *Peering) notOurs(ctx context.Context, r message.ConnectRequest, epoch uint64, here bool) error {
	e := &message.NotOwnerError{By: p.opt.Self, Network: r.Network, Address: r.Wanted.Address}
	if here {
		e.Owner, e.Epoch = p.opt.Self, epoch
		return e
	}
	if o, err := p.opt.Owners.Owner(ctx, r.Network, r.Wanted.Address); err == nil && o.Host != p.opt.Self {
		e.Owner, e.Epoch = o.Host, o.Epoch
	}
	return e
}

// checkSource refuses a host that speaks for an endpoint of another one. What this host does not
// know it believes: the caller is of the installation, and the directory may tell it later.
func (p *Peering) checkSource(ctx context.Context, from message.Caller, r message.ConnectRequest) error {
	_, ours := p.opt.Locals.Epoch(r.Network, r.Source.Address)
	o, err := p.opt.Owners.Owner(ctx, r.Network, r.Source.Address)
	if ours || err == nil && o.Host != from.Host && o.Epoch >= r.Source.Epoch {
		owner := o.Host
		if ours {
			owner = p.opt.Self
		}
		return &message.RefusedError{
			By: p.opt.Self, Why: "endpoint " + r.Source.Address.String() + " of network " + r.Network + " is host " + owner + "'s",
			Hint: "the endpoint was taken over, or moved: snapctl vem resolve tells where it is",
		}
	}
	return nil
}

// agree brings the channel to a host up that has asked for it, if it is not up by a way that the
// host still has, and of the kind that both should have (see package rule). It goes the way that the host
// wants, if that works. What it returns is for the other host. The caller has the link's turn.
func (n *Network) agree(ctx context.Context, l *link, from message.Caller, offers []message.Offer, generation uint64, want Way) (message.Channel, error) {
	now, seen, up := n.now(l)
	mine := n.offersTo(ctx, l)
	list := n.candidates(l.host, mine, offers, want)
	stays := rule.Reaches(offers, now) && (len(list) == 0 || list[0].Module == now.Module)
	if up && generation <= seen.generation && stays && n.works(l.host, n.kinds[now.Module].kind, wayOf(now)) {
		return n.told(ctx, l, now), nil
	}
	if generation <= seen.generation { // it does not know what both had: it was started anew, or has moved
		generation = seen.generation + 1
	}
	var errs []error
	for _, c := range list {
		c.Generation = generation
		err := n.up(ctx, l, c, version{generation, from.Host})
		if _, other := errors.AsType[*kindError](err); other && ctx.Err() == nil {
			errs = append(errs, err)
			continue
		}
		if err != nil {
			return message.Channel{}, err
		}
		return n.told(ctx, l, c), nil
	}
	if len(errs) > 0 {
		return message.Channel{}, errors.Join(errs...)
	}
	return message.Channel{}, &message.RefusedError{
		By: n.p.opt.Self, Why: "it has no module and no underlay address family in common with host " + from.Host,
		Hint: "compare snapctl host show of both hosts",
	}
}

// candidates are the channels that there could be to a host, one of each kind at most, the best
// first: by the way that is wanted, if that works, else by one that works, else by any.
func (n *Network) candidates(host string, mine, theirs []message.Offer, want Way) (list []message.Channel) {
	there := make(map[string]bool)
	for _, choose := range []chooser{n.wanted(host, want), n.working, n.possible} {
		for _, kind := range rule.Kinds(mine, theirs) {
			m, t := rule.Of(mine, kind), rule.Of(theirs, kind)
			w, ok := choose(host, n.kinds[kind].kind, n.pairs(host, m, t))
			if !ok || there[kind] {
				continue
			}
			there[kind] = true
			list = append(list, message.Channel{
				Module: kind, Local: w.local, Remote: w.remote, MTU: min(m.MTU, t.MTU), Parameters: t.Parameters, Given: rule.Given(theirs),
			})
		}
	}
	return list
}

// pair is a way with the ports of the module.
type pair struct{ local, remote netip.AddrPort }

func (p pair) way() Way { return Way{p.local.Addr(), p.remote.Addr()} }

// pairs are those of one family among what two hosts offer, the best first.
func (n *Network) pairs(host string, mine, theirs message.Offer) (list []pair) {
	for _, r := range theirs.Underlay {
		for _, l := range mine.Underlay {
			if l.Addr().Is4() == r.Addr().Is4() {
				list = append(list, pair{l, r})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b pair) int { return n.compare(host, a.way(), b.way()) })
	return list
}

// A chooser chooses the ends of a channel of a kind to a host, among pairs that are in their order.
type chooser func(host string, k channel.Kind, list []pair) (pair, bool)

// wanted chooses a way, if packets get through.
func (n *Network) wanted(host string, want Way) chooser {
	return func(_ string, k channel.Kind, list []pair) (pair, bool) {
		return n.first(k, list, func(p pair) bool { return p.way() == want && n.works(host, k, want) })
	}
}

// working chooses a way by which packets get through: of one link, or else, if routers may be
// between the hosts, of one family.
func (n *Network) working(host string, k channel.Kind, list []pair) (pair, bool) {
	works := func(p pair) bool { return n.works(host, k, p.way()) }
	return n.first(k, list, func(p pair) bool { return works(p) && n.linked(p) }, works)
}

// possible chooses any way in the same order.
func (n *Network) possible(_ string, k channel.Kind, list []pair) (pair, bool) {
	return n.first(k, list, n.linked, func(pair) bool { return true })
}

// first returns the first pair that fits, by the first of several needs that one does. A channel
// without an outer header takes one link.
func (n *Network) first(k channel.Kind, list []pair, needs ...func(pair) bool) (pair, bool) {
	for _, fits := range needs {
		i := slices.IndexFunc(list, func(p pair) bool { return fits(p) && (k != channel.Direct || n.linked(p)) })
		if i >= 0 {
			return list[i], true
		}
	}
	return pair{}, false
}

func (n *Network) linked(p pair) bool { return n.onLink(p.way().Local, p.way().Remote) }

// Disconnect implements [control.Channels].
func (p *Peering) Disconnect(ctx context.Context, from message.Caller, r message.DisconnectRequest) error {
	n := p.network(r.Network)
	if n == nil {
		return nil
	}
	l := n.link(from.Host)
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if len(r.Routes) == 0 {
		return n.down(ctx, l, version{r.Generation, from.Host})
	}
	var gone []netip.Addr
	for _, one := range r.Routes {
		if one.Owner == p.opt.Self {
			n.forgetOurs(l, one)
		} else if now, ok := n.route(l, one.Address); ok && now.epoch <= one.Epoch {
			gone = append(gone, one.Address)
		}
	}
	return n.removeRoutes(ctx, l, gone)
}

func (n *Network) forgetOurs(l *link, r message.Route) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.ours[r.Address] <= r.Epoch {
		delete(l.ours, r.Address)
	}
}

// Switch implements [control.Channels]: the other host wants another module, or is at another
// address.
func (p *Peering) Switch(ctx context.Context, from message.Caller, r message.SwitchRequest) (message.Channel, error) {
	n := p.network(r.Network)
	if n == nil {
		return message.Channel{}, &message.RefusedError{By: p.opt.Self, Why: "it does not use network " + r.Network}
	}
	l := n.link(from.Host)
	release, err := l.take(ctx)
	if err != nil {
		return message.Channel{}, err
	}
	defer release()
	if _, _, up := n.now(l); !up {
		return message.Channel{}, &message.RefusedError{By: p.opt.Self, Why: "the channel is down", Hint: "the next packet brings it up again"}
	}
	if c, done, err := n.confirmed(ctx, l, r.Generation); done {
		return n.told(ctx, l, c), err
	}
	return n.agree(ctx, l, from, r.Offers, r.Generation, Way{r.Local, r.Remote})
}

// Table implements [control.Channels].
func (p *Peering) Table(ctx context.Context, from message.Caller, network string) (message.Table, error) {
	t := message.Table{Network: network}
	if n := p.network(network); n != nil {
		n.setAllOurs(n.link(from.Host))
		t = n.table(ctx, from.Host)
	}
	return t, nil
}

// table is what this host has in common with another one, as that one is told of it.
func (n *Network) table(ctx context.Context, host string) message.Table {
	t := n.tableNow(host)
	if t.Channel != nil {
		*t.Channel = n.told(ctx, n.link(host), *t.Channel)
	}
	return t
}

func (n *Network) tableNow(host string) message.Table {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := message.Table{Network: n.name}
	l, ok := n.links[host]
	if !ok || l.channel == nil {
		return t
	}
	c := *l.channel
	t.Channel = &c
	for a, r := range l.routes {
		t.Routes = append(t.Routes, message.Route{Address: a, Owner: host, Epoch: max(r.epoch, 1)}) // 0: see adopt
	}
	for a, epoch := range l.ours {
		t.Routes = append(t.Routes, message.Route{Address: a, Owner: n.p.opt.Self, Epoch: epoch})
	}
	slices.SortFunc(t.Routes, func(a, b message.Route) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Owner, b.Owner))
	})
	return t
}
