package installation

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/overview"
	"github.com/snapctl/snapctl/vem/peering"
)

// Channels are the data channels to other hosts that are up, and those that were since this
// snapctld began.
func (i *Installation) Channels(ctx context.Context) ([]overview.Channel, error) {
	p := i.part.Load()
	if p == nil {
		return nil, nil
	}
	all, err := p.mesh.Peering().Known(ctx)
	return p.channels(all), err
}

// TakeDown takes channels down that are up: to a host, or to all if it is "", of a network, or of
// all if it is "". It returns these. See [peering.Peering.TakeDown].
func (i *Installation) TakeDown(ctx context.Context, network, host string) ([]overview.Channel, error) {
	p, err := i.running()
	if err != nil {
		return nil, err
	}
	if _, ok := p.known(host); host != "" && !ok {
		return nil, fmt.Errorf("host %s: %w", host, errdefs.ErrNotFound)
	}
	taken, err := p.mesh.Peering().TakeDown(ctx, network, host)
	return p.channels(taken), err
}

// running returns what runs, or an *[membership.Error].
func (i *Installation) running() (*part, error) {
	if p := i.part.Load(); p != nil {
		return p, nil
	}
	if err := i.Member(); err != nil {
		return nil, err
	}
	return nil, &membership.Error{
		Text: "this host takes no part in its installation yet", Remedy: "snapctld tries again every few seconds, and its log says why",
	}
}

func (p *part) channels(all []peering.Status) (list []overview.Channel) {
	for _, s := range all {
		c, t := &s.Channel, &s.Traffic
		list = append(list, overview.Channel{
			Network: s.Network, Host: s.Host, Up: s.Up, Module: c.Module, Device: p.mesh.Device(c.Local.Addr()),
			Local: c.Local.Addr(), Remote: c.Remote.Addr(), MTU: c.MTU, Since: s.Since,
			Sent:     overview.Flow{Packets: t.Sent.Packets, Bytes: t.Sent.Bytes},
			Received: overview.Flow{Packets: t.Received.Packets, Bytes: t.Received.Bytes},
			Last:     t.Last(), Endpoints: s.Routes, Unmet: s.Unmet,
		})
	}
	return list
}
