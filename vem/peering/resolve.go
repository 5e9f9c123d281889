package peering

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/slowpath"
)

var _ slowpath.Resolver = (*Network)(nil)

// maxRedirects bounds how often a host may say that another one has an endpoint.
const maxRedirects = 3

// Resolve finds the way to an endpoint: the other host agrees to it before Resolve returns, and
// has its way back. See [slowpath.Resolver].
//
// Only endpoints of this host have ways: what others send to an endpoint elsewhere gets an error
// wrapping [slowpath.ErrSource].
func (n *Network) Resolve(ctx context.Context, q slowpath.Query) (slowpath.Way, error) {
	if _, ok := n.p.opt.Locals.Epoch(n.name, q.Destination); ok {
		return here{}, nil
	}
	epoch, ok := n.p.opt.Locals.Epoch(n.name, q.Source)
	if !ok {
		return nil, fmt.Errorf("%s is no endpoint of this host: %w", q.Source, slowpath.ErrSource)
	}
	owner, err := n.p.opt.Owners.Owner(ctx, n.name, q.Destination)
	if err != nil {
		return nil, err
	}
	for range maxRedirects {
		if owner.Host == n.p.opt.Self { // it is ours, and it is not there: its app has ended
			return nil, fmt.Errorf("no app has %s: %w", q.Destination, slowpath.ErrNobody)
		}
		w, err := n.connect(ctx, message.Endpoint{Address: q.Source, Epoch: epoch}, q.Destination, owner)
		not, moved := errors.AsType[*message.NotOwnerError](err)
		if !moved || not.Owner == "" || not.Epoch <= owner.Epoch {
			return w, err
		}
		owner = Owner{Host: not.Owner, Epoch: not.Epoch}
	}
	return nil, fmt.Errorf("endpoint %s was moved %d times while this host asked for it", q.Destination, maxRedirects)
}

// connect agrees with the owner of an endpoint about the way there.
func (n *Network) connect(ctx context.Context, from message.Endpoint, to netip.Addr, owner Owner) (slowpath.Way, error) {
	l := n.link(owner.Host)
	w := &way{n: n, l: l, to: to, epoch: owner.Epoch}
	if r, ok := n.route(l, to); ok && r.epoch == owner.Epoch {
		var up bool
		if w.channel, w.version, up = n.now(l); up {
			return w, nil
		}
	}
	_, seen, up := n.now(l)
	if !up {
		seen.generation++
	}
	offers := n.offersTo(ctx, l)
	if len(offers) == 0 {
		return nil, errNoOffer
	}
	if err := n.expect(ctx, l, offers); err != nil {
		return nil, err
	}
	c, err := n.p.opt.Peers.Connect(ctx, owner.Host, message.ConnectRequest{
		Network: n.name, Source: from, Wanted: message.Endpoint{Address: to, Epoch: owner.Epoch},
		Offers: offers, Generation: seen.generation,
	})
	if err := errors.Join(err, n.answered(context.WithoutCancel(ctx), l, err)); err != nil {
		return nil, err
	}
	w.channel, w.version = c, version{c.Generation, n.p.opt.Self}
	if _, now, up := n.now(l); up && now.generation == c.Generation && now.by != adopted {
		w.version = now // it was up before, and is as it was
	}
	n.setOurs(l, from.Address, from.Epoch)
	return w, nil
}

// way leads to an endpoint of another host.
type way struct {
	n       *Network
	l       *link
	to      netip.Addr
	epoch   uint64
	channel message.Channel
	version version
}

// Prepare implements [slowpath.Way].
func (w *way) Prepare(ctx context.Context) error {
	isUp, err := w.prepare(ctx)
	if err != nil || isUp {
		return err
	}
	// What has waited at the other host until the channel is ready comes as soon as it is.
	m := w.n.kinds[w.channel.Module].Module
	if _, ok := m.(channel.Starter); ok {
		w.n.tryCompare(ctx, w.l)
		w.n.start(ctx, w.l, m, w.version)
	}
	return nil
}

// prepare does so, and tells whether the channel was up before.
func (w *way) prepare(ctx context.Context) (isUp bool, err error) {
	release, err := w.l.take(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	_, _, isUp = w.n.now(w.l)
	if err := w.n.up(ctx, w.l, w.channel, w.version); err != nil {
		return isUp, err
	}
	state := channel.Opening
	if r, ok := w.n.route(w.l, w.to); ok && r.state == channel.Open {
		state = channel.Open
	}
	return isUp, w.n.setRoute(ctx, w.l, w.to, route{w.epoch, state})
}

// Open implements [slowpath.Way].
func (w *way) Open(ctx context.Context) error {
	if !w.n.hasToldAll(w.l) {
		w.n.tryCompare(ctx, w.l)
	}
	release, err := w.l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if r, ok := w.n.route(w.l, w.to); !ok || r.epoch != w.epoch {
		return errOutdated
	}
	return w.n.setRoute(ctx, w.l, w.to, route{w.epoch, channel.Open})
}

// here is the way to an endpoint of this host: the fabric has it.
type here struct{}

func (here) Prepare(context.Context) error { return nil }
func (here) Open(context.Context) error    { return nil }
