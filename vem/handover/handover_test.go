package handover_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// states bring a connection of the app a with a peer p into a state; after proves that
// nothing was lost.
func states() map[string]struct {
	before, after func(a, p *end)
	state         sockdiag.State // of the app's end, afterwards; 0 if there are several
} {
	return map[string]struct {
		before, after func(a, p *end)
		state         sockdiag.State
	}{
		"at rest":  {func(*end, *end) {}, over, sockdiag.Established},
		"was used": {func(a, p *end) { talk(a, p, 3) }, over, sockdiag.Established},
		"unread":   {func(a, p *end) { a.write(5000); p.write(7000) }, over, sockdiag.Established},
		"the app reads nothing": {
			func(_, p *end) { p.fill() },
			over, sockdiag.Established,
		},
		"the peer reads nothing": {
			func(a, _ *end) { a.fill() },
			over, sockdiag.Established,
		},
		"nobody reads": {
			func(a, p *end) { a.fill(); p.fill() },
			over, sockdiag.Established,
		},
		"the app has closed": {
			func(a, p *end) { a.write(10); a.finish(); a.reaches(sockdiag.FinWait2); p.write(9000) },
			func(a, p *end) {
				p.receive(a)
				p.ended()
				p.write(3000)
				a.receive(p)
				p.finish()
				a.ended()
			},
			sockdiag.FinWait2,
		},
		"the app has closed, and the peer reads nothing": {
			func(a, _ *end) { a.fill(); a.finish(); a.reaches(sockdiag.FinWait1) },
			func(a, p *end) {
				p.receive(a)
				p.ended()
				p.write(3000)
				a.receive(p)
				p.finish()
				a.ended()
			},
			0,
		},
		"the peer has closed": {
			func(a, p *end) { p.write(5000); p.finish(); a.reaches(sockdiag.CloseWait) },
			func(a, p *end) {
				a.receive(p)
				a.ended()
				pour(a, p)
				a.finish()
				p.ended()
			},
			sockdiag.CloseWait,
		},
		"the peer has closed, which the app has seen": {
			func(a, p *end) { p.write(5); p.finish(); a.receive(p); a.ended(); a.write(7000) },
			func(a, p *end) { a.ended(); pour(a, p); a.finish(); p.ended() },
			sockdiag.CloseWait,
		},
		"the peer has closed and reads nothing": {
			func(a, p *end) { p.finish(); a.reaches(sockdiag.CloseWait); a.fill() },
			func(a, p *end) { a.ended(); p.receive(a); a.finish(); p.ended() },
			sockdiag.CloseWait,
		},
		"the peer has closed, and then the app": {
			func(a, p *end) {
				p.write(100)
				p.finish()
				a.reaches(sockdiag.CloseWait)
				a.fill()
				a.finish()
				a.reaches(sockdiag.LastAck)
			},
			func(a, p *end) { a.receive(p); a.ended(); p.receive(a); p.ended() },
			0,
		},
		"both have closed at once": {
			func(a, p *end) { a.fill(); a.finish(); p.write(100); p.finish(); a.reaches(sockdiag.Closing) },
			func(a, p *end) { a.receive(p); a.ended(); p.receive(a); p.ended() },
			0,
		},
		"the app reads no more": {
			func(a, _ *end) { a.write(10); qt.Assert(a.t, qt.IsNil(unix.Shutdown(a.fd, unix.SHUT_RD))) },
			func(a, p *end) { a.ended(); a.write(10); p.receive(a) },
			sockdiag.Established,
		},
	}
}

// TestConnections moves a connection in every state, there and back.
func TestConnections(t *testing.T) {
	for name, addrs := range map[string]struct{ app, peer netip.Addr }{
		"IPv4": {app4, peer4}, "IPv6": {app6, peer6},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			port := uint16(8000)
			for state, s := range states() {
				t.Run(state, func(t *testing.T) {
					w.t = t
					port++
					at := netip.AddrPortFrom(addrs.app, port)
					l := w.listen(w.app[w.at], at)
					p, a := w.dial(w.peer, l, at)
					s.before(a, p)
					ends := []*end{l, a}
					set := w.hold(ends...)
					for range 2 {
						set = w.move(set)
						ends = w.woken(set, ends...)
						if s.state != 0 {
							qt.Check(t, qt.Equals(ends[1].state(), s.state))
						}
						for _, e := range ends {
							e.close()
						}
					}
					ends = w.woken(set, ends...)
					s.after(ends[1], p)
					p2, a2 := w.dial(w.peer, ends[0], at)
					over(a2, p2)
					qt.Assert(t, qt.IsNil(set.Close()))
				})
			}
		})
	}
}
