package redirect_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
)

// machine is one that knows nothing of snapctl.
type machine struct {
	*host.Host
	addrs    []netip.Addr // IPv4 and IPv6
	prefixes []netip.Prefix
}

// behind makes a machine behind a host, which is a gateway for it and keeps its addresses.
func (w *world) behind(p *place) machine {
	w.t.Helper()
	m := machine{Host: host.New(w.t, host.Config{Name: "machine"})}
	for _, prefix := range []string{"198.51.100.0/24", "2001:db8:5::/64"} {
		at := netip.MustParsePrefix(prefix)
		link, err := p.Link(w.t.Context(), m.Host, at)
		qt.Assert(w.t, qt.IsNil(err))
		m.addrs, m.prefixes = append(m.addrs, link.B), append(m.prefixes, at)
		to := prefix4
		if at.Addr().Is6() {
			to = prefix6
		}
		m.ip(w.t, "route", "add", to.String(), "via", link.A.String())
	}
	w.beyond(m)
	return m
}

// beyond tells both hosts that alpha is a gateway for the machine, and that nobody else is.
func (w *world) beyond(m machine) {
	w.t.Helper()
	var here, there []channel.Beyond
	for _, prefix := range m.prefixes {
		here = append(here, channel.Beyond{Prefix: prefix, Here: true})
		there = append(there, channel.Beyond{Prefix: prefix, Hosts: []string{"alpha"}})
	}
	qt.Assert(w.t, qt.IsNil(w.alpha.f.SetGateway(fabric.Gateway{On: true, Keep: m.prefixes})))
	qt.Assert(w.t, qt.IsNil(w.alpha.f.SetPublications(w.t.Context(), nil)))
	qt.Assert(w.t, qt.IsNil(w.alpha.m.SetBeyond(w.t.Context(), here)))
	qt.Assert(w.t, qt.IsNil(w.beta.m.SetBeyond(w.t.Context(), there)))
}

// ip runs ip(8) on the machine.
func (m machine) ip(tb testing.TB, args ...string) {
	tb.Helper()
	r, err := host.Run(m.Command(tb.Context(), "ip", args...))
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.Equals(r.Code, 0), qt.Commentf("ip %v: %s", args, r.Stderr))
}

// A machine behind a gateway and an app of another host reach each other at their own addresses, over
// each kind and underlay, by IPv4 and IPv6, whoever begins, also with packets of full size, and when
// both daemons have started anew.
func TestBeyond(t *testing.T) {
	for name, underlay := range map[string]string{"over IPv4": "192.0.2.0/24", "over IPv6": "2001:db8::/64"} {
		for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
			t.Run(kind.String()+" "+name, func(t *testing.T) {
				w := newWorld(t, underlay)
				w.use(0, kind)
				m := w.behind(w.alpha)
				near, far := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
				serve(t, near)
				serve(t, far)
				own, err := m.Listen(t.Context(), "tcp", ":80")
				qt.Assert(t, qt.IsNil(err))
				defer own.Close()
				for range 2 {
					for _, a := range []app{near, far} {
						for i, to := range []netip.Addr{a.ep.Addr4, a.ep.Addr6} {
							traffic := load(t, m, to)
							moved(t, traffic, 1<<20)
							stop(t, traffic)
							sees(t, a, own, m.addrs[i], to)
						}
					}
					for _, p := range []*place{w.alpha, w.beta} {
						p.close(t)
						p.open(t)
					}
				}
				// An app sees the machine, too.
				l, c := far.listen(t, "81")
				defer l.Close()
				defer c.Close()
				for i, to := range []netip.Addr{far.ep.Addr4, far.ep.Addr6} {
					in, err := m.DialContext(t.Context(), "tcp", net.JoinHostPort(to.String(), "81"))
					qt.Assert(t, qt.IsNil(err))
					s, err := l.Accept()
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.Equals(ip(s.RemoteAddr()), m.addrs[i]))
					qt.Check(t, qt.IsNil(s.Close()))
					qt.Check(t, qt.IsNil(in.Close()))
				}
				for _, p := range []*place{w.alpha, w.beta} {
					report, err := p.m.Report(t.Context())
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.Equals(report.Drops, channel.Drops{}), qt.Commentf("%s", p.Name()))
				}
			})
		}
	}
}

