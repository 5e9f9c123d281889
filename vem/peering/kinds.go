package peering

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/peering/rule"
)

// retryKind is for how long a kind is left out that did not come up.
const retryKind = time.Minute

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
	want := rule.Given(offers)
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
