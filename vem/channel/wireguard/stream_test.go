package wireguard_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// Streams and datagrams pass both ways, over each underlay, by IPv4 and IPv6, and are counted.
func TestStreams(t *testing.T) { everywhere(t, testStreams) }

func testStreams(t *testing.T, local wireguard.Local) {
	t.Helper()
	for name, underlay := range map[string]string{"over IPv4": "192.0.2.0/24", "over IPv6": "2001:db8::/64"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, local, 1500, underlay)
			w.use(0)
			a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
			b.serve(t)
			for _, to := range b.both() {
				for _, k := range []kind{streams, datagrams} {
					l := load(t, a, to, k)
					moved(t, l, 4*k.bytes)
					stop(t, l)
				}
			}
			report, err := w.alpha.m.Report(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(report.Drops, channel.Drops{}))
			counted := report.Hosts["beta"]
			qt.Check(t, qt.IsTrue(counted.Sent.Bytes > 4<<20), qt.Commentf("%+v", counted))
			qt.Check(t, qt.IsTrue(counted.Received.Packets > 100), qt.Commentf("%+v", counted))
			qt.Check(t, qt.IsTrue(time.Since(counted.Last()) < time.Minute))
		})
	}
}

// Another cable, under traffic, and another family: no byte and no datagram is lost.
func TestSwitch(t *testing.T) { everywhere(t, testSwitch) }

func testSwitch(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24", "2001:db8::/64")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	for _, k := range []kind{streams, datagrams} {
		four, six := load(t, a, b.ep.Addr4, k), load(t, a, b.ep.Addr6, k)
		before := w.counted(w.alpha)
		for range 3 {
			for n := range w.cables {
				w.use(n)
				moved(t, four, k.bytes)
				moved(t, six, k.bytes)
				now := w.counted(w.alpha)
				qt.Check(t, qt.IsTrue(now.Sent.Packets > before.Sent.Packets && now.Received.Packets > before.Received.Packets))
				before = now
			}
		}
		stop(t, four)
		stop(t, six)
	}
}

func (w *world) counted(p *place) channel.Counters {
	w.t.Helper()
	report, err := p.m.Report(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	return report.Hosts[w.other(p).Name()]
}

// A cable is cut, and the channel goes on by another one.
func TestCut(t *testing.T) { everywhere(t, testCut) }

func testCut(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24", "198.51.100.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	c, err := a.DialContext(t.Context(), "tcp", b.ep.Addr4.String()+":7")
	qt.Assert(t, qt.IsNil(err))
	defer c.Close()
	qt.Assert(t, qt.IsNil(w.cables[0].Delete()))
	w.use(1)
	l := load(t, a, b.ep.Addr4, streams)
	moved(t, l, 1<<20)
	stop(t, l)
}

// Daemons end and start again under traffic, which does not notice, and find everything.
func TestRestart(t *testing.T) { everywhere(t, testRestart) }

func testRestart(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	for _, k := range []kind{streams, datagrams} {
		four, six := load(t, a, b.ep.Addr4, k), load(t, a, b.ep.Addr6, k)
		for _, p := range []*place{w.alpha, w.beta} {
			p.close(t)
			moved(t, four, k.bytes)
			p.open(t)
			moved(t, six, k.bytes)
			hosts, err := p.m.Hosts(t.Context())
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(hosts, 1))
			qt.Assert(t, qt.IsNil(p.m.SetUnderlay(t.Context(), w.underlay(p))))
			qt.Assert(t, qt.IsNil(p.m.SetHost(t.Context(), w.host(p, w.cables[0]))))
			moved(t, four, k.bytes)
		}
		stop(t, four)
		stop(t, six)
	}
}

// What an earlier release has left, which carried nothing of machines beyond gateways, is brought up to
// date under traffic.
func TestEarlierRelease(t *testing.T) { everywhere(t, testEarlierRelease) }

