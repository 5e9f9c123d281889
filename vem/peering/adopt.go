package peering

import (
	"context"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// adopted stands for the host that began a channel which an earlier process had.
const adopted = "~"

// adopt takes up the channels and routes of an earlier process, which the kernel went on with.
// Their generations and epochs are not known: whatever anybody says of them next is newer, since
// no host has a name that comes after the one that stands there for it.
func (n *Network) adopt(ctx context.Context) error {
	for _, state := range []channel.State{channel.Open, channel.Opening} {
		for _, m := range n.modules {
			if err := n.adoptRoutes(ctx, m, state); err != nil {
				return err
			}
		}
	}
	return n.adoptChanges(ctx)
}

// adoptRoutes takes up the routes of one state that a module has. Open ones come first: by these
// is known which channels are up, and of which module. One that is opening in a channel that is
// not up never was open: its packets wait, or come again.
func (n *Network) adoptRoutes(ctx context.Context, m channel.Module, state channel.State) error {
	hosts, err := m.Hosts(ctx)
	if err != nil {
		return err
	}
	routes, err := m.Routes(ctx)
	if err != nil {
		return err
	}
	for _, r := range routes {
		l, s := n.link(r.Host), hosts[r.Host]
		switch {
		case r.State != state, l.channel == nil && state == channel.Opening:
			continue
		case l.channel == nil:
			l.version = version{generation: 1, by: adopted}
			l.channel = &message.Channel{
				Generation: l.version.generation,
				Module:     s.Host.Kind.String(), MTU: s.MTU, Local: netip.AddrPortFrom(s.Host.Local, 0), Remote: netip.AddrPortFrom(s.Host.Remote, s.Host.Port),
				Parameters: s.Host.Parameters,
			}
			l.last = *l.channel
		case n.kinds[l.channel.Module].Module != m:
			continue // it was changing from one module to another: the first one's routes are used
		}
		l.routes[r.Addr] = route{state: r.State}
	}
	return nil
}

// adoptChanges notes by which modules packets are still let in that a channel has changed from, or
// was about to change to. A while later, when the other host has done its part too, that ends.
func (n *Network) adoptChanges(ctx context.Context) error {
	for _, m := range n.modules {
		hosts, err := m.Hosts(ctx)
		if err != nil {
			return err
		}
		for name, s := range hosts {
			l := n.link(name)
			if c, seen, up := n.now(l); up && n.kinds[c.Module].Module != m {
				n.setChange(l, change{old: carrier{m, s.Host.Kind}, v: seen})
				n.leaveSoon(l, seen, turnLate+linger)
			}
		}
	}
	return nil
}

// leaveSoon has, after a while, nothing be taken by a module any more that a channel has changed from, unless it has
// changed again. Comparing tables with the other host, which gives the channel another version,
// does not matter for that.
func (n *Network) leaveSoon(l *link, v version, after time.Duration) {
	n.later("leave what a channel was before", l, after, func(ctx context.Context) error {
		if n.changing(l).v != v {
			return nil
		}
		return n.leave(ctx, l)
	})
}
