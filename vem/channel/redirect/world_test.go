package redirect_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/redirect"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netns"
)

const networkMTU = 1420

var (
	prefix4 = netip.MustParsePrefix("10.77.0.0/16")
	prefix6 = netip.MustParsePrefix("fd77::/64")
)

// place is one of the two hosts of a test, with the network on it.
type place struct {
	*host.Host
	cfg fabric.Config
	f   *fabric.Fabric
	m   *redirect.Module
}

// cable is a link between the hosts, as each of them sees it.
type cable struct {
	*host.Link
	device string // the same on both
}

// world is two hosts, alpha and beta, that have one network, and cables between them.
type world struct {
	t      testing.TB
	alpha  *place
	beta   *place
	cables []cable
}

// newWorld makes two hosts with one cable for each prefix, and no channel yet.
func newWorld(tb testing.TB, cables ...string) *world {
	tb.Helper()
	w := &world{t: tb, alpha: newPlace(tb, "alpha"), beta: newPlace(tb, "beta")}
	for i, prefix := range cables {
		link, err := w.alpha.Link(tb.Context(), w.beta.Host, netip.MustParsePrefix(prefix))
		qt.Assert(tb, qt.IsNil(err))
		w.cables = append(w.cables, cable{link, fmt.Sprintf("link%d", i+1)})
	}
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Assert(tb, qt.IsNil(p.m.SetUnderlay(tb.Context(), w.underlay(p))))
	}
	return w
}

func newPlace(tb testing.TB, name string) *place {
	tb.Helper()
	h := host.New(tb, host.Config{Name: name})
	p := &place{Host: h, cfg: fabric.Config{
		Network: "default", Prefix4: prefix4, Prefix6: prefix6, Dir: tb.TempDir(), Host: h.Net(), MTU: networkMTU,
	}}
	p.open(tb)
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
		defer cancel()
		qt.Check(tb, qt.IsNil(p.m.Delete(ctx)))
		p.checkClean(tb)
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
	far, err := p.f.Far()
	qt.Assert(tb, qt.IsNil(err))
	p.m, err = redirect.Open(tb.Context(), redirect.Config(far))
	if problem, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		tb.Fatalf("%+v", problem)
	}
	qt.Assert(tb, qt.IsNil(err))
}

// close is a daemon's end.
func (p *place) close(tb testing.TB) {
	tb.Helper()
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

// checkClean fails if a program is left on an underlay device.
func (p *place) checkClean(tb testing.TB) {
	tb.Helper()
	qt.Check(tb, qt.IsNil(p.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().Name == p.f.HostDevice() {
				continue
			}
			filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
			qt.Check(tb, qt.IsTrue(err == nil || errors.Is(err, unix.EINVAL)), qt.Commentf("%v", err)) // EINVAL: nothing has filters
			qt.Check(tb, qt.HasLen(filters, 0), qt.Commentf("%s of %s", l.Attrs().Name, p.Name()))
			programs, err := tcx.List(l.Attrs().Index, tcx.Ingress)
			qt.Check(tb, qt.IsNil(err))
			qt.Check(tb, qt.HasLen(programs, 0), qt.Commentf("%s of %s", l.Attrs().Name, p.Name()))
		}
		return nil
	})))
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

// host is the other host as p sees it over a cable, which accepts packets of both kinds from
// all of its addresses.
func (w *world) host(p *place, c cable, kind channel.Kind) channel.Host {
	h := channel.Host{Name: w.other(p).Name(), Kind: kind, Accept: []channel.Kind{channel.Direct, channel.Tunnel}}
	h.Local, h.Remote = w.ends(p, c)
	for _, other := range w.cables {
		if _, remote := w.ends(p, other); remote != h.Remote {
			h.Sources = append(h.Sources, remote)
		}
	}
	return h
}

// use makes both hosts use a cable and kind.
func (w *world) use(number int, kind channel.Kind) {
	w.t.Helper()
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Assert(w.t, qt.IsNil(p.m.SetHost(w.t.Context(), w.host(p, w.cables[number], kind))))
	}
}

// endpoint is the n-th one of the network.
func endpoint(n byte) fabric.Endpoint {
	a6 := prefix6.Addr().As16()
	a6[15] = n
	return fabric.Endpoint{App: fmt.Sprint("app", n), Addr4: netip.AddrFrom4([4]byte{10, 77, 0, n}), Addr6: netip.AddrFrom16(a6)}
}

// attach makes an app on a host, with a route to it on the other one.
func (w *world) attach(p *place, e fabric.Endpoint) app {
	w.t.Helper()
	ns, err := netns.New()
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { ns.Close() })
	qt.Assert(w.t, qt.IsNil(p.f.Attach(w.t.Context(), e, ns)))
	w.route(p, e, channel.Open)
	return app{NS: ns, ep: e}
}

// route tells the host where e is not that it is at p.
func (w *world) route(p *place, e fabric.Endpoint, state channel.State) {
	w.t.Helper()
	qt.Assert(w.t, qt.IsNil(w.other(p).m.SetRoutes(w.t.Context(), []channel.Route{
		{Addr: e.Addr4, Host: p.Name(), State: state}, {Addr: e.Addr6, Host: p.Name(), State: state},
	})))
}

// app is an endpoint's namespace.
type app struct {
	*netns.NS
	ep fabric.Endpoint
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

// listen opens a port for TCP and UDP in the app, at all of its addresses.
func (a app) listen(tb testing.TB, port string) (l net.Listener, c net.PacketConn) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(a.Do(func() (err error) {
		var lc net.ListenConfig
		if l, err = lc.Listen(tb.Context(), "tcp", ":"+port); err != nil {
			return err
		}
		c, err = lc.ListenPacket(tb.Context(), "udp", ":"+port)
		return err
	})))
	return l, c
}

// socket opens a raw descriptor in the app.
func (a app) socket(tb testing.TB, family, kind, proto int) (fd int) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(a.Do(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
		return err
	})))
	tb.Cleanup(func() { unix.Close(fd) })
	timeout := unix.Timeval{Sec: 5}
	qt.Assert(tb, qt.IsNil(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)))
	return fd
}

// ping fails unless an address answers an echo request.
func (a app) ping(tb testing.TB, to netip.Addr) {
	tb.Helper()
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	request := []byte{8, 0, 0, 0, 0, 0, 0, 1}
	if to.Is6() {
		family, proto, request[0] = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128
	}
	fd := a.socket(tb, family, unix.SOCK_DGRAM, proto)
	qt.Assert(tb, qt.IsNil(unix.Sendto(fd, request, 0, sockaddr(to, 0))))
	answer := make([]byte, 100)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	qt.Assert(tb, qt.IsNil(err), qt.Commentf("ping %s", to))
	qt.Check(tb, qt.Equals(n, len(request)))
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is6() {
		return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
	}
	return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
}
