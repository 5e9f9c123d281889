package tcprepair_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// States of include/net/tcp_states.h.
const (
	established = 1
	finWait1    = 4
	finWait2    = 5
	closeWait   = 8
	lastAck     = 9
	closing     = 11
)

var local = netip.MustParseAddr("127.0.0.1")

// states bring a connection into a state, and prove afterwards, of the original and
// of each copy, that nothing was lost.
func states() map[string]struct {
	before, after func(p pair)
	state         [2]int
} {
	all := func(p pair) {
		for i := range p {
			p[i].receive(p[1-i].wrote - p[i].read)
		}
	}
	return map[string]struct {
		before, after func(p pair)
		state         [2]int // of a copy, if there is but one that it can be in
	}{
		"at rest":  {func(pair) {}, pair.goesOn, [2]int{established, established}},
		"was used": {func(p pair) { p[0].write(5000); p[1].write(100); p[1].receive(5000); p[0].receive(100) }, pair.goesOn, [2]int{established, established}},
		"unread":   {func(p pair) { p[0].write(5000); p[1].write(7); p[1].receive(1234) }, pair.goesOn, [2]int{established, established}},
		"full both ways": {
			func(p pair) { p[0].fill(); p[1].fill() },
			pair.goesOn,
			[2]int{established, established},
		},
		"full one way, partly read": {
			func(p pair) { p[0].fill(); p[1].receive(p[0].wrote / 3) },
			pair.goesOn,
			[2]int{established, established},
		},
		"FIN_WAIT2 and CLOSE_WAIT": {
			func(p pair) { p[0].write(10); p[0].finish(); p[1].inState(closeWait); p[0].inState(finWait2) },
			func(p pair) {
				all(p)
				p[1].ended()
				p[1].write(3000)
				p[0].receive(3000)
				p[1].finish()
				p[0].ended()
			},
			[2]int{finWait2, closeWait},
		},
		"FIN_WAIT2 and CLOSE_WAIT, seen": {
			func(p pair) {
				p[0].finish()
				p[1].inState(closeWait)
				p[0].inState(finWait2)
				p[1].ended()
				p[1].fill()
			},
			func(p pair) { p[1].ended(); all(p); p[1].finish(); p[0].ended() },
			[2]int{finWait2, closeWait},
		},
		"FIN_WAIT1": {
			func(p pair) { p[0].fill(); p[0].finish(); p[0].inState(finWait1) },
			func(p pair) {
				all(p)
				p[1].ended()
				p[1].write(3000)
				p[0].receive(3000)
				p[1].finish()
				p[0].ended()
			},
			[2]int{}, // the copy may have room for all of it
		},
		"CLOSING and LAST_ACK are on their way": {
			func(p pair) { p[0].fill(); p[1].fill(); p[0].finish(); p[1].finish() },
			func(p pair) { all(p); p[0].ended(); p[1].ended() },
			[2]int{},
		},
		"LAST_ACK": {
			func(p pair) {
				p[1].fill()
				p[0].finish()
				p[1].inState(closeWait)
				p[1].finish()
				p[1].inState(lastAck)
			},
			func(p pair) { p[1].ended(); all(p); p[0].ended() },
			[2]int{},
		},
		"CLOSING": {
			func(p pair) { p[1].fill(); p[1].finish(); p[1].inState(finWait1); p[0].finish(); p[1].inState(closing) },
			func(p pair) { p[1].ended(); all(p); p[0].ended() },
			[2]int{},
		},
		"reads no more": {
			func(p pair) { p[0].write(10); qt.Assert(p[0].t, qt.IsNil(unix.Shutdown(p[1].fd, unix.SHUT_RD))) },
			func(p pair) {
				p[1].receive(10)
				p[1].ended()
				p[1].write(10)
				p[0].receive(10)
			},
			[2]int{established, established},
		},
	}
}

// kinds of connections, by the addresses and what both ends set before they connect.
func kinds() map[string]struct {
	addr    netip.Addr
	sysctls []string
	set     func(fd int)
} {
	mapped := netip.MustParseAddr("::ffff:127.0.0.1")
	small := func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16384)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 16384)
	}
	large := func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	}
	return map[string]struct {
		addr    netip.Addr
		sysctls []string
		set     func(fd int)
	}{
		"loopback":               {addr: local},
		"own address":            {addr: own},
		"IPv6":                   {addr: netip.IPv6Loopback()},
		"IPv4 in IPv6":           {addr: mapped},
		"small buffers":          {addr: local, set: small},
		"large buffers":          {addr: local, set: large},
		"no scaling":             {addr: local, sysctls: []string{"ipv4/tcp_window_scaling", "0"}},
		"no timestamps, no SACK": {addr: local, sysctls: []string{"ipv4/tcp_timestamps", "0", "ipv4/tcp_sack", "0"}},
		"nothing agreed": {addr: local, sysctls: []string{
			"ipv4/tcp_timestamps", "0", "ipv4/tcp_sack", "0", "ipv4/tcp_window_scaling", "0",
		}},
	}
}

// TestConnectionGoesOn saves a connection of every kind in every state. The original goes
// on, and so do a copy and the copy of that.
func TestConnectionGoesOn(t *testing.T) {
	for kind, k := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for name, s := range states() {
				t.Run(name, func(t *testing.T) {
					var set []func(int)
					if k.set != nil {
						set = append(set, k.set)
					}
					p := newWorld(t, k.sysctls...).pair(k.addr, set...)
					s.before(p)
					saved := save(t, p)
					copied := newWorld(t, k.sysctls...).restore(saved, p)
					for i, want := range s.state {
						if want != 0 {
							copied[i].inState(want)
						}
					}
					again := newWorld(t).restore(save(t, copied), copied)
					s.after(p)
					s.after(copied)
					s.after(again)
				})
			}
		})
	}
}

