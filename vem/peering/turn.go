package peering

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/peering/rule"
)

// A channel that changes to another module does so in steps, since the two hosts can't do it in
// the same moment, and each module takes packets of its own kinds only:
//
//	A (wants it)                        B
//	Switch --------------------------->  takes packets by both modules, sends by the old one
//	takes by both, sends by the new one
//	Switch, the same once more ------->  sends by the new one
//	a while later: forgets the old one   a while later: forgets the old one
//
// Routes that are not to be used any more, or not yet, are Opening ones: by these packets are let
// in that come without an outer header, and only what the slow path writes back is sent.
const (
	// turnLate is after what time a host sends by the new module that was not told to.
	turnLate = 3 * time.Second
	// linger is how long packets are still on their way by the old module.
	linger = time.Second
)

// change is what a link changes from, while that goes on. The network's mutex guards it.
type change struct {
	old  carrier // none: nothing changes
	late bool    // packets still leave by it
	v    version // that began it
}

// errNoOffer says that this host has nothing to offer to another one.
var errNoOffer = errors.New("this host makes no channels of the kind that it is to have: either the kernel has no BPF, or the two hosts are on no common link (snapctl host set --channel)")

// Reoffer has the channels to a host be of the best kind that both hosts offer now, under traffic.
func (p *Peering) Reoffer(ctx context.Context, host string) error {
	var errs []error
	for _, n := range p.all() {
		errs = append(errs, n.reoffer(ctx, n.link(host)))
	}
	return errors.Join(errs...)
}

func (n *Network) reoffer(ctx context.Context, l *link) error {
	now, seen, up := n.now(l)
	offers := n.offersTo(ctx, l)
	switch {
	case !up:
		return nil
	case len(offers) == 0:
		return errNoOffer
	case rule.Suits(now, offers):
		n.tellUnmet(ctx, l)
		return nil
	}
	return n.replace(ctx, l, seen.generation+1, Way{})
}

// replace has another channel agreed on than the one that is up, which goes a way if that works. If
// it does not come up on this host, which the other one can't know, both take another kind.
func (n *Network) replace(ctx context.Context, l *link, generation uint64, want Way) error {
	var failed error
	for range len(n.kinds) {
		offers := n.offersTo(ctx, l)
		if len(offers) == 0 {
			return errors.Join(failed, errNoOffer)
		}
		c, err := n.p.opt.Peers.Switch(ctx, l.host, message.SwitchRequest{
			Network: n.name, Generation: generation, Offers: offers, Local: want.Local, Remote: want.Remote,
		})
		if err != nil {
			return errors.Join(failed, err)
		}
		err = n.upNow(ctx, l, c, version{c.Generation, n.p.opt.Self})
		switch _, other := errors.AsType[*kindError](err); {
		case err == nil:
			return errors.Join(failed, n.confirm(ctx, l, c))
		case errors.Is(err, errOutdated): // the other host has changed it at the same time
			return failed
		case !other:
			return errors.Join(failed, err)
		}
		failed, generation = errors.Join(failed, err), c.Generation+1
	}
	return failed
}

func (n *Network) upNow(ctx context.Context, l *link, c message.Channel, v version) error {
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	return n.up(ctx, l, c, v)
}

// confirm tells the other host that this one takes packets by the new module. If that fails it
// sends by that one after a while without being told.
func (n *Network) confirm(ctx context.Context, l *link, c message.Channel) error {
	if n.changing(l).old.Module == nil {
		return nil
	}
	_, err := n.p.opt.Peers.Switch(ctx, l.host, message.SwitchRequest{Network: n.name, Generation: c.Generation, Offers: n.offersTo(ctx, l)})
	return err
}

func (n *Network) changing(l *link) change {
	n.mu.Lock()
	defer n.mu.Unlock()
	return l.change
}

func (n *Network) setChange(l *link, c change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l.change = c
}

