package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/probe"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// beyond is what a network knows of machines that are no endpoints.
type beyond struct {
	telling    sync.Mutex // held while modules are told
	now        atomic.Pointer[gateway.Beyond]
	connecting atomic.Bool            // somebody looks after the ways to gateways
	said       atomic.Pointer[string] // what was logged last
}

// SetBeyond says which machines there are beyond gateways of a network, now and whenever that changes,
// and again every few seconds. A network that is not open is told when it is. The ways to gateways are
// there before somebody needs them, since packets for these machines do not wait for one: they are
// brought up beside all else, and stay up. What keeps machines back is logged, and told by Notes.
func (m *Mesh) SetBeyond(ctx context.Context, network string, b gateway.Beyond) error {
	m.mu.Lock()
	n := m.networks[network]
	m.beyond[network] = b
	m.mu.Unlock()
	if n == nil {
		return nil
	}
	err := n.setBeyond(ctx, b)
	if len(b.Here)+len(b.Gates) == 0 {
		n.say(ctx, nil)
		return err
	}
	if n.beyond.connecting.CompareAndSwap(false, true) {
		m.opt.Run(func(ctx context.Context) {
			defer n.beyond.connecting.Store(false)
			n.say(ctx, errors.Join(err, n.connect(ctx, b.Gates)))
		})
	}
	return nil
}

// setBeyond tells the modules.
func (n *Network) setBeyond(ctx context.Context, b gateway.Beyond) error {
	n.beyond.telling.Lock()
	defer n.beyond.telling.Unlock()
	n.beyond.now.Store(&b)
	return n.tellBeyond(ctx)
}

// tellBeyond tells the modules again, since ways to gateways work, or work no more. The caller has
// n.beyond.telling.
func (n *Network) tellBeyond(ctx context.Context) error {
	b := n.beyond.now.Load()
	if b == nil {
		return nil
	}
	set := make([]map[string]channel.Status, len(n.modules))
	for i, mod := range n.modules {
		var err error
		if set[i], err = mod.Hosts(ctx); err != nil {
			return err
		}
	}
	all := n.routed(*b, n.m.lost)
	var errs []error
	// Programs leave to the kernel's routes what goes by another module: so these come first.
	for i, mod := range slices.Backward(n.modules) {
		if r, ok := mod.(channel.Router); ok {
			errs = append(errs, r.SetBeyond(ctx, split(all, set[i], set)))
		}
	}
	return errors.Join(errs...)
}

// split is what a module is told that has the hosts mine, of all that there are by module: where the best
// gateway is another module's, worse ones of its own are no way.
func split(list []channel.Beyond, mine map[string]channel.Status, all []map[string]channel.Status) []channel.Beyond {
	list = slices.Clone(list)
	for i, b := range list {
		best := slices.IndexFunc(b.Hosts, func(host string) bool {
			return slices.ContainsFunc(all, func(set map[string]channel.Status) bool { _, ok := set[host]; return ok })
		})
		if best < 0 {
			continue
		}
		if _, ok := mine[b.Hosts[best]]; !ok {
			list[i].Hosts, list[i].Senders = b.Hosts[:best+1], b.Hosts[best+1:]
		}
	}
	return list
}

// reroute has other gateways be taken than a host, if no way leads there any more, or that host again.
func (m *Mesh) reroute(ctx context.Context, host string) error {
	var errs []error
	for _, n := range m.all() {
		if !n.keeps(host) {
			continue
		}
		n.beyond.telling.Lock()
		errs = append(errs, n.tellBeyond(ctx))
		n.beyond.telling.Unlock()
	}
	return errors.Join(errs...)
}

// lost tells whether no way to a host works, of those that are probed.
func (m *Mesh) lost(host string) bool {
	ways := m.prober.Ways(host)
	return len(ways) > 0 && !slices.ContainsFunc(ways, func(w probe.Way) bool { return w.State != probe.Down })
}

// routed is what modules are told: for each prefix its gateways, in their order, but for lost ones,
// which come last. A prefix that the network can't have is left out.
func (n *Network) routed(b gateway.Beyond, lost func(host string) bool) (list []channel.Beyond) {
	of := func(p netip.Prefix) *channel.Beyond {
		i := slices.IndexFunc(list, func(c channel.Beyond) bool { return c.Prefix == p })
		if i < 0 {
			i, list = len(list), append(list, channel.Beyond{Prefix: p})
		}
		return &list[i]
	}
	for _, p := range b.Here {
		of(p).Here = true
	}
	there, gone := []gateway.Gate{}, []gateway.Gate{}
	for _, g := range b.Gates {
		if lost(g.Host) {
			gone = append(gone, g)
		} else {
			there = append(there, g)
		}
	}
	for _, g := range append(there, gone...) {
		for _, p := range g.Advertise {
			one := of(p)
			one.Hosts = append(one.Hosts, g.Host)
		}
	}
	return slices.DeleteFunc(list, func(c channel.Beyond) bool { return c.Check(n.nets...) != nil })
}

// connect brings up the ways to gateways that are alive, and to the addresses that these hosts have
// themselves.
func (n *Network) connect(ctx context.Context, gates []gateway.Gate) error {
	self := n.self.Load()
	if self == nil || !self[0].IsValid() {
		return nil // this host reaches nobody yet
	}
	var errs []error
	for _, g := range gates {
		if len(g.Advertise) == 0 || !g.Alive {
			continue
		}
		if err := n.reach(ctx, slowpath.Query{Network: n.name, Source: self[0], Destination: g.Addr}); err != nil {
			errs = append(errs, fmt.Errorf("reach gateway %s: %w", g.Host, err))
		}
	}
	return errors.Join(errs...)
}

// reach does what the slow path does for a packet.
func (n *Network) reach(ctx context.Context, q slowpath.Query) error {
	ctx, cancel := context.WithTimeout(ctx, control.DefaultTimeout)
	defer cancel()
	way, err := n.resolver.Resolve(ctx, q)
	if err == nil {
		err = way.Prepare(ctx)
	}
	if err == nil {
		err = way.Open(ctx)
	}
	return err
}

// Notes tell what keeps machines beyond gateways from endpoints, or these from them.
func (m *Mesh) Notes() (list []string) {
	for _, n := range m.all() {
		if text := n.beyond.said.Load(); text != nil && *text != "" {
			list = append(list, "network "+n.name+": "+*text)
		}
	}
	slices.Sort(list)
	return list
}

// say logs what keeps machines beyond gateways from endpoints, when that changes.
func (n *Network) say(ctx context.Context, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if before := n.beyond.said.Swap(&text); ctx.Err() == nil && text != "" && (before == nil || *before != text) {
		n.m.opt.Log.WarnContext(ctx, "machines beyond gateways do not reach all endpoints, or are not reached by them", slog.String("network", n.name), slog.String("reason", text))
	}
}

// keeps tells whether the channel to a host stays up also if nobody uses it: packets for machines
// beyond a gateway do not wait for one.
func (n *Network) keeps(host string) bool {
	b := n.beyond.now.Load()
	if b == nil {
		return false
	}
	return len(b.Here) > 0 || slices.ContainsFunc(b.Gates, func(g gateway.Gate) bool { return g.Host == host && len(g.Advertise) > 0 })
}

// behind tells whether an address is that of a machine behind this host.
func (n *Network) behind(a netip.Addr) bool {
	b := n.beyond.now.Load()
	return b != nil && slices.ContainsFunc(b.Here, func(p netip.Prefix) bool { return p.Contains(a) })
}
