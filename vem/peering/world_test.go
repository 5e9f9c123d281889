package peering

import (
	"context"
	"errors"
	"fmt"
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
	t     *testing.T
	hosts map[string]*host
	mu    sync.Mutex // guards what follows
	owner map[netip.Addr]Owner
	// oneLink is set if all addresses are on one link.
	oneLink bool
	broken  map[netip.Addr]bool         // addresses that nobody reaches
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
	kernel *memory.Kernel
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	w := &world{t: t, hosts: make(map[string]*host), owner: make(map[netip.Addr]Owner)}
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
	h.Peering = New(Options{Self: h.name, Peers: h, Owners: h.w, Locals: h, Run: func(f func(context.Context)) { f(t.Context()) }, Changed: func(string) { h.changes.Add(1) }})
	m := h.kernel.Open()
	here := []channel.Underlay{{Device: "eth0", Addr: h.underlay}}
	for _, a := range h.more {
		here = append(here, channel.Underlay{Device: "eth0", Addr: a})
	}
	err := m.SetUnderlay(t.Context(), here)
	qt.Assert(t, qt.IsNil(err))
	h.net, err = h.Add(t.Context(), Join{
		Name: "default", Modules: []channel.Module{m}, Offers: func(string) []message.Offer {
			o := message.Offer{Module: "direct", MTU: 1420}
			for _, a := range append([]netip.Addr{h.underlay}, h.more...) {
				o.Underlay = append(o.Underlay, netip.AddrPortFrom(a, 0))
			}
			return []message.Offer{o}
		}, OnLink: func(local, remote netip.Addr) bool { return prefixOf(local) == prefixOf(remote) || h.w.oneLink }, Sources: noSources, Works: h.w.working, Gone: h.forget,
		MTU:     func(string, Way) int { return h.mtu },
		Compare: func(string, Way, Way) int { return 0 },
	})
	qt.Assert(t, qt.IsNil(err))
}

// working tells whether packets get through.
func (w *world) working(_ string, way Way) bool {
	return !w.broken[way.Local] && !w.broken[way.Remote]
}

// forget is told of endpoints without a way.
func (h *host) forget(list []netip.Addr) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.gone = append(h.gone, list...)
}

func noSources(string) []netip.Addr { return nil }

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

// call makes a call to another host, unless it is cut.
func call[T any](h *host, to string, do func(*host, message.Caller) (T, error)) (T, error) {
	h.w.mu.Lock()
	cut := uncut
	if h.w.cut != nil {
		cut = h.w.cut(h.name, to)
	}
	h.w.mu.Unlock()
	var none T
	if cut == before {
		return none, errCut
	}
	res, err := do(h.w.hosts[to], message.Caller{Host: h.name})
	if cut == after {
		return none, errCut
	}
	return res, err
}

// Connect implements [Peers].
func (h *host) Connect(ctx context.Context, to string, r message.ConnectRequest) (message.Channel, error) {
	r.ID = message.NewID()
	r, err := message.FromConnect(message.ToConnect(r)) // and refuses what may not be said
	if err != nil {
		return message.Channel{}, err
	}
	return call(h, to, func(o *host, from message.Caller) (message.Channel, error) {
		c, err := o.Peering.Connect(ctx, from, r)
		c.Local, c.Remote = c.Remote, c.Local
		return c, err
	})
}

// Switch implements [Peers].
func (h *host) Switch(ctx context.Context, to string, r message.SwitchRequest) (message.Channel, error) {
	r.ID = message.NewID()
	r, err := message.FromSwitch(message.ToSwitch(r))
	if err != nil {
		return message.Channel{}, err
	}
	return call(h, to, func(o *host, from message.Caller) (message.Channel, error) {
		c, err := o.Peering.Switch(ctx, from, r)
		c.Local, c.Remote = c.Remote, c.Local
		return c, err
	})
}

// Disconnect implements [Peers].
func (h *host) Disconnect(ctx context.Context, to string, r message.DisconnectRequest) error {
	_, err := call(h, to, func(o *host, from message.Caller) (int, error) { return 0, o.Peering.Disconnect(ctx, from, r) })
	return err
}

// Reconcile implements [Peers].
func (h *host) Reconcile(ctx context.Context, to string, ours message.Table) (message.Table, bool, error) {
	flip := func(t message.Table) message.Table {
		if t.Channel != nil {
			c := *t.Channel
			c.Local, c.Remote = c.Remote, c.Local
			t.Channel = &c
		}
		return t
	}
	var c message.Checks
	if c.Table(ours, h.name, to); c.Err != nil {
		return message.Table{}, false, c.Err
	}
	merged, err := call(h, to, func(o *host, from message.Caller) (message.Table, error) {
		t, err := o.Peering.Reconcile(ctx, from, flip(ours))
		return flip(t), err
	})
	return merged, false, err
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
	m := h.kernel.Open()
	list, err := m.Routes(h.w.t.Context())
	qt.Assert(h.w.t, qt.IsNil(err))
	all := make(map[netip.Addr]channel.Route)
	for _, r := range list {
		all[r.Addr] = r
	}
	return all
}

// channels are those of the host in the kernel.
func (h *host) channels() map[string]channel.Status {
	h.w.t.Helper()
	m := h.kernel.Open()
	all, err := m.Hosts(h.w.t.Context())
	qt.Assert(h.w.t, qt.IsNil(err))
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
