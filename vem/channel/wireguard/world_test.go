package wireguard_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/nftables"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/wireguard"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

const networkMTU = 1400

var (
	prefix4 = netip.MustParsePrefix("10.77.0.0/16")
	prefix6 = netip.MustParsePrefix("fd77::/64")
)

// cable is a link between the hosts, with an address of each of them: alpha's and beta's.
type cable struct {
	*host.Link

	device string // the same on both
	mtu    int
}

// place is one of the hosts.
type place struct {
	*host.Host

	cfg fabric.Config
	f   *fabric.Fabric
	m   *wireguard.Module

	local wireguard.Local
	run   func(func(context.Context))
	end   context.CancelFunc
	wait  sync.WaitGroup // what goes on beside
}

// world is two hosts that have one network, with cables between them.
type world struct {
	t           testing.TB
	alpha, beta *place
	cables      []cable
}

// newWorld makes hosts with one cable for each prefix, and no channel yet.
func newWorld(tb testing.TB, local wireguard.Local, mtu int, cables ...string) *world {
	tb.Helper()
	testenv.Need(tb, testenv.Root)
	w := &world{t: tb, alpha: newPlace(tb, "alpha", local), beta: newPlace(tb, "beta", local)}
	for i, prefix := range cables {
		link, err := w.alpha.Link(tb.Context(), w.beta.Host, netip.MustParsePrefix(prefix))
		qt.Assert(tb, qt.IsNil(err))
		c := cable{link, fmt.Sprintf("link%d", i+1), mtu}
		w.cables = append(w.cables, c)
		for _, p := range []*place{w.alpha, w.beta} {
			p.ip(tb, "link", "set", c.device, "mtu", fmt.Sprint(mtu))
		}
	}
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Assert(tb, qt.IsNil(p.m.SetUnderlay(tb.Context(), w.underlay(p))))
	}
	return w
}

func newPlace(tb testing.TB, name string, local wireguard.Local) *place {
	tb.Helper()
	h := host.New(tb, host.Config{Name: name})
	local.Secret, local.LogPath = wireguard.Secret{0: name[0]}, filepath.Join(tb.TempDir(), "log")
	p := &place{Host: h, local: local, cfg: fabric.Config{
		Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: tb.TempDir(), Host: h.Net(), MTU: networkMTU, Plain: true,
	}}
	p.open(tb)
	tb.Cleanup(func() {
		ctx := context.WithoutCancel(tb.Context())
		qt.Check(tb, qt.IsNil(p.m.Delete(ctx)))
		p.end()
		p.wait.Wait()
		qt.Check(tb, qt.HasLen(p.tables(tb), 1)) // the fabric's
		qt.Check(tb, qt.IsNil(p.f.Delete(ctx)))
		qt.Check(tb, qt.IsNil(p.f.Close()))
	})
	return p
}

// open does what a daemon does when it starts.
func (p *place) open(tb testing.TB) {
	tb.Helper()
	var err error
	p.f, err = fabric.Open(tb.Context(), p.cfg)
	qt.Assert(tb, qt.IsNil(err))
	ctx, end := context.WithCancel(context.WithoutCancel(tb.Context()))
	p.end = end
	p.run = func(f func(context.Context)) { p.wait.Go(func() { f(ctx) }) }
	p.m, err = wireguard.Open(tb.Context(), p.config())
	qt.Assert(tb, qt.IsNil(err))
}

func (p *place) config() wireguard.Config {
	return wireguard.Config{
		Self: p.Name(), Network: p.cfg.Network, Fabric: p.f.Namespace(), Host: p.f.HostNamespace(), Prefix4: prefix4, Prefix6: prefix6, MTU: networkMTU,
		Local: p.local, Run: p.run,
	}
}

// close is a daemon's end.
func (p *place) close(tb testing.TB) {
	tb.Helper()
	p.end()
	p.wait.Wait()
	qt.Assert(tb, qt.IsNil(p.m.Close()))
	qt.Assert(tb, qt.IsNil(p.f.Close()))
}

// ip runs ip(8) on the host.
func (p *place) ip(tb testing.TB, args ...string) {
	tb.Helper()
	r, err := host.Run(p.Command(tb.Context(), "ip", args...))
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.Equals(r.Code, 0), qt.Commentf("ip %v: %s", args, r.Stderr))
}

// tables are those of snapctl in the host's firewall.
func (p *place) tables(tb testing.TB) (names []string) {
	tb.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(p.Net().File().Fd())))
	qt.Assert(tb, qt.IsNil(err))
	list, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	qt.Assert(tb, qt.IsNil(err))
	for _, t := range list {
		names = append(names, t.Name)
	}
	return names
}

func (w *world) other(p *place) *place {
	if p == w.alpha {
		return w.beta
	}
	return w.alpha
}

// ends returns the addresses of a cable: here and over there.
func (w *world) ends(p *place, c cable) (local, remote netip.Addr) {
	if p == w.alpha {
		return c.A, c.B
	}
	return c.B, c.A
}

