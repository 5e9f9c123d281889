package peering

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Peering has the networks of this host that other hosts share. It answers what other hosts ask
// about channels: it is a [control.Channels]. Its methods may be called at the same time.
type Peering struct {
	opt Options

	mu       sync.Mutex // guards what follows
	networks map[string]*Network
}

var _ control.Channels = (*Peering)(nil)

// New returns a peering without networks.
func New(opt Options) *Peering {
	opt.Idle = cmp.Or(opt.Idle, DefaultIdle)
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Peering{opt: opt, networks: make(map[string]*Network)}
}

// Join is how a network takes part.
type Join struct {
	Name    string
	Modules []channel.Module // they stay the caller's
	// Offers are how this host can be reached by channels from another host: one for each kind of
	// channel that can lead there.
	Offers func(host string) []message.Offer
	// OnLink tells whether another host's address is on the link that one of this host's is on.
	OnLink func(local, remote netip.Addr) bool
	// Gone is told of endpoints of other hosts to which no way leads any more: what the slow path
	// knows of them is not right any more, see [slowpath.Path.Forget]. It must return at once.
	Gone func([]netip.Addr)
	// Works tells whether packets of a kind of channel get to a host by a way, and back, as far as
	// is known.
	Works func(host string, k channel.Kind, w Way) bool
	// MTU is how large packets of a kind get to a host by a way, with their outer headers; 0: as
	// large as the device sends them.
	MTU func(host string, k channel.Kind, w Way) int
	// Compare orders the ways to a host, the best first, as that host does too.
	Compare func(host string, a, b Way) int
	// Sources are all addresses that another host may send from.
	Sources func(host string) []netip.Addr
	// Keep tells whether the channel to a host stays up also if nobody uses it; nil: none does.
	Keep func(host string) bool
}

// Add has a network take part until Remove. It takes up what the modules have of an earlier
// process: that traffic never stopped.
func (p *Peering) Add(ctx context.Context, j Join) (*Network, error) {
	n := &Network{
		p: p, name: j.Name, offers: j.Offers, onLink: j.OnLink, sources: j.Sources, works: j.Works, mtu: j.MTU, compare: j.Compare, gone: j.Gone, keep: j.Keep, modules: j.Modules,
		kinds: make(map[string]carrier), links: make(map[string]*link),
	}
	for _, m := range j.Modules {
		for _, k := range m.Kinds() {
			n.kinds[k.String()] = carrier{m, k}
		}
	}
	if err := n.adopt(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.networks[j.Name] = n
	p.mu.Unlock()
	for _, l := range n.allLinks() {
		n.changed(l.host)
	}
	return n, nil
}

// Remove takes all channels of a network down, here and on the other hosts.
func (p *Peering) Remove(ctx context.Context, network string) error {
	p.mu.Lock()
	n := p.networks[network]
	delete(p.networks, network)
	p.mu.Unlock()
	if n == nil {
		return nil
	}
	return n.downAll(ctx)
}

// Forget drops all channels to a host that is of the installation no more: nothing is taken from
// it.
func (p *Peering) Forget(ctx context.Context, host string) error {
	var errs []error
	for _, n := range p.all() {
		errs = append(errs, n.forget(ctx, host))
	}
	return errors.Join(errs...)
}

// network returns a network that takes part, or nil.
func (p *Peering) network(name string) *Network {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.networks[name]
}

func (p *Peering) all() []*Network {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.networks))
}

// Left tells other hosts that this one does not have an endpoint any more: what they send there
// asks anew. It does not wait for them.
func (p *Peering) Left(network string, a netip.Addr) {
	if n := p.network(network); n != nil {
		n.left(a)
	}
}

// Moved tells that an endpoint has another owner, as the directory says. A route to the old one
// is removed: the next packet asks anew.
func (p *Peering) Moved(ctx context.Context, network string, a netip.Addr, now Owner) error {
	n := p.network(network)
	if n == nil {
		return nil
	}
	return n.moved(ctx, a, now)
}
