package peering

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/memory"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// world is hosts that share a network, whose control channel is function calls. What the kernel
// would do they note.
type world struct {
	t     testing.TB
	hosts map[string]*host
	mu    sync.Mutex // guards what follows
	owner map[netip.Addr]Owner
	// oneLink is set if all addresses are on one link.
	oneLink bool
	broken  map[netip.Addr]bool         // addresses that nobody reaches
	told    atomic.Int64                // endpoints that hosts told each other of
	beside  *sync.WaitGroup             // what runs beside; nil: it is waited for at once
	cut     func(from, to string) cutAt // nil: nothing is cut
}

// cutAt says where a call is cut.
type cutAt int

const (
	uncut cutAt = iota
	before
	after // it happened, and nobody is told
)

var errCut = errors.New("cut")

// host is one of the world's.
type host struct {
	w        *world
	name     string
	underlay netip.Addr
	more     []netip.Addr // further addresses on the underlay
	gone     []netip.Addr // endpoints that it was told to have no way
	mtu      int          // of its ways; 0: that of the device
	changes  atomic.Int32 // of channels, that it was told of
	*Peering
	net    *Network
	kernel *memory.Kernel // makes all kinds but what routed does
	routed *memory.Kernel // makes vxlan; nil: the host has no such module

	mu    sync.Mutex      // guards what follows
	kinds []string        // what the host offers; none: direct
	given string          // of these, what it was told to have
	fails map[string]bool // kinds that do not come up
}

// module is one of a host, of which some kinds do not come up.
type module struct {
	*memory.Module

	h *host
}

func (m module) SetHost(ctx context.Context, c channel.Host) error {
	m.h.mu.Lock()
	fails := m.h.fails[c.Kind.String()]
	m.h.mu.Unlock()
	if fails {
		return fmt.Errorf("the kernel refuses %s", c.Kind)
	}
	return m.Module.SetHost(ctx, c)
}

// modules are those of the host.
func (h *host) modules() (list []channel.Module) {
	for _, k := range h.kernels() {
		list = append(list, module{k.Open(), h})
	}
	return list
}

func (h *host) kernels() []*memory.Kernel {
	if h.routed == nil {
		return []*memory.Kernel{h.kernel}
	}
	return []*memory.Kernel{h.kernel, h.routed}
}

// makes has a host make all kinds, two modules of them, and offer some.
func (h *host) makes(kinds ...string) {
	h.kernel, h.routed, h.kinds = newKernel(), newKernel(), kinds
	h.kernel.Make, h.routed.Make = []channel.Kind{channel.Direct, channel.Tunnel}, []channel.Kind{channel.VXLAN}
	h.start()
}

// told has a host be told to have a kind, "" for none.
func (h *host) told(kind string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.given = kind
}

// offers are those of the host to every other one.
func (h *host) offers(string) (list []message.Offer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kinds := h.kinds
	if kinds == nil {
		kinds = []string{"direct"}
	}
	for _, kind := range kinds {
		o := message.Offer{Module: kind, MTU: 1420, Given: kind == h.given}
		for _, a := range append([]netip.Addr{h.underlay}, h.more...) {
			o.Underlay = append(o.Underlay, netip.AddrPortFrom(a, 0))
		}
		list = append(list, o)
	}
	return list
}

func newWorld(tb testing.TB, names ...string) *world {
	tb.Helper()
	w := &world{t: tb, hosts: make(map[string]*host), owner: make(map[netip.Addr]Owner)}
	for i, name := range names {
		h := &host{w: w, name: name, underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), kernel: newKernel()}
		w.hosts[name] = h
		h.start()
	}
	return w
}

func newKernel() *memory.Kernel {
	return &memory.Kernel{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77::/64"), Devices: []string{"eth0"}}
}

// start starts the host's daemon, which knows nothing but what the kernel has.
func (h *host) start() {
	t := h.w.t
	t.Helper()
	h.Peering = New(Options{Self: h.name, Peers: h, Owners: h.w, Locals: h, Run: h.w.run, Changed: func(string) { h.changes.Add(1) }})
	here := []channel.Underlay{{Device: "eth0", Addr: h.underlay}}
	for _, a := range h.more {
		here = append(here, channel.Underlay{Device: "eth0", Addr: a})
	}
	modules := h.modules()
	for _, m := range modules {
		qt.Assert(t, qt.IsNil(m.SetUnderlay(t.Context(), here)))
	}
	var err error
	h.net, err = h.Add(t.Context(), Join{
		Name: "default", Modules: modules, Offers: h.offers, OnLink: func(local, remote netip.Addr) bool { return prefixOf(local) == prefixOf(remote) || h.w.oneLink }, Sources: h.w.sources, Works: h.w.working, Gone: h.forget,
		MTU:     func(string, channel.Kind, Way) int { return h.mtu },
		Compare: func(string, Way, Way) int { return 0 },
	})
	qt.Assert(t, qt.IsNil(err))
}

// run runs what goes on beside requests.
func (w *world) run(f func(context.Context)) {
	if w.beside == nil {
		f(w.t.Context())
		return
	}
	w.beside.Go(func() { f(w.t.Context()) })
}

// runBeside has hosts do beside requests what they do so, from now on.
func (w *world) runBeside() {
	w.beside = new(sync.WaitGroup)
	w.t.Cleanup(w.beside.Wait)
}

// working tells whether packets get through.
func (w *world) working(_ string, _ channel.Kind, way Way) bool {
	return !w.broken[way.Local] && !w.broken[way.Remote]
}

// forget is told of endpoints without a way.
func (h *host) forget(list []netip.Addr) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.gone = append(h.gone, list...)
}

