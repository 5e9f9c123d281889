package tcprepair_test

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// TestOptionsComeBack compares the options of a copy with those that were set.
func TestOptionsComeBack(t *testing.T) {
	set := []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 7},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 12345},
		{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 54321},
		{unix.IPPROTO_TCP, unix.TCP_SYNCNT, 3},
		{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, 12345},
		{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1},
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.SOL_SOCKET, unix.SO_MARK, 9},
		{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 3},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1},
		{unix.IPPROTO_IP, unix.IP_TOS, 0x10},
		{unix.SOL_SOCKET, unix.SO_PRIORITY, 3},
		{unix.IPPROTO_IP, unix.IP_TTL, 33},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_TCP, unix.TCP_CORK, 1},
	}
	p := newWorld(t).pair(local)
	fd := p[0].fd
	for _, o := range set {
		qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, o.level, o.name, o.value)))
	}
	linger := unix.Linger{Onoff: 1, Linger: 5}
	timeout := unix.Timeval{Sec: 3, Usec: 500000}
	qt.Assert(t, qt.IsNil(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger)))
	qt.Assert(t, qt.IsNil(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)))
	qt.Assert(t, qt.IsNil(unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")))
	qt.Assert(t, qt.IsNil(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 30_000)))
	qt.Assert(t, qt.IsNil(unix.SetNonblock(fd, true)))
	qt.Assert(t, qt.IsNil(unix.Fchown(fd, 33, 34)))

	saved := save(t, p)
	copied := newWorld(t).restore(saved, p)
	again := save(t, copied)
	for i := range saved.Ends {
		qt.Check(t, qt.DeepEquals(again.Ends[i].Options, saved.Ends[i].Options))
	}
	for _, o := range set {
		got, err := unix.GetsockoptInt(copied[0].fd, o.level, o.name)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(got, o.value), qt.Commentf("option %d of level %d", o.name, o.level))
	}
}

// TestSegmentSizeComesBack compares the segment size of a copy, and of a copy of that, with
// the original's: a restored socket starts with 536 bytes, whatever the path takes.
func TestSegmentSizeComesBack(t *testing.T) {
	for kind, k := range kinds() {
		t.Run(kind, func(t *testing.T) {
			var set []func(int)
			if k.set != nil {
				set = append(set, k.set)
			}
			p := newWorld(t, k.sysctls...).pair(k.addr, set...)
			p[0].write(5000)
			p[1].receive(5000)
			p[1].write(5000)
			p[0].receive(5000)
			copied := newWorld(t, k.sysctls...).restore(save(t, p), p)
			again := newWorld(t, k.sysctls...).restore(save(t, copied), copied)
			for i := range p {
				want := p[i].segment()
				qt.Assert(t, qt.IsTrue(want > 536), qt.Commentf("%d", want))
				// The original may not have taken notice yet that the window has grown.
				qt.Check(t, qt.IsTrue(copied[i].segment() >= want), qt.Commentf("%d, had %d", copied[i].segment(), want))
				qt.Check(t, qt.Equals(again[i].segment(), copied[i].segment()))
			}
			copied.goesOn()
		})
	}
}

// TestRoundTripIsKnown finds that a copy has measured how long answers take, before it has
// anything to send, and so does not wait 3 s for what is lost.
func TestRoundTripIsKnown(t *testing.T) {
	for kind, k := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var set []func(int)
			if k.set != nil {
				set = append(set, k.set)
			}
			p := newWorld(t, k.sysctls...).pair(k.addr, set...)
			qt.Assert(t, qt.IsNil(unix.SetsockoptInt(p[0].fd, unix.IPPROTO_TCP, unix.TCP_CORK, 1)))
			p[0].write(100)
			w := newWorld(t, k.sysctls...)
			copied := w.restore(save(t, p), p)
			for i := range copied {
				copied[i].measured()
			}
			// One that is full, and one that takes no more than is unsent.
			p = w.pair(k.addr, set...)
			qt.Assert(t, qt.IsNil(unix.SetsockoptInt(p[0].fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 1<<15)))
			p[0].fill()
			p[1].fill()
			copied = newWorld(t, k.sysctls...).restore(save(t, p), p)
			for i := range copied {
				copied[i].measured()
			}
			p.goesOn()
			copied.goesOn()
		})
	}
}
