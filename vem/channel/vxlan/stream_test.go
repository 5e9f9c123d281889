package vxlan_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/vxlan"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// Streams and datagrams pass both ways, over each underlay, by IPv4 and IPv6, and are counted.
func TestStreams(t *testing.T) {
	for name, underlay := range map[string]string{"over IPv4": "192.0.2.0/24", "over IPv6": "2001:db8::/64"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1500, underlay)
			w.use(0)
			a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
			b.serve(t)
			for _, to := range b.both() {
				l := load(t, a, to)
				moved(t, l, 5<<20)
				stop(t, l)
			}
			report, err := w.alpha.m.Report(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(report.Drops, channel.Drops{}))
			counted := report.Hosts["beta"]
			qt.Check(t, qt.IsTrue(counted.Sent.Bytes > 5<<20), qt.Commentf("%+v", counted))
			qt.Check(t, qt.IsTrue(counted.Received.Packets > 100), qt.Commentf("%+v", counted))
			qt.Check(t, qt.IsTrue(time.Since(counted.Last()) < time.Minute))
		})
	}
}

// Another cable, under traffic, and another family: no byte and no datagram is lost.
func TestSwitch(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24", "2001:db8::/64")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	four, six := load(t, a, b.ep.Addr4), load(t, a, b.ep.Addr6)
	before := w.counted(w.alpha)
	for range 3 {
		for n := range w.cables {
			w.use(n)
			moved(t, four, 1<<20)
			moved(t, six, 1<<20)
			now := w.counted(w.alpha)
			qt.Check(t, qt.IsTrue(now.Sent.Packets > before.Sent.Packets && now.Received.Packets > before.Received.Packets))
			before = now
		}
	}
	stop(t, four)
	stop(t, six)
}

func (w *world) counted(p *place) channel.Counters {
	w.t.Helper()
	report, err := p.m.Report(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	return report.Hosts[w.other(p).Name()]
}

// A cable is cut, and the channel goes on by another one.
func TestCut(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24", "198.51.100.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	c, err := a.DialContext(t.Context(), "tcp", b.ep.Addr4.String()+":7")
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	qt.Assert(t, qt.IsNil(w.cables[0].Delete()))
	w.use(1)
	l := load(t, a, b.ep.Addr4)
	moved(t, l, 1<<20)
	stop(t, l)
}

// Daemons end and start again under traffic, which does not notice, and find everything.
func TestRestart(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	four, six := load(t, a, b.ep.Addr4), load(t, a, b.ep.Addr6)
	for range 3 {
		for _, p := range []*place{w.alpha, w.beta} {
			p.close(t)
			moved(t, four, 1<<20)
			p.open(t)
			moved(t, six, 1<<20)
			hosts, err := p.m.Hosts(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(hosts, 1))
			qt.Assert(t, qt.IsNil(p.m.SetUnderlay(t.Context(), w.underlay(p))))
			qt.Assert(t, qt.IsNil(p.m.SetHost(t.Context(), w.host(p, w.cables[0]))))
			moved(t, four, 1<<20)
		}
	}
	stop(t, four)
	stop(t, six)
}

// What an earlier release has left, which did not tell in the fabric from which host a packet is, is
// brought up to date under traffic.
func TestEarlierRelease(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	four := load(t, a, b.ep.Addr4)
	for _, p := range []*place{w.alpha, w.beta} {
		ns, err := p.f.Namespace().Dup()
		qt.Assert(t, qt.IsNil(err))
		defer ns.Close()
		p.close(t)
		conn, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
		qt.Assert(t, qt.IsNil(err))
		table := &nftables.Table{Name: "snapctl-vxlan", Family: nftables.TableFamilyINet}
		conn.DelTable(table)
		conn.AddTable(table)
		qt.Assert(t, qt.IsNil(conn.Flush()))
		moved(t, four, 1<<20)
		p.open(t)
		moved(t, four, 1<<20)
		chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == table.Name && c.Name == "prerouting" })))
	}
	stop(t, four)
}

