package mesh

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/gateway"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/probe"
)

// Options are what a mesh works with.
type Options struct {
	Self   string // the name of this host
	Peers  peering.Peers
	Owners peering.Owners
	Locals Locals
	// Given are the kinds that this host was told to have, by network, see [Mesh.SetGiven]: that of
	// "" for all others; zero: any.
	Given map[string]channel.Kind
	// Idle is how long nothing has to come over a channel before it is taken down; 0: 5 minutes.
	Idle time.Duration
	// Queues keeps what waits for a way while no daemon runs; nil: nothing waits then.
	Queues Queues
	// Run runs what goes on beside requests, with a context that ends before Close is called.
	Run func(func(context.Context))
	// Probe is how ways to other hosts are probed: Port is that of this host, Interval how often,
	// and NS where the underlay is.
	Probe probe.Options
	// WireGuard is what channels of that kind need.
	WireGuard wireguard.Local
	// Reach is told at which addresses of a host it is to be asked, the best first, whenever that
	// changes; nil: nobody is told. It must return soon.
	Reach func(host string, at []netip.AddrPort)
	Log   *slog.Logger // nil: discard
}

// Locals are the endpoints of this host.
type Locals interface {
	peering.Locals

	// Away tells whether this host has an endpoint that is not in its network for the moment, since
	// it moves to another host, or comes from one.
	Away(network string, a netip.Addr) bool
}

// Queues keeps descriptors of the queues in which packets wait that have no way yet, beyond the
// end of this process.
type Queues interface {
	// KeepQueue keeps a network's queue, in place of one that was kept before. It closes f, unless
	// it fails.
	KeepQueue(ctx context.Context, network string, f *os.File) error
	// KeptQueue returns a duplicate of what was kept, which the caller closes; nil if nothing was.
	KeptQueue(ctx context.Context, network string) (*os.File, error)
}

// Underlay is an address of this host that other hosts reach.
type Underlay struct {
	Device   string
	Index    int          // of the device
	MTU      int          // likewise
	Prefix   netip.Prefix // the address, and how many bits of it are those of the link
	Priority int          // the lower, the sooner
}

// Remote is an address of another host.
type Remote struct {
	Addr     netip.AddrPort // the port is that of its control channel
	Priority int            // the lower, the sooner
}

// Mesh is this host's part. Its methods may be called at the same time.
type Mesh struct {
	opt     Options
	peering *peering.Peering
	prober  *probe.Prober

	changing sync.Mutex // held while the networks are told of the underlay, one change at a time

	mu       sync.Mutex // guards what follows
	underlay []Underlay
	hosts    map[string][]Remote // the others' addresses on the underlay, the best first
	judged   map[string]*verdict // by host
	networks map[string]*Network
	given    map[string]channel.Kind   // see Options
	beyond   map[string]gateway.Beyond // by network, see SetBeyond
}

// New returns a mesh without networks, underlay and other hosts.
func New(opt Options) *Mesh {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mesh{opt: opt, hosts: make(map[string][]Remote), judged: make(map[string]*verdict), networks: make(map[string]*Network), given: maps.Clone(opt.Given), beyond: make(map[string]gateway.Beyond)}
	opt.Probe.Changed, opt.Probe.Log = m.judge, opt.Log
	m.prober = probe.New(opt.Probe)
	m.peering = peering.New(peering.Options{
		Self: opt.Self, Peers: opt.Peers, Owners: opt.Owners, Locals: opt.Locals, Idle: opt.Idle, Run: opt.Run, Log: opt.Log, Changed: m.judge,
	})
	return m
}

// Run probes the ways to hosts that there are channels to, until ctx ends.
func (m *Mesh) Run(ctx context.Context) { m.prober.Run(ctx) }

// Close ends probing. The networks are closed by themselves.
func (m *Mesh) Close() { m.prober.Close() }

// AskBy gives the key by which the ways to a host are probed, and AnswerTo one by which that host
// probes them: see [probe.NewKey].
func (m *Mesh) AskBy(host string, k probe.Key) { m.prober.AskBy(host, k) }

// AnswerTo is described at AskBy.
func (m *Mesh) AnswerTo(host string, k probe.Key) { m.prober.AnswerTo(host, k) }

