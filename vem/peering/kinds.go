package peering

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Which kind the channel between two hosts is of, both find by one rule, from what each of them
// offers and was told to have (message.Offer.Given), so that it does not matter which one asks:
//
//  1. It is one that both offer.
//  2. Of those, one that either host was told to have comes first. If they were told different
//     ones, the one that comes later in the order direct, tunnel, vxlan, wireguard counts: it takes
//     less of hosts and of the network between them, and tells less to that network.
//  3. Else the one that comes first in that order: it is the fastest.
//  4. A kind that does not come up on one of the hosts is left out for a while.

// retryKind is for how long a kind is left out that did not come up.
const retryKind = time.Minute

// common returns the kinds that two hosts both offer, those that the channel is to be of first.
func common(mine, theirs []message.Offer) (names []string) {
	order := make(map[string]int) // by name: the lower, the sooner
	for _, o := range mine {
		i := slices.IndexFunc(theirs, func(t message.Offer) bool { return t.Module == o.Module })
		if i < 0 {
			continue
		}
		names = append(names, o.Module)
		k, _ := channel.ParseKind(o.Module)
		if order[o.Module] = int(k); o.Given || theirs[i].Given {
			order[o.Module] = -int(k)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(order[a], order[b]) })
	return names
}

// offer returns that of a kind.
func offer(list []message.Offer, kind string) message.Offer {
	i := slices.IndexFunc(list, func(o message.Offer) bool { return o.Module == kind })
	if i < 0 {
		return message.Offer{}
	}
	return list[i]
}

// given is the kind that whoever offers was told to have; "": none.
func given(list []message.Offer) string {
	for _, o := range list {
		if o.Given {
			return o.Module
		}
	}
	return ""
}

// offersTo are what this host offers to another one, without what did not come up lately, unless
// that is all.
func (n *Network) offersTo(ctx context.Context, l *link) []message.Offer {
	return n.able(l, n.offer(ctx, l.host))
}

// able leaves out what did not come up lately, unless that is all.
func (n *Network) able(l *link, all []message.Offer) []message.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(all), func(o message.Offer) bool { return time.Since(l.failed[o.Module]) < retryKind })
	if len(list) == 0 {
		return all
	}
	return list
}

// suits tells whether a channel is of the kind that the rule gives, as far as this host knows what
// the other one was told.
func suits(c message.Channel, mine []message.Offer) bool {
	theirs := slices.Clone(mine)
	for i := range theirs {
		theirs[i].Given = theirs[i].Module == c.Given
	}
	names := common(mine, theirs)
	return len(names) > 0 && names[0] == c.Module
}

// fail notes that a kind does not come up, and says so once in a while.
func (n *Network) fail(ctx context.Context, l *link, kind string, why error) {
	n.mu.Lock()
	said := time.Since(l.failed[kind]) < retryKind
	if l.failed == nil {
		l.failed = make(map[string]time.Time)
	}
	l.failed[kind] = time.Now()
	n.mu.Unlock()
	if !said {
		n.p.opt.Log.WarnContext(ctx, "a channel does not come up by one kind, and others are tried", slog.String("network", n.name),
			slog.String("host", l.host), slog.String("kind", kind), slog.Any("error", why))
	}
}

// recovered are the links with kinds that did not come up once and may now. They are forgotten.
func (n *Network) recovered() (list []*link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		for _, at := range l.failed {
			if time.Since(at) >= retryKind {
				l.failed = nil
				list = append(list, l)
				break
			}
		}
	}
	return list
}

// unmet tells why a channel is not of the kind that this host was told to have; "" if it is, or if
// it was told none. The caller has n.mu.
func (n *Network) unmet(l *link, offers []message.Offer) string {
	want := given(offers)
	mine, _ := channel.ParseKind(want)
	theirs, _ := channel.ParseKind(l.last.Given)
	switch {
	case want == "" || l.last.Module == want:
		return ""
	case l.last.Given == l.last.Module && theirs > mine:
		return fmt.Sprintf("this host is to have %s, and host %s %s, which counts for more", want, l.host, l.last.Given)
	case !l.failed[want].IsZero():
		return fmt.Sprintf("this host is to have %s, which does not come up", want)
	}
	return fmt.Sprintf("this host is to have %s, which host %s does not make, or not between these networks", want, l.host)
}

// Unmet tells why channels that are up are not of the kind that this host was told to have.
func (p *Peering) Unmet() (list []string) {
	for _, n := range p.all() {
		for _, l := range n.allLinks() {
			offers := n.offers(l.host)
			n.mu.Lock()
			if why := n.unmet(l, offers); l.channel != nil && why != "" {
				list = append(list, "network "+n.name+": "+why)
			}
			n.mu.Unlock()
		}
	}
	slices.Sort(list)
	return list
}

// tellUnmet logs why a channel that has come up is not of the kind that this host was told to have.
func (n *Network) tellUnmet(ctx context.Context, l *link) {
	offers := n.offers(l.host)
	n.mu.Lock()
	why, kind := n.unmet(l, offers), l.last.Module
	news := why != l.said
	l.said = why
	n.mu.Unlock()
	if news && why != "" {
		n.p.opt.Log.WarnContext(ctx, "a channel is not of the kind that this host is to have", slog.String("network", n.name),
			slog.String("host", l.host), slog.String("kind", kind), slog.String("reason", why))
	}
}