// TestSavingChangesNothing compares what the kernel tells of the original's ends.
func TestSavingChangesNothing(t *testing.T) {
	w := newWorld(t)
	p := w.pair(local)
	p[0].fill()
	p[1].write(100)
	for i := range p {
		qt.Assert(t, qt.IsNil(unix.SetsockoptInt(p[i].fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, i)))
	}
	type seen struct{ Segments, Reuse, Repair, Unsent int }
	look := func() (all [2]seen) {
		for i := range p {
			info, err := unix.GetsockoptTCPInfo(p[i].fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			qt.Assert(t, qt.IsNil(err))
			reuse, err := unix.GetsockoptInt(p[i].fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
			qt.Assert(t, qt.IsNil(err))
			repair, err := unix.GetsockoptInt(p[i].fd, unix.IPPROTO_TCP, unix.TCP_REPAIR)
			qt.Assert(t, qt.IsNil(err))
			all[i] = seen{int(info.Segs_out), reuse, repair, int(info.Notsent_bytes)}
		}
		return all
	}
	before := look()
	qt.Assert(t, qt.IsTrue(before[0].Unsent > 0))
	save(t, p)
	// A probe of the closed window may be due at any moment; saving sends nothing itself.
	after := look()
	qt.Check(t, qt.IsTrue(after[0].Segments-before[0].Segments <= 1))
	for i := range p {
		before[i].Segments, after[i].Segments = 0, 0
	}
	qt.Check(t, qt.Equals(after, before))
	p.goesOn()
}

// TestOtherEndClosed keeps one end whose other one was closed, with what that had sent.
func TestOtherEndClosed(t *testing.T) {
	for _, addr := range []netip.Addr{local, netip.IPv6Loopback(), netip.MustParseAddr("::ffff:10.99.0.1")} {
		p := newWorld(t).pair(addr)
		p[1].write(4321)
		p[1].close()
		p[0].inState(closeWait)
		saved := save(t, pair{p[0], nil})
		copied := newWorld(t).restore(saved, p)
		qt.Assert(t, qt.IsNil(copied[1]))
		for _, e := range []*end{p[0], copied[0]} {
			e.inState(closeWait)
			e.receive(4321)
			e.ended()
			e.write(1)
			e.wait(unix.POLLERR) // as with the other end, which nobody has
		}
	}
}

// TestListenerBesides binds a listener to the port of restored ends, as CRIU does.
func TestListenerBesides(t *testing.T) {
	p := newWorld(t).pair(local)
	saved := save(t, p)
	w := newWorld(t)
	w.do(func() error {
		r, err := saved.Restore()
		qt.Assert(t, qt.IsNil(err))
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		qt.Assert(t, qt.IsNil(err))
		defer unix.Close(l)
		name, err := unix.Getsockname(p[1].fd)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)))
		qt.Assert(t, qt.IsNil(unix.Bind(l, name)))
		qt.Assert(t, qt.IsNil(unix.Listen(l, 5)))
		return r.Close()
	})
}

// TestManyPairs saves and restores a thousand connections.
func TestManyPairs(t *testing.T) {
	all := newWorld(t).pairs(1000, local)
	w := newWorld(t)
	var copies []pair
	for i, p := range all {
		p[0].write(i)
		p[1].write(1000 - i)
		copies = append(copies, w.restore(save(t, p), p))
	}
	for i := range all {
		for _, p := range []pair{all[i], copies[i]} {
			p.talk(2)
			p.end()
		}
	}
}

// TestBusyConnection saves a connection while the kernel still delivers.
//
// What waited in the original must not count as sent when it is not: it never waits for a
// timeout for long, even without the options that help with losses.
func TestBusyConnection(t *testing.T) {
	for kind, sysctls := range map[string][]string{
		"usual":                  nil,
		"no timestamps, no SACK": kinds()["no timestamps, no SACK"].sysctls,
	} {
		for n := range 25 {
			t.Run(fmt.Sprint(kind, n), func(t *testing.T) {
				t.Parallel()
				p := newWorld(t, sysctls...).pair(own)
				p[0].fill()
				p[1].fill()
				p[1].receive(p[0].wrote / 2) // the window opens, and much is sent
				saved := save(t, p)
				copied := newWorld(t, sysctls...).restore(saved, p)
				p.goesOn()
				copied.goesOn()
			})
		}
	}
}

// TestSavedDataIsSent has the other end acknowledge a window of data while the first one
// is saved, which must not make what waits behind count as sent.
func TestSavedDataIsSent(t *testing.T) {
	for range 20 {
		p := newWorld(t).pair(local)
		p[0].fill()
		save(t, p)
		info := p[0].info()
		// What left is in segments of at most one window; all the rest waits.
		qt.Check(t, qt.IsTrue(int(info.Unacked)*int(info.Snd_mss) <= 2*int(info.Snd_wnd)+int(info.Snd_mss)),
			qt.Commentf("%d segments of %d bytes on their way, in a window of %d", info.Unacked, info.Snd_mss, info.Snd_wnd))
		p.goesOn()
	}
}
