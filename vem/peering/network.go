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
	works   func(host string, k channel.Kind, w Way) bool
	mtu     func(host string, k channel.Kind, w Way) int
	compare func(host string, a, b Way) int
	keep    func(host string) bool // nil: none
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
	if n.links[host] == nil {
		n.links[host] = &link{host: host, turn: make(chan struct{}, 1), routes: make(map[netip.Addr]route), ours: make(map[netip.Addr]uint64)}
	}
	return n.links[host]
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
	if err := n.establish(ctx, l, c, v, was, isUp); err != nil {
		if ctx.Err() == nil && !errors.Is(err, channel.ErrUnderlay) { // the latter is for the moment
			n.fail(ctx, l, c.Module, err)
		}
		return &kindError{c.Module, err}
	}
	defer n.changed(l.host)
	defer n.tellUnmet(ctx, l)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !isUp {
		l.since = time.Now()
	}
	l.channel, l.version, l.last = &c, v, c
	return nil
}

// establish makes the channel of a link in the kernel, in place of the one that there was if it was up.
// If that fails the old one is as it was. The caller has the link's turn.
func (n *Network) establish(ctx context.Context, l *link, c message.Channel, v version, was message.Channel, isUp bool) error {
	if err := n.set(ctx, l, c); err != nil {
		return err
	}
	m, old := n.kinds[c.Module], n.kinds[was.Module]
	if !isUp {
		n.met(l, m.Module)
		return nil
	}
	n.start(ctx, l, m.Module, v)
	if old.Module == m.Module {
		return nil
	}
	if err := n.begin(ctx, l, old, m, v); err != nil {
		return errors.Join(err, m.RemoveHost(context.WithoutCancel(ctx), l.host))
	}
	return nil
}

// kindError is that a channel did not come up by a kind: by another one it may.
type kindError struct {
	kind string
	err  error
}

func (e *kindError) Error() string { return e.err.Error() }
func (e *kindError) Unwrap() error { return e.err }

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
	l.told.all = false
	l.told.ups++
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

// setRoute leads packets for an endpoint of the other host into the channel, which is up. The
// caller has the link's turn.
func (n *Network) setRoute(ctx context.Context, l *link, a netip.Addr, r route) error {
	return n.setRoutes(ctx, l, map[netip.Addr]route{a: r})
}

// setRoutes does so for several, by one change of the kernel's. Two hosts can't both have an
// endpoint: a route to another one is replaced. The caller has the link's turn.
func (n *Network) setRoutes(ctx context.Context, l *link, all map[netip.Addr]route) error {
	c, _, isUp := n.now(l)
	if !isUp {
		return errOutdated
	}
	var list []channel.Route
	for a, r := range all {
		list = append(list, channel.Route{Addr: a, Host: l.host, State: r.state})
	}
	m := n.kinds[c.Module].Module
	if err := m.SetRoutes(ctx, list); err != nil {
		return err
	}
	if elsewhere := n.note(l, all); len(elsewhere) > 0 {
		return n.onlyBy(ctx, m, elsewhere)
	}
	return nil
}

// note notes routes, and returns those of which there were some to another host.
func (n *Network) note(l *link, all map[netip.Addr]route) (elsewhere []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.links {
		if other == l || len(other.routes) == 0 {
			continue
		}
		for a := range all {
			if _, ok := other.routes[a]; ok {
				delete(other.routes, a)
				elsewhere = append(elsewhere, a)
			}
		}
	}
	maps.Copy(l.routes, all)
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
		if !n.misleads(l, a, now) {
			continue
		}
		errs = append(errs, func() error {
			release, err := l.take(ctx)
			if err != nil {
				return err
			}
			defer release()
			if !n.misleads(l, a, now) {
				return nil
			}
			return n.removeRoutes(ctx, l, []netip.Addr{a})
		}())
	}
	return errors.Join(errs...)
}

// misleads tells whether a link has a route to an endpoint that another host has. One to the host that
// has it goes on, and is of that epoch from now on: an earlier process's, of which none is known, too.
func (n *Network) misleads(l *link, a netip.Addr, now Owner) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	r, ok := l.routes[a]
	if !ok || r.epoch >= now.Epoch {
		return false
	}
	if l.host == now.Host {
		l.routes[a] = route{now.Epoch, r.state}
	}
	return l.host != now.Host
}
