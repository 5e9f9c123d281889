package mesh

import (
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
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/peering"
)

// Options are what a mesh works with.
type Options struct {
	Self   string // the name of this host
	Peers  peering.Peers
	Owners peering.Owners
	Locals peering.Locals
	// Only is the kind of which all channels are; zero: the best one that both hosts make.
	Only channel.Kind
	// Idle is how long nothing has to come over a channel before it is taken down; 0: 5 minutes.
	Idle time.Duration
	// Queues keeps what waits for a way while no daemon runs; nil: nothing waits then.
	Queues Queues
	// Run runs what goes on beside requests, with a context that ends before Close is called.
	Run func(func(context.Context))
	Log *slog.Logger // nil: discard
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
	Device string
	Prefix netip.Prefix // the address, and how many bits of it are those of the link
}

// Pair is a way to another host on the underlay.
type Pair struct {
	Host          string
	Local, Remote netip.Addr
}

// Mesh is this host's part. Its methods may be called at the same time.
type Mesh struct {
	opt     Options
	peering *peering.Peering

	changing sync.Mutex // held while the networks are told of the underlay, one change at a time

	mu       sync.Mutex // guards what follows
	underlay []Underlay
	hosts    map[string][]netip.Addr // the others' addresses on the underlay, the best first
	silent   map[Pair]bool           // ways that nothing comes through
	networks map[string]*Network
	only     channel.Kind // see Options
}

// New returns a mesh without networks, underlay and other hosts.
func New(opt Options) *Mesh {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mesh{opt: opt, hosts: make(map[string][]netip.Addr), silent: make(map[Pair]bool), networks: make(map[string]*Network), only: opt.Only}
	m.peering = peering.New(peering.Options{
		Self: opt.Self, Peers: opt.Peers, Owners: opt.Owners, Locals: opt.Locals, Idle: opt.Idle, Run: opt.Run, Log: opt.Log,
	})
	return m
}

// Peering answers what other hosts ask about channels.
func (m *Mesh) Peering() *peering.Peering { return m.peering }

// SetUnderlay says where this host is, now and whenever that changes.
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
	return errors.Join(errs...)
}

// SetHost says where another host is, now and whenever that changes.
func (m *Mesh) SetHost(host string, at []netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts[host] = slices.Clone(at)
}

// RemoveHost takes all channels to a host away that is of the installation no more.
func (m *Mesh) RemoveHost(ctx context.Context, host string) error {
	m.mu.Lock()
	delete(m.hosts, host)
	maps.DeleteFunc(m.silent, func(p Pair, _ bool) bool { return p.Host == host })
	m.mu.Unlock()
	return m.peering.Forget(ctx, host)
}

// Found says whether packets come through by a way to another host, now and whenever that
// changes. Channels by a way that is silent are given another one; with prefer, channels are given
// the best way that works, though theirs does.
func (m *Mesh) Found(ctx context.Context, way Pair, works, prefer bool) error {
	m.mu.Lock()
	if works {
		delete(m.silent, way)
	} else {
		m.silent[way] = true
	}
	m.mu.Unlock()
	return m.peering.Refit(ctx, way.Host, prefer)
}

func (m *Mesh) works(host string, local, remote netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.silent[Pair{host, local, remote}]
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
func (m *Mesh) sources(host string) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.hosts[host])
}

// onLink tells whether another host's address is on the link that one of this host's is on.
func (m *Mesh) onLink(local, remote netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.underlay, func(u Underlay) bool { return u.Prefix.Addr() == local && u.Prefix.Contains(remote) })
}

// offers are how another host can reach this one.
func (m *Mesh) offers(host string) (list []message.Offer) {
	kinds := m.kinds()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, kind := range kinds {
		o := message.Offer{Module: kind.String(), MTU: fabric.DefaultMTU}
		for _, u := range m.underlay {
			linked := slices.ContainsFunc(m.hosts[host], u.Prefix.Contains)
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