// begin has a channel change from one module to another one, which has the host already. Who
// wanted it sends by the new one at once. The caller has the link's turn.
func (n *Network) begin(ctx context.Context, l *link, from, to carrier, v version) error {
	before := n.changing(l)
	if before.late {
		if err := n.turn(ctx, l, from); err != nil {
			return err
		}
	}
	if before.old.Module != nil && before.old.Module != to.Module && before.old.Module != from.Module {
		if err := before.old.RemoveHost(ctx, l.host); err != nil {
			return err
		}
	}
	if err := to.SetRoutes(ctx, as(channel.Opening, n.routesOf(l))); err != nil {
		return err
	}
	n.setChange(l, change{old: from, late: true, v: v})
	if v.by == n.p.opt.Self {
		return n.turn(ctx, l, to)
	}
	n.later("change it to another kind", l, turnLate, func(ctx context.Context) error {
		if _, seen, _ := n.now(l); seen != v && !v.newer(seen) {
			return nil
		}
		return n.turn(ctx, l, to)
	})
	return nil
}

// as returns routes with another state.
func as(s channel.State, list []channel.Route) []channel.Route {
	list = slices.Clone(list)
	for i := range list {
		list[i].State = s
	}
	return list
}

// turn has packets leave by the new module. The caller has the link's turn.
func (n *Network) turn(ctx context.Context, l *link, to carrier) error {
	c := n.changing(l)
	if !c.late {
		return nil
	}
	routes := n.routesOf(l)
	if err := to.SetRoutes(ctx, routes); err != nil {
		return err
	}
	if err := c.old.SetRoutes(ctx, as(channel.Opening, routes)); err != nil {
		return err
	}
	c.late = false
	n.setChange(l, c)
	n.leaveSoon(l, c.v, linger)
	return nil
}

// confirmed has packets leave by the new module, if that is what a request of the other host
// means: it has the generation of the change that goes on. The caller has the link's turn.
func (n *Network) confirmed(ctx context.Context, l *link, generation uint64) (message.Channel, bool, error) {
	now, seen, up := n.now(l)
	if !up || !n.changing(l).late || generation != seen.generation {
		return message.Channel{}, false, nil
	}
	return now, true, n.turn(ctx, l, n.kinds[now.Module])
}

// leave takes nothing by the old module any more. The caller has the link's turn.
func (n *Network) leave(ctx context.Context, l *link) error {
	c := n.changing(l)
	if c.old.Module == nil || c.late {
		return nil
	}
	if err := c.old.RemoveHost(ctx, l.host); err != nil {
		return err
	}
	n.setChange(l, change{})
	return nil
}

// later does something about a link after a while, with its turn.
func (n *Network) later(what string, l *link, after time.Duration, do func(context.Context) error) {
	n.p.opt.Run(func(ctx context.Context) {
		if !pause.For(ctx, after, nil) {
			return
		}
		release, err := l.take(ctx)
		if err != nil {
			return
		}
		defer release()
		n.try(ctx, what, l, do)
	})
}

// leaveAll finishes what an earlier process has not, or failed.
func (n *Network) leaveAll(ctx context.Context) error {
	var errs []error
	for _, l := range n.allLinks() {
		if c := n.changing(l); c.old.Module == nil || c.late {
			continue
		}
		release, err := l.take(ctx)
		if err != nil {
			return err
		}
		errs = append(errs, n.leave(ctx, l))
		release()
	}
	return errors.Join(errs...)
}

// removeOld removes routes of the module that a link changes from. The caller has the link's turn.
func (n *Network) removeOld(ctx context.Context, l *link, list []netip.Addr) error {
	if old := n.changing(l).old; old.Module != nil {
		return old.RemoveRoutes(ctx, list)
	}
	return nil
}

// onlyBy removes routes to endpoints that modules have besides one.
func (n *Network) onlyBy(ctx context.Context, m channel.Module, list []netip.Addr) error {
	var errs []error
	for _, other := range n.modules {
		if other != m {
			errs = append(errs, other.RemoveRoutes(ctx, list))
		}
	}
	return errors.Join(errs...)
}