// sees fails unless an app reaches a machine, which sees it at its own address.
func sees(t *testing.T, a app, l net.Listener, to, own netip.Addr) {
	t.Helper()
	c, err := a.DialContext(t.Context(), "tcp", net.JoinHostPort(to.String(), "80"))
	qt.Assert(t, qt.IsNil(err))
	s, err := l.Accept()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(ip(s.RemoteAddr()), own))
	qt.Check(t, qt.IsNil(s.Close()))
	qt.Check(t, qt.IsNil(c.Close()))
}

// What is said to come from a machine is dropped unless a gateway for it has sent it, and so is what
// is for one, while no gateway for it is left.
func TestBeyondForged(t *testing.T) {
	for _, kind := range []channel.Kind{channel.Direct, channel.Tunnel} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t, "192.0.2.0/24")
			w.use(0, kind)
			m := w.behind(w.alpha)
			a, b := w.attach(w.alpha, endpoint(2)), w.attach(w.beta, endpoint(3))
			fd := receiver(t, b)
			h := w.host(w.beta, w.cables[0], kind)
			send := func(from netip.Addr, text string) {
				w.alpha.raw(t, packet4(h.Remote, h.Local, 0, unix.IPPROTO_IPIP, datagram4(from, b.ep.Addr4, 0, text)))
			}
			is := func(want string) {
				t.Helper()
				text, _ := received(t, fd)
				qt.Check(t, qt.Equals(text, want))
			}
			send(m.addrs[0], "the machine's")
			is("the machine's")
			send(netip.MustParseAddr("203.0.113.7"), "nobody's")
			w.beta.dropped(t, channel.Drops{Refused: 1})
			qt.Assert(t, qt.IsNil(w.beta.m.SetBeyond(t.Context(), []channel.Beyond{{Prefix: m.prefixes[0], Hosts: []string{"gamma"}}})))
			send(m.addrs[0], "that of another gateway's machine")
			w.beta.dropped(t, channel.Drops{Refused: 2})
			send(a.ep.Addr4, "an endpoint's")
			is("an endpoint's")

			out := b.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
			in := w.alphaHears(t, m)
			say := func(text string) {
				t.Helper()
				qt.Assert(t, qt.IsNil(unix.Sendto(out, []byte(text), 0, sockaddr(m.addrs[0], 9))))
			}
			say("when no gateway is left")
			w.beyond(m)
			say("when there is one")
			buf := make([]byte, 100)
			n, from, err := in.ReadFrom(buf)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(string(buf[:n]), "when there is one"))
			qt.Check(t, qt.Equals(ip(from), b.ep.Addr4))

			// A packet for a machine that comes without an outer header is none of the network's.
			w.alpha.ip(t, "route", "add", b.ep.Addr4.String(), "via", h.Local.String())
			w.alpha.raw(t, datagram4(m.addrs[0], b.ep.Addr4, 0, "without a tunnel"))
			send(m.addrs[0], "the last one")
			is("the last one")
			qt.Assert(t, qt.IsNil(w.alpha.m.SetBeyond(t.Context(), nil)))
			qt.Assert(t, qt.IsNil(w.alpha.f.SetGateway(fabric.Gateway{})))
			qt.Assert(t, qt.IsNil(w.alpha.f.SetPublications(t.Context(), nil)))
		})
	}
}

// alphaHears is a UDP socket of the machine.
func (w *world) alphaHears(t *testing.T, m machine) net.PacketConn {
	t.Helper()
	c, err := m.ListenPacket(t.Context(), "udp4", ":9")
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(c.Close())) })
	return c
}