func testEarlierRelease(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	four := load(t, a, b.ep.Addr4, streams)
	for _, p := range []*place{w.alpha, w.beta} {
		ns, err := p.f.Namespace().Dup()
		qt.Assert(t, qt.IsNil(err))
		defer ns.Close()
		p.close(t)
		addresses := func() (list []netlink.Addr) {
			qt.Assert(t, qt.IsNil(ns.Do(func() error {
				link, err := netlink.LinkByName(fabric.WireGuardDevice)
				if err == nil {
					list, err = netlink.AddrList(link, unix.AF_INET6)
				}
				return err
			})))
			return list
		}
		conn, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
		qt.Assert(t, qt.IsNil(err))
		conn.DelTable(&nftables.Table{Name: "snapctl-wireguard", Family: nftables.TableFamilyINet})
		qt.Assert(t, qt.IsNil(conn.Flush()))
		before := addresses()
		qt.Assert(t, qt.HasLen(before, 1))
		qt.Assert(t, qt.IsNil(ns.Do(func() error {
			link, err := netlink.LinkByName(fabric.WireGuardDevice)
			if err == nil {
				err = netlink.AddrDel(link, &before[0])
			}
			return err
		})))
		moved(t, four, streams.bytes)
		p.open(t)
		moved(t, four, streams.bytes)
		after := addresses()
		qt.Assert(t, qt.HasLen(after, 1))
		qt.Check(t, qt.Equals(after[0].String(), before[0].String()))
	}
	stop(t, four)
}

// A route that is being opened is for the slow path's packets only, which here nobody sends.
func TestOpening(t *testing.T) { everywhere(t, testOpening) }

func testOpening(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
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
func TestHereFirst(t *testing.T) { everywhere(t, testHereFirst) }

func testHereFirst(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
	w.use(0)
	a, far := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	far.serve(t)
	near := w.attach(w.alpha, 4)
	near.serve(t)
	w.route(w.beta, near.ep, channel.Open) // to beta, which has not got it
	for _, to := range near.both() {
		l := load(t, a, to, streams)
		moved(t, l, 1<<18)
		stop(t, l)
	}
	qt.Assert(t, qt.IsNil(w.alpha.m.RemoveRoutes(t.Context(), near.both())))
	l := load(t, a, near.ep.Addr4, streams)
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

// A connection's first packet waits in the slow path for the route, and so do those after it is
// open no more, under traffic: nothing is lost, and nothing comes in another order.
func TestFirstPacket(t *testing.T) { everywhere(t, testFirstPacket) }

func testFirstPacket(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
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
	for i, to := range b.both() {
		k := []kind{streams, datagrams}[i]
		l := load(t, a, to, k)
		for range 5 {
			moved(t, l, k.bytes)
			qt.Assert(t, qt.IsNil(path.Gate(t.Context(), to)))
			w.route(w.beta, b.ep, channel.Opening) // without a route nothing would come from there
			path.Release(to)
		}
		moved(t, l, k.bytes)
		stop(t, l)
	}
}

// Two networks of one host have a port and a key each.
func TestTwoNetworks(t *testing.T) { everywhere(t, testTwoNetworks) }

func testTwoNetworks(t *testing.T, local wireguard.Local) {
	t.Helper()
	w := newWorld(t, local, 1500, "192.0.2.0/24")
	w.use(0)
	a, b := w.attach(w.alpha, 2), w.attach(w.beta, 3)
	b.serve(t)
	l := load(t, a, b.ep.Addr4, streams)
	cfg := w.beta.cfg
	cfg.Network, cfg.Prefix4, cfg.Prefix6 = "second", netip.MustParsePrefix("10.78.0.0/16"), netip.Prefix{}
	f, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	second := w.beta.config()
	second.Network, second.Fabric, second.Prefix4, second.Prefix6 = "second", f.Namespace(), cfg.Prefix4, netip.Prefix{}
	m, err := wireguard.Open(t.Context(), second)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(m.SetUnderlay(t.Context(), w.underlay(w.beta))))
	qt.Assert(t, qt.IsNil(m.SetHost(t.Context(), w.host(w.beta, w.cables[0]))))
	port, key, err := m.Offer(t.Context())
	qt.Assert(t, qt.IsNil(err))
	other, otherKey, err := w.beta.m.Offer(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.Equals(port, other)))
	qt.Check(t, qt.Not(qt.DeepEquals(key, otherKey)))
	moved(t, l, 1<<20)
	report, err := m.Report(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(report.Hosts["alpha"], channel.Counters{}))
	qt.Assert(t, qt.IsNil(m.Delete(t.Context())))
	qt.Assert(t, qt.IsNil(f.Delete(t.Context())))
	moved(t, l, 1<<20)
	stop(t, l)
}
