package peering

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/vem/control/message"
)

// Refit looks at all channels to a host anew, after it has become known that packets get there by
// other addresses than before: a channel whose own addresses do not work is given others, with
// all its routes by one change of the kernel's. Endpoints are not told; what was underway is lost,
// as on any network, and sent again.
//
// With prefer, a channel whose addresses work is given better ones too, if there are any.
func (p *Peering) Refit(ctx context.Context, host string, prefer bool) error {
	var errs []error
	for _, n := range p.all() {
		errs = append(errs, n.refit(ctx, n.link(host), prefer))
	}
	return errors.Join(errs...)
}

func (n *Network) refit(ctx context.Context, l *link, prefer bool) error {
	now, seen, up := n.now(l)
	if !up || !prefer && n.works(l.host, now.Local.Addr(), now.Remote.Addr()) {
		return nil
	}
	c, err := n.p.opt.Peers.Switch(ctx, l.host, message.SwitchRequest{Network: n.name, Generation: seen.generation + 1, Offers: n.offers(l.host)})
	if err != nil {
		return err
	}
	release, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := n.up(ctx, l, c, version{c.Generation, n.p.opt.Self}); !errors.Is(err, errOutdated) {
		return err
	}
	return nil // the other host has changed it at the same time
}