// A route that is being opened is for the slow path's packets only, which here nobody sends.
func TestOpening(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	for _, open := range []bool{false, true, false} {
		state, want := channel.Opening, error(unix.EHOSTUNREACH)
		if open {
			state, want = channel.Open, nil
		}
		w.route(w.beta, b.ep, state)
		for _, to := range b.both() {
			c, err := a.DialContext(t.Context(), "tcp", netip.AddrPortFrom(to, 7).String())
			if want == nil {
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.IsNil(c.Close()))
			} else {
				qt.Check(t, qt.IsNotNil(err))
			}
		}
	}
	w.route(w.beta, b.ep, channel.Open)
	qt.Assert(t, qt.IsNil(w.alpha.m.RemoveHost(t.Context(), "beta")))
	_, err := a.DialContext(t.Context(), "tcp", b.ep.Addr4.String()+":7")
	qt.Check(t, qt.ErrorIs(err, error(unix.EHOSTUNREACH)))
}

// An endpoint here comes before a route to another host, whichever is there first, and the route
// is used when the endpoint has gone.
func TestHereFirst(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24")
	w.use(0)
	a, far := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	far.serve(t)
	near := w.attach(w.alpha, 4)
	near.serve(t)
	w.route(w.beta, near.ep, channel.Open) // to beta, which has not got it
	for _, to := range near.both() {
		l := load(t, a, to)
		moved(t, l, 1<<18)
		stop(t, l)
	}
	qt.Assert(t, qt.IsNil(w.alpha.m.RemoveRoutes(t.Context(), near.both())))
	l := load(t, a, near.ep.Addr4)
	moved(t, l, 1<<18)
	stop(t, l)
}

// ways resolves every address to beta.
type ways struct{ m channel.Module }

func (r ways) Resolve(_ context.Context, q slowpath.Query) (slowpath.Way, error) {
	return wayTo{r.m, q.Destination}, nil
}

// wayTo is the way to an address on beta.
type wayTo struct {
	m    channel.Module
	addr netip.Addr
}

func (x wayTo) set(ctx context.Context, s channel.State) error {
	return x.m.SetRoutes(ctx, []channel.Route{{Addr: x.addr, Host: "beta", State: s}})
}

func (x wayTo) Prepare(ctx context.Context) error { return x.set(ctx, channel.Opening) }
func (x wayTo) Open(ctx context.Context) error    { return x.set(ctx, channel.Open) }

// A connection's first packet waits in the slow path for the route, and so do those after routes
// have gone, under traffic: nothing is lost, and nothing comes in another order.
func TestFirstPacket(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	qt.Assert(t, qt.IsNil(w.alpha.m.RemoveRoutes(t.Context(), b.both())))
	path, err := slowpath.Open(t.Context(), slowpath.Options{
		Network: "default", NS: w.alpha.f.Namespace(), Prefixes: []netip.Prefix{prefix4, prefix6}, MTU: networkMTU,
		Resolver: ways{w.alpha.m}, SetUp: w.alpha.f.PassOn,
	})
	qt.Assert(t, qt.IsNil(err))
	defer func() { qt.Check(t, qt.IsNil(path.Close())) }()
	for _, to := range b.both() {
		l := load(t, a, to)
		for range 5 {
			moved(t, l, 1<<20)
			qt.Assert(t, qt.IsNil(path.Gate(t.Context(), to)))
			qt.Assert(t, qt.IsNil(w.alpha.m.RemoveRoutes(t.Context(), []netip.Addr{to})))
			path.Release(to)
		}
		moved(t, l, 1<<20)
		stop(t, l)
	}
}

// Two networks of one host have one port between them, and know their packets by the number.
func TestTwoNetworks(t *testing.T) {
	w := newWorld(t, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	l := load(t, a, b.ep.Addr4)
	cfg := w.beta.cfg
	cfg.Network, cfg.Prefix4, cfg.Prefix6 = "second", netip.MustParsePrefix("10.78.0.0/16"), netip.Prefix{}
	f, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	m, err := vxlan.Open(t.Context(), vxlan.Config{
		Self: "beta", Network: "second", Fabric: f.Namespace(), Host: f.HostNamespace(), Prefix4: cfg.Prefix4, MTU: networkMTU,
	})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(m.SetUnderlay(t.Context(), w.underlay(w.beta))))
	qt.Assert(t, qt.IsNil(m.SetHost(t.Context(), w.host(w.beta, w.cables[0]))))
	moved(t, l, 1<<20)
	report, err := m.Report(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(report.Hosts["alpha"], channel.Counters{}))
	qt.Check(t, qt.Equals(report.Drops, channel.Drops{}))
	qt.Assert(t, qt.IsNil(m.Delete(t.Context())))
	qt.Assert(t, qt.IsNil(f.Delete(t.Context())))
	moved(t, l, 1<<20)
	stop(t, l)
}
