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

// Carries tells whether channels of a kind carry packets of machines beyond gateways, or may be of one
// that does, if it is zero.
func Carries(k channel.Kind) bool { return k == 0 || k == channel.Direct || k == channel.Tunnel }

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
// brought up beside all else, and stay up.
func (m *Mesh) SetBeyond(ctx context.Context, network string, b gateway.Beyond) error {
	m.mu.Lock()
	n := m.networks[network]
	m.beyond[network] = b
	m.mu.Unlock()
	if n == nil {
		return nil
	}
	err := n.setBeyond(ctx, b)
	if len(b.Here)+len(b.Gates) > 0 && n.beyond.connecting.CompareAndSwap(false, true) {
		m.opt.Run(func(ctx context.Context) {
			defer n.beyond.connecting.Store(false)
			n.say(ctx, n.connect(ctx, b.Gates))
		})
	}
	return err
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
	var errs []error
	for _, mod := range n.modules {
		if r, ok := mod.(channel.Router); ok {
			errs = append(errs, r.SetBeyond(ctx, n.routed(*b, n.m.lost)))
		}
	}
	return errors.Join(errs...)
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
	notes, err := n.m.Uncarried(ctx)
	for _, note := range notes {
		errs = append(errs, errors.New(note))
	}
	return errors.Join(append(errs, err)...)
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

// Uncarried tells to which hosts channels lead that carry nothing of machines beyond gateways.
func (m *Mesh) Uncarried(ctx context.Context) (notes []string, err error) {
	all, err := m.peering.Channels(ctx)
	for _, c := range all {
		m.mu.Lock()
		n := m.networks[c.Network]
		m.mu.Unlock()
		if k, ok := channel.ParseKind(c.Channel.Module); ok && !Carries(k) && n != nil && n.keeps(c.Host) {
			notes = append(notes, fmt.Sprintf("channels of network %s to host %s are of kind %s, which carries nothing of machines that keep their addresses: have it be direct or tunnel (snapctl host set --channel)", c.Network, c.Host, k))
		}
	}
	return notes, err
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

// NotBeyond tells why machines beyond gateways can't keep their addresses where channels are as this
// host makes them, or was told to make them; "" if they can.
func (m *Mesh) NotBeyond() string {
	kinds := m.Kinds()
	if !slices.Contains(kinds, channel.Tunnel) {
		return "only direct and tunnel channels carry their packets, for which this host has no BPF"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for network, k := range m.given {
		if Carries(k) {
			continue
		}
		where := ""
		if network != "" {
			where = " of network " + network
		}
		return fmt.Sprintf("only direct and tunnel channels carry their packets, and those%s of this host were set to another kind (snapctl host set --channel)", where)
	}
	return ""
}
