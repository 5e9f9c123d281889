package peering

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Network is a virtual network that this host shares with others. It finds ways to their
// endpoints: it is a [slowpath.Resolver].
type Network struct {
	p       *Peering
	name    string
	offers  func(host string) []message.Offer
	onLink  func(local, remote netip.Addr) bool
	sources func(host string) []netip.Addr
	gone    func([]netip.Addr)
	works   func(host string, w Way) bool
	mtu     func(host string, w Way) int
	compare func(host string, a, b Way) int
	modules []channel.Module
	kinds   map[string]carrier // what makes channels of a kind, by the kind's name

	mu    sync.Mutex // guards what follows, and what links say that it does
	links map[string]*link
}

// carrier is what makes channels of a kind.
type carrier struct {
	channel.Module

	kind channel.Kind
}

// changed tells that the channel to a host has come, has gone, or goes another way.
func (n *Network) changed(host string) {
	if n.p.opt.Changed != nil {
		n.p.opt.Changed(host)
	}
}

// link returns what there is with a host, which may be nothing yet.
func (n *Network) link(host string) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, ok := n.links[host]
	if !ok {
		l = newLink(host)
		n.links[host] = l
	}
	return l
}

// now is the channel of a link; not up if there is none.
func (n *Network) now(l *link) (c message.Channel, v version, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.channel == nil {
		return message.Channel{}, l.version, false
	}
	return *l.channel, l.version, true
}

// errOutdated is that a link was changed meanwhile: whoever gets it asks anew.
var errOutdated = errors.New("the channel was changed meanwhile")

// up brings a channel up, or changes it, unless the link has seen a newer change: then it returns
// errOutdated. The caller has the link's turn.
func (n *Network) up(ctx context.Context, l *link, c message.Channel, v version) error {
	was, seen, isUp := n.now(l)
	switch {
	case isUp && v == seen:
		return nil
	case !v.newer(seen):
		return errOutdated
	}
	if err := n.set(ctx, l, c); err != nil {
		return err
	}
	m := n.kinds[c.Module]
	n.start(ctx, l, m.Module, v)
	if old := n.kinds[was.Module]; isUp && old.Module != m.Module {
		if err := n.begin(ctx, l, old, m, v); err != nil {
			return err
		}
	}
	defer n.changed(l.host)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !isUp {
		l.since = time.Now()
	}
	l.channel, l.version, l.last = &c, v, c
	return nil
}

// down takes a channel down, unless the link has seen a newer change: no packet leaves by it. The
// module goes on to take packets from the other host, which may not know of it yet, and has been
// told by nobody else. The caller has the link's turn.
func (n *Network) down(ctx context.Context, l *link, v version) error {
	was, seen, isUp := n.now(l)
	if !v.newer(seen) {
		return nil
	}
	if isUp {
		m, list := n.kinds[was.Module], n.addresses(l)
		defer n.gone(list)
		if err := errors.Join(m.RemoveRoutes(ctx, list), n.removeOld(ctx, l, list)); err != nil {
			return fmt.Errorf("take channel to host %s down: %w", l.host, err)
		}
	}
	defer n.changed(l.host)
	n.mu.Lock()
	defer n.mu.Unlock()
	if isUp {
		l.since = time.Now()
	}
	l.channel, l.version = nil, v
	clear(l.routes)
	clear(l.ours)
	l.introduced = false
	l.traffic = traffic{}
	return nil
}

// forget drops all that there is with a host, which is of the installation no more.
func (n *Network) forget(ctx context.Context, host string) error {
	l := n.link(host)
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	defer n.gone(n.addresses(l))
	var errs []error
	for _, m := range n.modules {
		errs = append(errs, m.RemoveHost(ctx, host))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	defer n.changed(host)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.links, host)
	return nil
}

// setRoute leads packets for an endpoint of the other host into the channel, which is up. Two
// hosts can't both have it: a route to another one is replaced. The caller has the link's turn.
func (n *Network) setRoute(ctx context.Context, l *link, a netip.Addr, r route) error {
	c, _, isUp := n.now(l)
	if !isUp {
		return errOutdated
	}
	m := n.kinds[c.Module].Module
	if err := m.SetRoutes(ctx, []channel.Route{{Addr: a, Host: l.host, State: r.state}}); err != nil {
		return err
	}
	if n.note(l, a, r) {
		return n.onlyBy(ctx, m, a)
	}
	return nil
}

// note notes a route, and tells whether there was one to another host.
func (n *Network) note(l *link, a netip.Addr, r route) (elsewhere bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.links {
		if _, ok := other.routes[a]; ok && other != l {
			delete(other.routes, a)
			elsewhere = true
		}
	}
	l.routes[a] = r
	return elsewhere
}

// removeRoutes leaves packets for endpoints of the other host to the slow path. The caller has
// the link's turn.
func (n *Network) removeRoutes(ctx context.Context, l *link, list []netip.Addr) error {
	c, _, isUp := n.now(l)
	list = slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { _, ok := n.route(l, a); return !ok })
	if !isUp || len(list) == 0 {
		return nil
	}
	defer n.gone(list)
	if err := errors.Join(n.kinds[c.Module].RemoveRoutes(ctx, list), n.removeOld(ctx, l, list)); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range list {
		delete(l.routes, a)
	}
	return nil
}

func (n *Network) route(l *link, a netip.Addr) (route, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r, ok := l.routes[a]
	return r, ok
}

func (n *Network) routesOf(l *link) (list []channel.Route) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for a, r := range l.routes {
		list = append(list, channel.Route{Addr: a, Host: l.host, State: r.state})
	}
	return list
}

func (n *Network) addresses(l *link) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(l.routes))
}

// setOurs notes that the other host reaches an endpoint of this one.
func (n *Network) setOurs(l *link, a netip.Addr, epoch uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l.ours[a] = epoch
}

func (n *Network) allLinks() []*link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.links))
}

// moved removes routes to an endpoint that has another owner.
func (n *Network) moved(ctx context.Context, a netip.Addr, now Owner) error {
	var errs []error
	for _, l := range n.allLinks() {
		if r, ok := n.route(l, a); !ok || r.epoch >= now.Epoch {
			continue
		}
		errs = append(errs, func() error {
			release, err := l.take(ctx)
			if err != nil {
				return err
			}
			defer release()
			if r, ok := n.route(l, a); !ok || r.epoch >= now.Epoch {
				return nil
			}
			return n.removeRoutes(ctx, l, []netip.Addr{a})
		}())
	}
	return errors.Join(errs...)
}
