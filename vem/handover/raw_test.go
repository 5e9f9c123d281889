package handover_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// allowPing lets everybody have ping sockets.
func (w *world) allowPing() {
	w.t.Helper()
	for _, ns := range []*netns.NS{w.peer, w.app[0], w.app[1]} {
		w.do(ns, func() error { return netns.WriteSysctl("ipv4/ping_group_range", "0 1000") })
	}
}

// echo is a request that a ping socket sends: the kernel fills in the rest.
func echo(a netip.Addr, data string) string {
	kind := byte(8)
	if a.Is6() {
		kind = 128
	}
	return string([]byte{kind, 0, 0, 0, 0, 0, 0, 1}) + data
}

// TestPings moves ping sockets in which answers wait.
func TestPings(t *testing.T) {
	for name, tt := range map[string]struct {
		app, peer netip.Addr
		proto     int
		connected bool
	}{
		"IPv4":            {app4, peer4, unix.IPPROTO_ICMP, false},
		"IPv6":            {app6, peer6, unix.IPPROTO_ICMPV6, false},
		"IPv4, connected": {app4, peer4, unix.IPPROTO_ICMP, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.allowPing()
			peer := netip.AddrPortFrom(tt.peer, 0)
			e := w.datagram(w.app[0], netip.AddrPortFrom(tt.app, 99), tt.proto)
			if tt.connected {
				qt.Assert(t, qt.IsNil(unix.Connect(e.fd, sockaddr(peer))))
			}
			for _, data := range []string{"one", "two", "three"} {
				e.sendTo(peer, echo(tt.app, data))
				e.wait(unix.POLLIN)
			}
			set := w.hold(e)
			for range 2 {
				set = w.move(set)
			}
			e = w.woken(set, e)[0]
			e.sendTo(peer, echo(tt.app, "four"))
			for _, data := range []string{"one", "two", "three", "four"} {
				got := e.next()
				qt.Check(t, qt.Equals(string(got.data[8:]), data))
				qt.Check(t, qt.Equals(got.from, peer))
			}
			qt.Check(t, qt.HasLen(e.drain(), 0))
		})
	}
}

// TestRaw moves raw sockets in which packets wait.
func TestRaw(t *testing.T) {
	for name, tt := range map[string]struct {
		app, peer          netip.Addr
		connected, headers bool
	}{
		"IPv4":               {app4, peer4, false, false},
		"IPv4, connected":    {app4, peer4, true, false},
		"IPv4, with headers": {app4, peer4, false, true},
		"IPv6":               {app6, peer6, false, false},
		"IPv6, connected":    {app6, peer6, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			const proto = 253 // for experiments, RFC 3692
			peer, at := netip.AddrPortFrom(tt.peer, 0), netip.AddrPortFrom(tt.app, 0)
			e := w.socket(w.app[0], family(tt.app), unix.SOCK_RAW, proto)
			if tt.headers {
				qt.Assert(t, qt.IsNil(unix.SetsockoptInt(e.fd, unix.IPPROTO_IP, unix.IP_HDRINCL, 1)))
			}
			if tt.connected {
				qt.Assert(t, qt.IsNil(unix.Bind(e.fd, sockaddr(at))))
				qt.Assert(t, qt.IsNil(unix.Connect(e.fd, sockaddr(peer))))
			}
			p := w.socket(w.peer, family(tt.peer), unix.SOCK_RAW, proto)
			list := []string{"first", string(numbered(3, 0, 1300)), "", "last"}
			for _, data := range list {
				p.sendTo(at, data)
			}
			e.wait(unix.POLLIN)
			first := make([]byte, 100)
			n, _, err := unix.Recvfrom(e.fd, first, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			qt.Assert(t, qt.IsNil(err))
			set := w.hold(e)
			for range 2 {
				set = w.move(set)
			}
			e = w.woken(set, e)[0]
			p.sendTo(at, "more")
			e.wait(unix.POLLIN)
			var got []message
			for len(got) <= len(list) {
				got = append(got, e.next())
			}
			qt.Check(t, qt.DeepEquals(got[0].data, first[:n]))
			for i, data := range append(slices.Clone(list), "more") {
				payload := got[i].data
				if tt.app.Is4() {
					payload = payload[20:]
				}
				qt.Check(t, qt.Equals(string(payload), data), qt.Commentf("packet %d", i))
				qt.Check(t, qt.Equals(got[i].from.Addr(), tt.peer))
			}
			qt.Check(t, qt.HasLen(e.drain(), 0))
		})
	}
}