// sources are the addresses of a host.
func (w *world) sources(host string) []netip.Addr {
	h := w.hosts[host]
	return append([]netip.Addr{h.underlay}, h.more...)
}

func prefixOf(a netip.Addr) netip.Prefix {
	p, _ := a.Prefix(24)
	return p
}

// has gives the host an endpoint.
func (h *host) has(addr string, epoch uint64) netip.Addr {
	a := netip.MustParseAddr(addr)
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.owner[a] = Owner{h.name, epoch}
	return a
}

// Owner implements [Owners].
func (w *world) Owner(_ context.Context, _ string, a netip.Addr) (Owner, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.owner[a]
	if !ok {
		return o, fmt.Errorf("%s: %w", a, slowpath.ErrNobody)
	}
	return o, nil
}

// Known implements [Owners].
func (w *world) Known(_ string, a netip.Addr) (Owner, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, ok := w.owner[a]
	return o, ok
}

// Epoch implements [Locals].
func (h *host) Epoch(_ string, a netip.Addr) (uint64, bool) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	o, ok := h.w.owner[a]
	return o.Epoch, ok && o.Host == h.name
}

// All implements [Locals].
func (h *host) All(string) (list []message.Endpoint) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for a, o := range h.w.owner {
		if o.Host == h.name {
			list = append(list, message.Endpoint{Address: a, Epoch: o.Epoch})
		}
	}
	return list
}

// send is what the slow path does for a first packet.
func (h *host) send(ctx context.Context, from, to netip.Addr) error {
	way, err := h.net.Resolve(ctx, slowpath.Query{Network: "default", Source: from, Destination: to})
	if err != nil {
		return err
	}
	if err := way.Prepare(ctx); err != nil {
		return err
	}
	return way.Open(ctx)
}

// routes are those of the host in the kernel.
func (h *host) routes() map[netip.Addr]channel.Route {
	h.w.t.Helper()
	all := make(map[netip.Addr]channel.Route)
	for _, k := range h.kernels() {
		list, err := k.Open().Routes(h.w.t.Context())
		qt.Assert(h.w.t, qt.IsNil(err))
		for _, r := range list {
			if all[r.Addr].State != channel.Open { // of two modules, one has it for what arrives alone
				all[r.Addr] = r
			}
		}
	}
	return all
}

// channels are those of the host in the kernel.
func (h *host) channels() map[string]channel.Status {
	h.w.t.Helper()
	all := make(map[string]channel.Status)
	for _, k := range h.kernels() {
		list, err := k.Open().Hosts(h.w.t.Context())
		qt.Assert(h.w.t, qt.IsNil(err))
		maps.Copy(all, list)
	}
	return all
}

// reaches tells to which host packets for an endpoint go, "" if to none.
func (h *host) reaches(a netip.Addr) string {
	h.w.t.Helper()
	if h.routes()[a].State != channel.Open {
		return ""
	}
	return h.knows(a)
}

// knows tells to which host packets for an endpoint go that has a route, be it for what waited in
// the slow path alone.
func (h *host) knows(a netip.Addr) string {
	h.w.t.Helper()
	r, ok := h.routes()[a]
	if !ok {
		return ""
	}
	to := h.channels()[r.Host].Host
	for name, o := range h.w.hosts {
		if slices.Contains(append(o.more, o.underlay), to.Remote) && slices.Contains(append(h.more, h.underlay), to.Local) {
			return name
		}
	}
	return "nowhere"
}

// agreed proves that two hosts have the same in their tables.
func (w *world) agreed(a, b string) {
	w.t.Helper()
	ta, tb := w.hosts[a].net.table(w.t.Context(), b), w.hosts[b].net.table(w.t.Context(), a)
	qt.Check(w.t, qt.Equals(ta.Digest(a, b), tb.Digest(b, a)), qt.Commentf("%+v %+v\n%+v %+v", ta.Channel, ta.Routes, tb.Channel, tb.Routes))
}
