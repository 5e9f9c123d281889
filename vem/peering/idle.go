package peering

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// traffic is what was seen of a channel's counters.
type traffic struct {
	counters channel.Counters
	since    time.Time // when they were first seen as they are
}

// Watch takes channels down that nobody uses, until ctx ends. Endpoints and their sockets are not
// told: the next packet brings a channel up again.
func (p *Peering) Watch(ctx context.Context) {
	every := time.NewTicker(max(p.opt.Idle/4, time.Second))
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-every.C:
			for _, n := range p.all() {
				if err := n.sweep(ctx, now); err != nil && ctx.Err() == nil {
					p.opt.Log.WarnContext(ctx, "look for idle channels", slog.String("network", n.name), slog.Any("error", err))
				}
			}
		}
	}
}

// sweep takes down what has been idle at a moment.
func (n *Network) sweep(ctx context.Context, now time.Time) error {
	for _, l := range n.strange() {
		n.introduceAll(l)
	}
	for _, l := range n.recovered() {
		n.soon("have a channel of the best kind again", l, func(ctx context.Context) error { return n.reoffer(ctx, l) })
	}
	errs := []error{n.leaveAll(ctx)}
	for _, m := range n.modules {
		report, err := m.Report(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for host, c := range report.Hosts {
			if v, idle := n.count(host, m, c, now); idle && (n.keep == nil || !n.keep(host)) {
				errs = append(errs, n.rest(ctx, n.link(host), v))
			}
		}
	}
	return errors.Join(errs...)
}

// count notes the counters of a channel, and tells whether it is to go down, by which change.
func (n *Network) count(host string, m channel.Module, c channel.Counters, now time.Time) (_ version, idle bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, ok := n.links[host]
	if !ok || l.channel == nil || n.kinds[l.channel.Module].Module != m {
		return version{}, false
	}
	if l.traffic.since.IsZero() || l.traffic.counters != c {
		l.traffic = traffic{c, now}
	}
	return version{l.version.generation + 1, n.p.opt.Self}, now.Sub(l.traffic.since) >= n.p.opt.Idle
}

// rest takes a channel down here, and has the other host do the same. If that one can't be
// reached, its end goes down when it has been idle as long.
func (n *Network) rest(ctx context.Context, l *link, v version) error {
	if err := n.downNow(ctx, l, v); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
	defer cancel()
	err := n.p.opt.Peers.Disconnect(ctx, l.host, message.DisconnectRequest{Network: n.name, Generation: v.generation})
	if err != nil {
		n.p.opt.Log.InfoContext(ctx, "the other end of an idle channel was not told", slog.String("host", l.host), slog.Any("error", err))
	}
	return nil
}

func (n *Network) downNow(ctx context.Context, l *link, v version) error {
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	return n.down(ctx, l, v)
}

// downAll takes all channels of the network down.
func (n *Network) downAll(ctx context.Context) error {
	var errs []error
	for _, l := range n.allLinks() {
		if _, seen, up := n.now(l); up {
			errs = append(errs, n.rest(ctx, l, version{seen.generation + 1, n.p.opt.Self}))
		}
	}
	return errors.Join(errs...)
}

// left tells the hosts that reach an endpoint that this host does not have it any more.
func (n *Network) left(a netip.Addr) {
	for _, l := range n.allLinks() {
		n.mu.Lock()
		epoch, ok := l.ours[a]
		delete(l.ours, a)
		n.mu.Unlock()
		if ok {
			n.tellGone(l, a, epoch)
		}
	}
}

// tellGone tells the other host of a link that this host does not have an endpoint any more.
func (n *Network) tellGone(l *link, a netip.Addr, epoch uint64) {
	_, seen, _ := n.now(l)
	n.p.opt.Run(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
		defer cancel()
		err := n.p.opt.Peers.Disconnect(ctx, l.host, message.DisconnectRequest{
			Network: n.name, Routes: []message.Route{{Address: a, Owner: n.p.opt.Self, Epoch: epoch}}, Generation: seen.generation,
		})
		if err != nil { // its packets come here, and the slow path says that nobody has the address
			n.p.opt.Log.InfoContext(ctx, "a host was not told that an endpoint is gone", slog.String("host", l.host), slog.String("endpoint", a.String()), slog.Any("error", err))
		}
	})
}
