package handover_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// deaf has nothing get to the app, so that it does not hear of answers.
func (w *world) deaf(is bool) {
	w.t.Helper()
	w.do(w.router, func() error {
		if is {
			return toward("peer", true, app4, app6)
		}
		return toward("app"+string(rune('0'+w.at)), false, app4, app6)
	})
}

// connects has the app begin to connect, without an answer.
func (w *world) connects(to netip.AddrPort) *end {
	w.t.Helper()
	w.deaf(true)
	c := w.socket(w.app[w.at], family(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	c.key = 0x5a
	option(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)(c.fd)
	qt.Assert(w.t, qt.Equals(unix.Connect(c.fd, sockaddr(to)), error(unix.EINPROGRESS)))
	return c
}

// proceeds finds that a connection is opened.
func (w *world) proceeds(c, l *end) {
	w.t.Helper()
	c.reaches(sockdiag.Established)
	nodelay, err := unix.GetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	qt.Assert(w.t, qt.IsNil(err))
	qt.Check(w.t, qt.Equals(nodelay, 1))
	qt.Assert(w.t, qt.IsNil(unix.SetNonblock(c.fd, false)))
	a := l.accept()
	a.key = 0
	over(c, a)
}

// TestConnecting moves a connection that the app is about to open.
func TestConnecting(t *testing.T) {
	for name, to := range map[string]netip.AddrPort{"IPv4": netip.AddrPortFrom(peer4, 80), "IPv6": netip.AddrPortFrom(peer6, 80)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := w.listen(w.peer, to)
			c := w.connects(to)
			local := c.local()
			set := w.hold(c)
			w.t = t
			r, _ := w.restored(set)
			qt.Check(t, qt.Equals(w.woken(r.Set, c)[0].state(), sockdiag.Close))
			w.open()
			w.deaf(true)
			for range 2 {
				qt.Assert(t, qt.IsNil(r.Release(t.Context())))
			}
			c = w.woken(r.Set, c)[0]
			qt.Check(t, qt.Equals(c.state(), sockdiag.SynSent))
			set = w.move(r.Set)
			c = w.woken(set, c)[0]
			w.proceeds(c, l)
			qt.Check(t, qt.Equals(c.local(), local))
		})
	}
}

// TestConnectingGoesOn calls a departure off of an app that is about to open a connection.
func TestConnectingGoesOn(t *testing.T) {
	for how, back := range returns() {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			to := netip.AddrPortFrom(peer4, 80)
			l := w.listen(w.peer, to)
			c := w.connects(to)
			set := w.hold(c)
			back(w, set)
			w.deaf(false)
			w.proceeds(w.woken(set, c)[0], l)
		})
	}
}

// TestConnectedMeanwhile has a connection be opened, or refused, while the departure goes on.
func TestConnectedMeanwhile(t *testing.T) {
	w := newWorld(t)
	to := netip.AddrPortFrom(peer4, 80)
	l := w.listen(w.peer, to)
	c, refused := w.connects(to), w.connects(netip.AddrPortFrom(peer4, 81))
	ends := []*end{c, refused}
	set := w.hold(ends...)
	leaving, err := handover.Begin(t.Context(), w.app[0], set, app4, app6)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(leaving.Refused(), 0))
	w.deaf(false)
	ends = w.woken(set, ends...)
	ends[0].reaches(sockdiag.Established)
	ends[1].reaches(sockdiag.Close)
	w.shut()
	saved, err := leaving.Save(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(saved.Connections, 1))
	qt.Check(t, qt.HasLen(saved.Refused, 1))
	qt.Assert(t, qt.IsNil(set.Close()))
	for _, e := range ends {
		e.close()
	}
	w.at = 1
	r, err := handover.Restore(t.Context(), w.app[1], w.sent(saved))
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(r.Set.Close())) })
	w.open()
	qt.Assert(t, qt.IsNil(r.Release(t.Context())))
	w.proceeds(w.woken(r.Set, c)[0], l)
}