func (w *world) underlay(p *place) (list []channel.Underlay) {
	for _, c := range w.cables {
		local, _ := w.ends(p, c)
		list = append(list, channel.Underlay{Device: c.device, Addr: local})
	}
	return list
}

// host is the other host as p sees it over a cable.
func (w *world) host(p *place, c cable) channel.Host {
	h := channel.Host{Name: w.other(p).Name(), Kind: channel.WireGuard}
	h.Local, h.Remote = w.ends(p, c)
	var err error
	h.Port, h.Parameters, err = w.other(p).m.Offer(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	for _, other := range w.cables {
		if _, remote := w.ends(p, other); remote != h.Remote {
			h.Sources = append(h.Sources, remote)
		}
	}
	return h
}

// use makes both hosts use a cable.
func (w *world) use(number int) {
	w.t.Helper()
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Assert(w.t, qt.IsNil(p.m.SetHost(w.t.Context(), w.host(p, w.cables[number]))))
	}
}

// app is an endpoint's namespace.
type app struct {
	*netns.NS

	ep fabric.Endpoint
}

func (a app) both() []netip.Addr { return []netip.Addr{a.ep.Addr4, a.ep.Addr6} }

// attach makes the n-th endpoint of the network on a host, with a route to it on the other one.
func (w *world) attach(p *place, n byte) app {
	w.t.Helper()
	a6 := prefix6.Addr().As16()
	a6[15] = n
	ep := fabric.Endpoint{App: fmt.Sprint("app", n), Addr4: netip.AddrFrom4([4]byte{10, 77, 0, n}), Addr6: netip.AddrFrom16(a6)}
	ns, err := netns.New()
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { ns.Close() })
	qt.Assert(w.t, qt.IsNil(p.f.Attach(w.t.Context(), ep, ns)))
	w.route(p, ep, channel.Open)
	return app{NS: ns, ep: ep}
}

// route tells the host where e is not that it is at p.
func (w *world) route(p *place, e fabric.Endpoint, state channel.State) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.other(p).m.SetRoutes(w.t.Context(), []channel.Route{
		{Addr: e.Addr4, Host: p.Name(), State: state}, {Addr: e.Addr6, Host: p.Name(), State: state},
	})))
}

// DialContext connects from the app; see testenv/peer.Dialer.
func (a app) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = a.Do(func() error {
		d := net.Dialer{Timeout: 10 * time.Second}
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// listenPacket opens a UDP port in the app.
func (a app) listenPacket(tb testing.TB, port string) (c net.PacketConn) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(a.Do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(tb.Context(), "udp", ":"+port)
		return err
	})))
	tb.Cleanup(func() { c.Close() })
	return c
}

// serve runs a responder of numbered bytes at port 7 of the app.
func (a app) serve(tb testing.TB) {
	tb.Helper()
	var l net.Listener
	c := a.listenPacket(tb, "7")
	qt.Assert(tb, qt.IsNil(a.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(tb.Context(), "tcp", ":7")
		return err
	})))
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- peer.Serve(ctx, l, c, slog.New(slog.DiscardHandler)) }()
	tb.Cleanup(func() {
		cancel()
		qt.Check(tb, qt.IsNil(<-done))
	})
}

// kind is a kind of traffic. Streams fill all queues until one overflows, so datagrams that none is
// to be lost of go without them.
type kind struct {
	streams, flows int
	bytes          int64 // that are a lot of it
}

var (
	streams   = kind{streams: 4, bytes: 1 << 20}
	datagrams = kind{flows: 4, bytes: 1 << 14}
)

// load opens numbered streams or flows from an app to an address.
func load(tb testing.TB, from peer.Dialer, to netip.Addr, k kind) *peer.Load {
	tb.Helper()
	at := net.JoinHostPort(to.String(), "7")
	l, err := peer.Dial(tb.Context(), from, peer.Target{
		TCP: at, Connections: k.streams, UDP: at, Flows: k.flows, Pattern: peer.Pattern{MaxChunk: 1 << 16, MaxPause: 2 * time.Millisecond},
	})
	qt.Assert(tb, qt.IsNil(err))
	tb.Cleanup(l.Close)
	return l
}

// moved waits until so many more bytes have arrived; a datagram counts as 512.
func moved(tb testing.TB, l *peer.Load, bytes int64) {
	tb.Helper()
	now := func() int64 { st := l.Stats(); return st.ReceivedBytes + st.Answered<<9 }
	want := now() + bytes
	deadline := time.Now().Add(time.Minute)
	for tick := time.Tick(time.Millisecond); now() < want; <-tick {
		if time.Now().After(deadline) {
			tb.Fatalf("nothing moves: %+v", l.Stats())
		}
	}
}

// stop ends the traffic and fails if a byte is missing, double or changed, or a datagram lost.
func stop(tb testing.TB, l *peer.Load) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	st, err := l.Stop(ctx)
	qt.Check(tb, qt.IsNil(err))
	qt.Check(tb, qt.IsNil(st.Err()))
}
