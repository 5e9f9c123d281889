package handover_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// message is a datagram.
type message struct {
	from netip.AddrPort
	data []byte
}

func (m message) String() string {
	return fmt.Sprintf("%d bytes %.20q from %s", len(m.data), m.data, m.from)
}

// datagram makes a socket for datagrams.
func (w *world) datagram(ns *netns.NS, at netip.AddrPort, proto int, set ...func(fd int)) *end {
	w.t.Helper()
	e := w.socket(ns, family(at.Addr()), unix.SOCK_DGRAM, proto)
	for _, fn := range set {
		fn(e.fd)
	}
	qt.Assert(w.t, qt.IsNil(unix.Bind(e.fd, sockaddr(at))))
	return e
}

func (e *end) sendTo(to netip.AddrPort, data string) {
	e.t.Helper()
	qt.Assert(e.t, qt.IsNil(unix.Sendto(e.fd, []byte(data), 0, sockaddr(to))))
}

func (e *end) local() netip.AddrPort {
	e.t.Helper()
	sa, err := unix.Getsockname(e.fd)
	qt.Assert(e.t, qt.IsNil(err))
	return addrPort(sa)
}

// drain reads all that waits.
func (e *end) drain() []message {
	e.t.Helper()
	var got []message
	for b := make([]byte, 1<<16); ; {
		n, from, err := unix.Recvfrom(e.fd, b, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return got
		}
		qt.Assert(e.t, qt.IsNil(err))
		got = append(got, message{addrPort(from), bytes.Clone(b[:n])})
	}
}

func (e *end) next() message {
	e.t.Helper()
	e.wait(unix.POLLIN)
	b := make([]byte, 1<<16)
	n, from, err := unix.Recvfrom(e.fd, b, unix.MSG_DONTWAIT)
	qt.Assert(e.t, qt.IsNil(err))
	return message{addrPort(from), bytes.Clone(b[:n])}
}

// arrived waits until so much was received that it takes that much memory.
func (w *world) same(got, want []message) {
	w.t.Helper()
	qt.Assert(w.t, qt.Equals(fmt.Sprint(got), fmt.Sprint(want)))
	for i := range got {
		qt.Assert(w.t, qt.IsTrue(bytes.Equal(got[i].data, want[i].data)), qt.Commentf("datagram %d", i))
	}
}

// kinds of sockets that datagrams wait in.
func datagramKinds() map[string]struct {
	app, peer netip.Addr
	bound     netip.Addr
	proto     int
	set       func(fd int)
	connected bool
} {
	none := func(int) {}
	return map[string]struct {
		app, peer netip.Addr
		bound     netip.Addr
		proto     int
		set       func(fd int)
		connected bool
	}{
		"IPv4":                {app4, peer4, app4, unix.IPPROTO_UDP, none, false},
		"IPv4, any":           {app4, peer4, any4, unix.IPPROTO_UDP, none, false},
		"IPv6":                {app6, peer6, app6, unix.IPPROTO_UDP, none, false},
		"IPv6, any":           {app6, peer6, any6, unix.IPPROTO_UDP, none, false},
		"IPv6 alone":          {app6, peer6, any6, unix.IPPROTO_UDP, onlyIPv6, false},
		"IPv4 at IPv6":        {app4, peer4, any6, unix.IPPROTO_UDP, none, false},
		"IPv4, connected":     {app4, peer4, app4, unix.IPPROTO_UDP, none, true},
		"IPv6, connected":     {app6, peer6, any6, unix.IPPROTO_UDP, none, true},
		"of a device":         {app4, peer4, any4, unix.IPPROTO_UDP, bindDevice, false},
		"of a port of many":   {app4, peer4, any4, unix.IPPROTO_UDP, reusePort, false},
		"UDP-Lite":            {app4, peer4, app4, unix.IPPROTO_UDPLITE, none, false},
		"UDP-Lite of IPv6":    {app6, peer6, any6, unix.IPPROTO_UDPLITE, none, false},
		"with a minimal TTL":  {app4, peer4, any4, unix.IPPROTO_UDP, option(unix.IPPROTO_IP, unix.IP_MINTTL, 60), false},
		"that looks ahead":    {app4, peer4, any4, unix.IPPROTO_UDP, option(unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0), false},
		"told of the senders": {app6, peer6, any6, unix.IPPROTO_UDP, option(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1), false},
		"put together":        {app4, peer4, any4, unix.IPPROTO_UDP, option(unix.IPPROTO_UDP, 104, 1), false},
	}
}

