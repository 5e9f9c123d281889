package peering

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Way is a way to another host: an address of each on the underlay.
type Way struct{ Local, Remote netip.Addr }

// String returns "192.0.2.1 to 192.0.2.2".
func (w Way) String() string { return w.Local.String() + " to " + w.Remote.String() }

// Ways are the ways that the channels to a host take, each once.
func (p *Peering) Ways(host string) map[Way]bool {
	found := make(map[Way]bool)
	for _, n := range p.all() {
		if c, _, up := n.now(n.link(host)); up {
			found[wayOf(c)] = true
		}
	}
	return found
}

// Kinds are the kinds of the channels to a host, each once.
func (p *Peering) Kinds(host string) (list []channel.Kind) {
	for _, n := range p.all() {
		if c, _, up := n.now(n.link(host)); up && !slices.Contains(list, n.kinds[c.Module].kind) {
			list = append(list, n.kinds[c.Module].kind)
		}
	}
	return list
}

func wayOf(c message.Channel) Way { return Way{c.Local.Addr(), c.Remote.Addr()} }

// Refit has the channels to a host take other ways: choose is given the way of each, and returns
// the one that it is to take. Where that is another one, the other host is asked to agree; it
// takes part in the choice if the way does not work as it sees it. All routes of a channel change
// by one change of the kernel's. Endpoints are not told; what was underway is lost, as on any
// network, and sent again.
func (p *Peering) Refit(ctx context.Context, host string, choose func(Way) Way) error {
	return p.eachUp(host, func(n *Network, l *link) error { return n.refit(ctx, l, choose) })
}

// Resize has the channels to a host carry packets as large as their ways do now, and take them from
// all addresses that the host has now.
func (p *Peering) Resize(ctx context.Context, host string) error {
	return p.eachUp(host, func(n *Network, l *link) error { return n.resize(ctx, l) })
}

// maxAtOnce is in how many networks channels are changed at the same time.
const maxAtOnce = 16

// eachUp calls fn for the channels to a host in all networks, several at the same time.
func (p *Peering) eachUp(host string, fn func(*Network, *link) error) error {
	turns, done, count := make(chan struct{}, maxAtOnce), make(chan error), 0
	for _, n := range p.all() {
		l := n.link(host)
		if _, _, up := n.now(l); !up {
			continue
		}
		count++
		go func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			done <- fn(n, l)
		}()
	}
	var errs []error
	for range count {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

func (n *Network) refit(ctx context.Context, l *link, choose func(Way) Way) error {
	now, seen, up := n.now(l)
	if !up {
		return nil
	}
	want := choose(wayOf(now))
	if want == wayOf(now) {
		return nil
	}
	if err := n.replace(ctx, l, seen.generation+1, want); err != nil {
		return fmt.Errorf("have the channel to host %s in network %s go from %s to %s: %w", l.host, n.name, want.Local, want.Remote, err)
	}
	return nil
}

// resize gives the module the size of the channel's way, and the host's addresses, if those are others
// than before.
func (n *Network) resize(ctx context.Context, l *link) error {
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	c, _, up := n.now(l)
	if h := n.hostOf(l, c); !up || h.MTU == l.set.MTU && slices.Equal(h.Sources, l.set.Sources) {
		return nil
	}
	return n.set(ctx, l, c)
}

// set makes the channel of a link in its module, or changes it. The caller has the link's turn.
func (n *Network) set(ctx context.Context, l *link, c message.Channel) error {
	m, ok := n.kinds[c.Module]
	if !ok {
		return fmt.Errorf("channel to host %s: this host makes none of kind %q", l.host, c.Module)
	}
	h := n.hostOf(l, c)
	h.Accept = m.Kinds()
	if err := m.SetHost(ctx, h); err != nil {
		return fmt.Errorf("channel to host %s: %w", l.host, err)
	}
	l.set = h
	return nil
}

// hostOf is the other host of a channel, as a module is told of it.
func (n *Network) hostOf(l *link, c message.Channel) channel.Host {
	m, way := n.kinds[c.Module], wayOf(c)
	return channel.Host{
		Name: l.host, Kind: m.kind, Local: way.Local, Remote: way.Remote, MTU: n.mtu(l.host, m.kind, way), Port: c.Remote.Port(), Parameters: c.Parameters,
		Sources: slices.DeleteFunc(slices.Clone(n.sources(l.host)), func(a netip.Addr) bool { return a == way.Remote }),
	}
}
