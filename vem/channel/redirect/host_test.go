package redirect_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/slowpath"
)

// self gives a host its addresses for the other one, and that one routes to them.
func (w *world) self(p *place, n byte) (a4, a6 netip.Addr) {
	w.t.Helper()
	e := endpoint(n)
	qt.Assert(w.t, qt.IsNil(p.f.SetSelf(w.t.Context(), e.Addr4, e.Addr6)))
	w.route(p, e, channel.Open)
	return e.Addr4, e.Addr6
}

// The host reaches endpoints of another one, which see it at its own address, and they reach it
// there.
func TestHostTraffic(t *testing.T) {
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, "192.0.2.0/24")
			w.use(0, kind)
			b := w.attach(w.beta, endpoint(3))
			self4, self6 := w.self(w.alpha, 200)
			serve(t, b)
			l, err := w.alpha.Listen(t.Context(), "tcp", ":80")
			qt.Assert(t, qt.IsNil(err))
			defer l.Close()
			for range 2 {
				for _, x := range []struct{ to, self, gateway netip.Addr }{
					{b.ep.Addr4, self4, endpoint(1).Addr4}, {b.ep.Addr6, self6, endpoint(1).Addr6},
				} {
					traffic := load(t, w.alpha, x.to)
					moved(t, traffic, 1<<20)
					stop(t, traffic)

					c, err := b.DialContext(t.Context(), "tcp", net.JoinHostPort(x.self.String(), "80"))
					qt.Assert(t, qt.IsNil(err))
					s, err := l.Accept()
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.Equals(ip(s.LocalAddr()), x.gateway))
					qt.Check(t, qt.Equals(ip(s.RemoteAddr()), x.to))
					qt.Check(t, qt.IsNil(s.Close()))
					qt.Check(t, qt.IsNil(c.Close()))
				}
				w.alpha.close(t)
				w.alpha.open(t)
			}
			// Without an address of its own, it is not seen.
			qt.Assert(t, qt.IsNil(w.alpha.f.SetSelf(t.Context(), netip.Addr{}, netip.Addr{})))
			_, err = w.alpha.DialContext(t.Context(), "tcp", net.JoinHostPort(b.ep.Addr4.String(), "7"))
			qt.Check(t, qt.ErrorIs(err, error(unix.EHOSTUNREACH)))
		})
	}
}

func ip(a net.Addr) netip.Addr {
	ap, _ := netip.ParseAddrPort(strings.TrimSpace(a.String()))
	return ap.Addr().Unmap()
}

// ways resolves every address to the other host.
type ways struct {
	w  *world
	mu sync.Mutex
	n  int
}

func (r *ways) Resolve(_ context.Context, q slowpath.Query) (slowpath.Way, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	return wayTo{r.w.alpha.m, q.Destination}, nil
}

// wayTo is the way to an address on beta.
type wayTo struct {
	m    channel.Module
	addr netip.Addr
}

func (x wayTo) Prepare(ctx context.Context) error {
	return x.m.SetRoutes(ctx, []channel.Route{{Addr: x.addr, Host: "beta", State: channel.Opening}})
}

func (x wayTo) Open(ctx context.Context) error {
	return x.m.SetRoutes(ctx, []channel.Route{{Addr: x.addr, Host: "beta", State: channel.Open}})
}

// A connection's first packet waits in the slow path for the route, and so does the next one
// after routes have gone, under traffic: nothing is lost.
func TestFirstPacket(t *testing.T) {
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, "192.0.2.0/24")
			w.use(0, kind)
			a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
			serve(t, b)
			addrs := []netip.Addr{b.ep.Addr4, b.ep.Addr6}
			qt.Assert(t, qt.IsNil(w.alpha.m.RemoveRoutes(t.Context(), addrs)))
			r := &ways{w: w}
			path, err := slowpath.Open(t.Context(), slowpath.Options{
				Network: "default", NS: w.alpha.f.Namespace(), Prefixes: []netip.Prefix{prefix4, prefix6}, MTU: networkMTU, Resolver: r,
			})
			qt.Assert(t, qt.IsNil(err))
			defer func() { qt.Check(t, qt.IsNil(path.Close())) }()
			qt.Assert(t, qt.IsNil(w.alpha.f.PassOn(t.Context(), fabric.SlowDevice)))
			for _, to := range addrs {
				began := time.Now()
				// What comes back meanwhile needs no route in a tunnel, but does without one.
				start := loadStreams
				if kind == channel.Tunnel {
					start = load
				}
				l := start(t, a, to)
				t.Logf("connected to %s after %s", to, time.Since(began))
				for range 5 {
					moved(t, l, 1<<20)
					// The order in which a way is taken down: nothing that the slow path still
					// delivers meets a route that is gone.
					qt.Assert(t, qt.IsNil(path.Gate(t.Context(), to)))
					qt.Assert(t, qt.IsNil(w.alpha.m.RemoveRoutes(t.Context(), []netip.Addr{to})))
					path.Release(to)
				}
				moved(t, l, 1<<20)
				stop(t, l)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			qt.Check(t, qt.IsTrue(r.n >= 2), qt.Commentf("%d look-ups", r.n))
		})
	}
}