// TestDatagrams moves sockets in which datagrams wait, there and back: they come out once each,
// in their order, and say who sent them.
func TestDatagrams(t *testing.T) {
	w := newWorld(t)
	port := uint16(5000)
	for name, tt := range datagramKinds() {
		t.Run(name, func(t *testing.T) {
			w.t = t
			port++
			at := netip.AddrPortFrom(tt.app, port)
			a := w.datagram(w.app[w.at], netip.AddrPortFrom(tt.bound, port), tt.proto, tt.set)
			one, two := w.datagram(w.peer, netip.AddrPortFrom(tt.peer, 0), tt.proto), w.datagram(w.peer, netip.AddrPortFrom(tt.peer, 0), tt.proto)
			if tt.connected {
				qt.Assert(t, qt.IsNil(unix.Connect(a.fd, sockaddr(one.local()))))
				two = one
			}
			mapped := func(m message) message {
				if tt.bound.Is6() && m.from.Addr().Is4() {
					m.from = netip.AddrPortFrom(netip.AddrFrom16(m.from.Addr().As16()), m.from.Port())
				}
				return m
			}
			var want []message
			for i, data := range []string{"first", "second", string(numbered(7, 0, 1400)), "", string(numbered(9, 0, 60000)), "last"} {
				from := []*end{one, two}[i%2]
				from.sendTo(at, data)
				want = append(want, mapped(message{from.local(), []byte(data)}))
			}
			ends := []*end{a}
			set := w.hold(ends...)
			for range 2 {
				set = w.move(set)
			}
			a = w.woken(set, ends...)[0]
			if v, _ := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF); v >= 0 {
				qt.Check(t, qt.Equals(v, 0))
			}
			w.same(a.drain(), want)
			one.sendTo(at, "more")
			w.same([]message{a.next()}, []message{mapped(message{one.local(), []byte("more")})})
			if tt.connected {
				qt.Assert(t, qt.IsNil(unix.Send(a.fd, []byte("answer"), 0)))
				other := w.datagram(w.peer, netip.AddrPortFrom(tt.peer, 0), tt.proto)
				other.sendTo(at, "from another one")
				one.sendTo(at, "end")
				w.same([]message{a.next()}, []message{mapped(message{one.local(), []byte("end")})})
			} else {
				to := mapped(message{from: one.local()}).from
				a.sendTo(to, "answer")
			}
			w.same([]message{one.next()}, []message{{at, []byte("answer")}})
			qt.Assert(t, qt.IsNil(set.Close()))
		})
	}
}

// TestSharedPort moves several sockets of one port: each gets what waited in it.
func TestSharedPort(t *testing.T) {
	for name, set := range map[string]func(int){"SO_REUSEPORT": reusePort, "SO_REUSEADDR": option(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			at := netip.AddrPortFrom(app4, 5000)
			ends := []*end{w.datagram(w.app[0], at, 0, set), w.datagram(w.app[0], at, 0, set), w.datagram(w.app[0], at, 0, set)}
			for i := range 40 {
				w.datagram(w.peer, netip.AddrPortFrom(peer4, 0), 0).sendTo(at, fmt.Sprint(i))
			}
			var want [][]message
			for _, e := range ends {
				var list []message
				qt.Assert(t, qt.IsNil(unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0)))
				for b := make([]byte, 100); ; {
					n, from, err := unix.Recvfrom(e.fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
					if err != nil {
						break
					}
					list = append(list, message{addrPort(from), bytes.Clone(b[:n])})
				}
				qt.Assert(t, qt.IsNil(unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)))
				want = append(want, list)
			}
			set := w.hold(ends...)
			for range 2 {
				set = w.move(set)
			}
			total := 0
			for i, e := range w.woken(set, ends...) {
				got := e.drain()
				w.same(got, want[i])
				total += len(got)
			}
			qt.Check(t, qt.Equals(total, 40))
		})
	}
}

// TestGroups moves members of multicast groups: what waits in them, and what comes later.
func TestGroups(t *testing.T) {
	w := newWorld(t)
	group4, group6 := netip.MustParseAddrPort("239.1.2.3:5353"), netip.MustParseAddrPort("[ff02::77]:5353")
	a4 := w.datagram(w.app[0], netip.AddrPortFrom(any4, group4.Port()), 0, option(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	bound := w.datagram(w.app[0], group4, 0, option(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	a6 := w.datagram(w.app[0], netip.AddrPortFrom(any6, group6.Port()), 0, onlyIPv6)
	index := 0
	w.do(w.app[0], func() error {
		l, err := netlink.LinkByName("eth0")
		index = l.Attrs().Index
		return err
	})
	for _, e := range []*end{a4, bound} {
		qt.Assert(t, qt.IsNil(unix.SetsockoptIPMreqn(e.fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group4.Addr().As4(), Ifindex: int32(index)})))
	}
	qt.Assert(t, qt.IsNil(unix.SetsockoptIPv6Mreq(a6.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group6.Addr().As16(), Interface: uint32(index)})))
	send := func(data string) {
		w.cast(group4, peer4, data)
		w.cast(group6, peer6, data)
	}
	send("before")
	ends := []*end{a4, bound, a6}
	for _, e := range ends {
		e.wait(unix.POLLIN)
	}
	set := w.hold(ends...)
	for range 2 {
		set = w.move(set)
	}
	ends = w.woken(set, ends...)
	send("after")
	for i, e := range ends {
		for _, want := range []string{"before", "after"} {
			got := e.next()
			qt.Check(t, qt.Equals(string(got.data), want), qt.Commentf("socket %d", i))
			qt.Check(t, qt.Equals(got.from.Port(), 4000))
		}
		qt.Check(t, qt.HasLen(e.drain(), 0))
	}
}

// cast sends to a multicast group at the host of the app.
func (w *world) cast(group netip.AddrPort, from netip.Addr, data string) {
	w.t.Helper()
	at := w.datagram(w.router, netip.AddrPortFrom(from, 4000), 0, option(unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1))
	defer at.close()
	w.do(w.router, func() error {
		l, err := netlink.LinkByName(fmt.Sprintf("app%d", w.at))
		if err != nil {
			return err
		}
		if group.Addr().Is4() {
			return unix.SetsockoptIPMreqn(at.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(l.Attrs().Index)})
		}
		return unix.SetsockoptInt(at.fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, l.Attrs().Index)
	})
	at.sendTo(group, data)
}
