package mesh

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/peering"
)

// reside gives the host itself the n-th addresses of the network.
func (p *place) reside(n byte) (a4, a6 netip.Addr) {
	t := p.w.t
	t.Helper()
	raw := prefix6.Addr().As16()
	raw[15] = n
	a4, a6 = netip.AddrFrom4([4]byte{10, 77, 0, n}), netip.AddrFrom16(raw)
	qt.Assert(t, qt.IsNil(p.f.SetSelf(t.Context(), a4, a6)))
	p.net.SetSelf(a4, a6)
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	for _, a := range []netip.Addr{a4, a6} {
		p.w.owner[a] = peering.Owner{Host: p.h.Name(), Epoch: 1}
	}
	return a4, a6
}

// The host itself reaches an endpoint of another host, and is reached by it, though there was no
// way before: its first packet waits for one as any other.
func TestHostItself(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	b := w.beta.attach(66)
	b.serve()
	self4, self6 := w.alpha.reside(200)
	l, err := w.alpha.h.Listen(t.Context(), "tcp", ":80")
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	for round := range uint64(2) {
		for _, x := range []struct{ to, self netip.Addr }{{b.ep.Addr4, self4}, {b.ep.Addr6, self6}} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			c, err := w.alpha.h.DialContext(ctx, "tcp", netip.AddrPortFrom(x.to, 7).String())
			cancel()
			qt.Assert(t, qt.IsNil(err))
			w.echo(c, "hello")
			qt.Check(t, qt.Equals(retransmitted(t, c), 0))
			qt.Check(t, qt.IsNil(c.Close()))
			w.alpha.ping(x.to)
		}
		// And the other way round, after the ways have gone.
		w.down(10 + 20*round)
		for _, a := range []netip.Addr{self4, self6} {
			var c net.Conn
			qt.Assert(t, qt.IsNil(b.Do(func() (err error) {
				c, err = net.DialTimeout("tcp", net.JoinHostPort(a.String(), "80"), 20*time.Second)
				return err
			})))
			s, err := l.Accept()
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.IsNil(c.Close()))
			qt.Check(t, qt.IsNil(s.Close()))
		}
		w.down(20 + 20*round)
	}
	_, err = w.alpha.h.DialContext(t.Context(), "tcp", "10.77.0.99:7")
	qt.Check(t, qt.ErrorIs(err, error(unix.EHOSTUNREACH)))
}

// Connections of the host itself go on when channels become of another kind, also one that is the
// kernel's routes, and errors find the socket that they are about.
func TestHostItselfByRoutes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := newWorld(t)
	b := w.beta.attach(66)
	b.serve()
	self4, self6 := w.alpha.reside(200)
	l, err := w.alpha.h.Listen(t.Context(), "tcp", ":80")
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	var open []net.Conn
	for _, x := range []struct{ to, self netip.Addr }{{b.ep.Addr4, self4}, {b.ep.Addr6, self6}} {
		c, err := w.alpha.h.DialContext(t.Context(), "tcp", netip.AddrPortFrom(x.to, 7).String())
		qt.Assert(t, qt.IsNil(err))
		defer c.Close()
		w.echo(c, "hello")
		open = append(open, c)
	}
	for _, kind := range []channel.Kind{channel.VXLAN, channel.WireGuard, channel.Direct} {
		qt.Assert(t, qt.IsNil(w.alpha.SetGiven(t.Context(), "", kind)))
		w.is(kind)
		for _, c := range open {
			w.echo(c, kind.String())
		}
		for _, x := range []struct{ to, self netip.Addr }{{b.ep.Addr4, self4}, {b.ep.Addr6, self6}} {
			w.alpha.ping(x.to)
			var c net.Conn
			qt.Assert(t, qt.IsNil(b.Do(func() (err error) {
				c, err = net.DialTimeout("tcp", netip.AddrPortFrom(x.self, 80).String(), 20*time.Second)
				return err
			})))
			s, err := l.Accept()
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.IsNil(c.Close()))
			qt.Check(t, qt.IsNil(s.Close()))

			u, err := w.alpha.h.DialContext(t.Context(), "udp", netip.AddrPortFrom(x.to, 9).String())
			qt.Assert(t, qt.IsNil(err))
			_, err = u.Write([]byte("nobody listens"))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(u.SetReadDeadline(time.Now().Add(20*time.Second))))
			_, err = u.Read(make([]byte, 10))
			qt.Check(t, qt.ErrorIs(err, error(unix.ECONNREFUSED)), qt.Commentf("%s %s", kind, x.to))
			qt.Check(t, qt.IsNil(u.Close()))
		}
	}
}

// down takes all channels down, by a change that is newer than those that were.
func (w *world) down(generation uint64) {
	w.t.Helper()
	for _, p := range []*place{w.alpha, w.beta} {
		qt.Assert(w.t, qt.IsNil(p.Peering().Disconnect(w.t.Context(), message.Caller{Host: w.other(p).h.Name()}, message.DisconnectRequest{
			Network: "default", Generation: generation,
		})))
	}
}

// ping sends an ICMP echo from the host, and waits for the answer.
func (p *place) ping(to netip.Addr) {
	t := p.w.t
	t.Helper()
	network, protocol, request, reply := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if to.Is6() {
		network, protocol, request, reply = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	qt.Assert(t, qt.IsNil(p.h.Do(func() error {
		c, err := icmp.ListenPacket(network, "")
		if err != nil {
			return err
		}
		defer c.Close()
		m := icmp.Message{Type: request, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: []byte(strconv.Itoa(p.w.calls))}}
		b, err := m.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		for got := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(got)
			if err != nil {
				return err
			}
			answer, err := icmp.ParseMessage(protocol, got[:n])
			if err == nil && answer.Type == reply && from.String() == to.String() {
				return nil
			}
		}
	})))
}
