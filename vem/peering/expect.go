package peering

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/peering/rule"
)

// A host that is asked for a channel has its end of it up before the one that asks, and may send at
// once. So packets from it are taken before it is asked: by the module that the channel is to be of, if
// the other host makes what this one does, and by those that are in use anyway. A first host costs
// VXLAN some 30 ms, for which no first packet is to wait in vain. A module that has to be told
// something by the other host before is left out: what goes by it waits there for a handshake.
//
// That ends if the other host has done nothing. If what became of the call is not known, or this
// process dies meanwhile, it stays as it does when a channel goes down: the other end may be up.

// expected is what takes packets from a host that is asked for a channel. Who has the link's turn
// has it.
type expected struct {
	by    []channel.Module // that did not know the host before, and that no channel uses
	asked int              // calls that are under way
	maybe bool             // one has brought the channel up there, or may have
}

// expect has packets be taken from a host that is asked for a channel next: modules are told of it as
// if the channel went the way that is the best one, as far as this host knows. The caller calls
// answered afterwards.
func (n *Network) expect(ctx context.Context, l *link, offers []message.Offer) error {
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	l.expected.asked++
	if _, _, up := n.now(l); up {
		return nil
	}
	told := make(map[channel.Module]bool)
	for _, c := range n.candidates(l.host, offers, rule.Likely(offers, n.sources(l.host)), Way{}) {
		m := n.kinds[c.Module].Module
		_, waits := m.(channel.Offerer)
		known, err := m.Hosts(ctx)
		if err != nil || waits || told[m] || len(told) > 0 && len(known) == 0 && c.Module != l.last.Module {
			continue
		}
		told[m] = true
		if _, ok := known[l.host]; !ok {
			l.expected.by = append(l.expected.by, m)
		}
		if err := n.set(ctx, l, c); err != nil { // the channel may be of another kind
			n.p.opt.Log.InfoContext(ctx, "what a host sends at once may be lost", slog.String("network", n.name), slog.String("host", l.host), slog.Any("error", err))
		}
	}
	return nil
}

// answered ends what is not needed if the other host has done nothing.
func (n *Network) answered(ctx context.Context, l *link, answer error) error {
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	e := &l.expected
	e.asked--
	e.maybe = e.maybe || answer == nil || !control.Undone(answer)
	if _, _, up := n.now(l); up || e.asked > 0 || e.maybe {
		return nil
	}
	return n.leaveExpected(ctx, l)
}

// leaveExpected takes nothing more from a host by modules that were told of it before it was asked,
// but for those that are used. The caller has the link's turn.
func (n *Network) leaveExpected(ctx context.Context, l *link, used ...channel.Module) error {
	var errs []error
	l.expected.by = slices.DeleteFunc(l.expected.by, func(m channel.Module) bool {
		if slices.Contains(used, m) {
			return false
		}
		errs = append(errs, m.RemoveHost(ctx, l.host))
		return errs[len(errs)-1] == nil
	})
	return errors.Join(errs...)
}

// met notes that a channel has come up. Nothing comes by other modules a while later, when what both
// hosts began at the same moment is settled. The caller has the link's turn.
func (n *Network) met(l *link, by channel.Module) {
	e := &l.expected
	e.by, e.maybe = slices.DeleteFunc(e.by, func(m channel.Module) bool { return m == by }), false
	if len(e.by) == 0 {
		return
	}
	n.later("leave what it did not need", l, linger, func(ctx context.Context) error {
		now, _, up := n.now(l)
		if !up {
			return nil
		}
		return n.leaveExpected(ctx, l, n.kinds[now.Module].Module, n.changing(l).old.Module)
	})
}