// Peering answers what other hosts ask about channels.
func (m *Mesh) Peering() *peering.Peering { return m.peering }

// SetUnderlay says where this host is, now and whenever that changes: channels from an address
// that it has no more take another one at once.
func (m *Mesh) SetUnderlay(ctx context.Context, list []Underlay) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	m.underlay = slices.Clone(list)
	m.mu.Unlock()
	var errs []error
	for _, n := range m.all() {
		errs = append(errs, n.setUnderlay(ctx, m.here()))
	}
	var locals []probe.Local
	for _, u := range list {
		locals = append(locals, probe.Local{Addr: u.Prefix.Addr(), Device: u.Device, Index: u.Index, MTU: u.MTU})
	}
	errs = append(errs, m.prober.SetUnderlay(ctx, locals))
	for _, host := range m.knownHosts() {
		m.judge(host)
	}
	return errors.Join(errs...)
}

func (m *Mesh) knownHosts() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.hosts))
}

// SetHost says where another host is, now and whenever that changes.
func (m *Mesh) SetHost(host string, at []Remote) {
	m.mu.Lock()
	m.hosts[host] = slices.Clone(at)
	slices.SortStableFunc(m.hosts[host], func(a, b Remote) int { return cmp.Compare(a.Priority, b.Priority) })
	if v := m.judged[host]; v != nil {
		v.told = nil
	}
	m.mu.Unlock()
	m.judge(host)
}

// RemoveHost takes all channels to a host away that is of the installation no more.
func (m *Mesh) RemoveHost(ctx context.Context, host string) error {
	m.mu.Lock()
	delete(m.hosts, host)
	delete(m.judged, host)
	m.mu.Unlock()
	m.prober.Forget(host)
	return m.peering.Forget(ctx, host)
}

// Moved tells that the directory has another owner for an endpoint of a network, or has one at all.
func (m *Mesh) Moved(ctx context.Context, network string, a netip.Addr, now peering.Owner) error {
	err := m.peering.Moved(ctx, network, a, now)
	m.mu.Lock()
	n := m.networks[network]
	m.mu.Unlock()
	if n != nil {
		n.forget([]netip.Addr{a})
	}
	return err
}

// here are this host's addresses as modules take them.
func (m *Mesh) here() (list []channel.Underlay) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.underlay {
		list = append(list, channel.Underlay{Device: u.Device, Addr: u.Prefix.Addr()})
	}
	return list
}

// Device is the device of this host that has an address of the underlay; "" if none has.
func (m *Mesh) Device(a netip.Addr) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.underlay {
		if u.Prefix.Addr() == a {
			return u.Device
		}
	}
	return ""
}

func (m *Mesh) all() (list []*Network) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.networks {
		list = append(list, n)
	}
	return list
}

// sources are the addresses that a host may send from.
func (m *Mesh) sources(host string) (list []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.hosts[host] {
		list = append(list, r.Addr.Addr())
	}
	return list
}

// onLink tells whether another host's address is on the link that one of this host's is on.
func (m *Mesh) onLink(local, remote netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.underlay, func(u Underlay) bool { return u.Prefix.Addr() == local && u.Prefix.Contains(remote) })
}

// offers are how another host can reach a network of this one: not at all if this one was told to have a kind
// that this release does not know, since others may be what was to be avoided.
func (m *Mesh) offers(network, host string) (list []message.Offer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	given, ok := m.given[network]
	if !ok {
		given = m.given[""]
	}
	if given != 0 && !slices.Contains(preferred, given) {
		return nil
	}
	for _, kind := range preferred {
		if given == channel.WireGuard && kind != given {
			continue // nothing is to be sent there that others can read
		}
		o := message.Offer{Module: kind.String(), MTU: fabric.DefaultMTU, Given: kind == given}
		for _, u := range m.underlay {
			linked := slices.ContainsFunc(m.hosts[host], func(r Remote) bool { return u.Prefix.Contains(r.Addr.Addr()) })
			if linked || kind != channel.Direct {
				o.Underlay = append(o.Underlay, netip.AddrPortFrom(u.Prefix.Addr(), 0))
			}
		}
		if len(o.Underlay) > 0 {
			list = append(list, o)
		}
	}
	return list
}