// TestFilters moves sockets with a packet filter, which goes on to filter.
func TestFilters(t *testing.T) {
	for name, lock := range map[string]bool{"a filter": false, "a locked filter": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			at := netip.AddrPortFrom(app4, 5000)
			e := w.datagram(w.app[0], at, 0)
			// What begins with "n" is dropped. The header has 8 bytes.
			prog := []unix.SockFilter{
				{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 8},
				{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 'n', Jf: 1},
				{Code: unix.BPF_RET | unix.BPF_K, K: 0},
				{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
			}
			qt.Assert(t, qt.IsNil(unix.SetsockoptSockFprog(e.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})))
			if lock {
				qt.Assert(t, qt.IsNil(unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1)))
			}
			p := w.datagram(w.peer, netip.AddrPortFrom(peer4, 4000), 0)
			send := func(list ...string) {
				for _, data := range list {
					p.sendTo(at, data)
				}
			}
			send("yes", "no", "yes again")
			set := w.hold(e)
			for range 2 {
				set = w.move(set)
			}
			e = w.woken(set, e)[0]
			send("never", "end")
			for _, want := range []string{"yes", "yes again", "end"} {
				qt.Check(t, qt.Equals(string(e.next().data), want))
			}
			locked, err := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(locked != 0, lock))
		})
	}
}

// TestShutDown moves sockets for datagrams that were shut down.
func TestShutDown(t *testing.T) {
	for name, how := range map[string]int{"receiving": unix.SHUT_RD, "both": unix.SHUT_RDWR} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			at := netip.AddrPortFrom(app4, 5000)
			e := w.datagram(w.app[0], at, 0)
			p := w.datagram(w.peer, netip.AddrPortFrom(peer4, 4000), 0)
			qt.Assert(t, qt.IsNil(unix.Connect(e.fd, sockaddr(p.local()))))
			p.sendTo(at, "waits")
			e.wait(unix.POLLIN)
			qt.Assert(t, qt.IsNil(unix.Shutdown(e.fd, how)))
			set := w.hold(e)
			for range 2 {
				set = w.move(set)
			}
			e = w.woken(set, e)[0]
			qt.Check(t, qt.Equals(string(e.next().data), "waits"))
			fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLRDHUP}}
			_, err := unix.Poll(fds, 0)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(fds[0].Revents&unix.POLLRDHUP, unix.POLLRDHUP))
			_, err = unix.SendmsgN(e.fd, []byte("x"), nil, nil, unix.MSG_NOSIGNAL)
			if how == unix.SHUT_RD {
				qt.Check(t, qt.IsNil(err))
			} else {
				qt.Check(t, qt.Equals(err, error(unix.EPIPE)))
			}
		})
	}
}

// TestErrors moves a socket that was told that nobody listens, which it has not read. It may
// not hear that any more, but has what waited in it.
func TestErrors(t *testing.T) {
	for name, set := range map[string]func(int){"an error": func(int) {}, "a notification": option(unix.IPPROTO_IP, unix.IP_RECVERR, 1)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			at := netip.AddrPortFrom(app4, 5000)
			p := w.datagram(w.peer, netip.AddrPortFrom(peer4, 4000), 0)
			e := w.datagram(w.app[0], at, 0, set)
			qt.Assert(t, qt.IsNil(unix.Connect(e.fd, sockaddr(p.local()))))
			p.sendTo(at, "waits")
			e.wait(unix.POLLIN)
			p.close()
			qt.Assert(t, qt.IsNil(unix.Send(e.fd, []byte("to nobody"), 0)))
			e.wait(unix.POLLERR)
			s := w.move(w.hold(e))
			e = w.woken(s, e)[0]
			qt.Check(t, qt.Equals(string(e.next().data), "waits"))
		})
	}
}
