package handover_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// inside are connections between two sockets of the app, in all states in which both have one.
func inside() map[string]struct{ before, after func(a, b *end) } {
	type steps = struct{ before, after func(a, b *end) }
	nothing := func(*end, *end) {}
	return map[string]steps{
		"at rest":      {nothing, over},
		"was used":     {func(a, b *end) { talk(a, b, 3) }, over},
		"unread":       {func(a, b *end) { a.write(7000); b.write(5) }, over},
		"nobody reads": {func(a, b *end) { a.fill(); b.fill() }, over},
		"one has closed": {
			func(a, b *end) { a.write(100); a.finish() },
			func(a, b *end) {
				b.receive(a)
				b.ended()
				b.write(3000)
				a.receive(b)
				b.finish()
				a.ended()
			},
		},
		"one has closed, and its end was read": {
			func(a, b *end) { a.finish(); b.ended(); b.fill() },
			func(a, b *end) { a.receive(b); pour(b, a); b.finish(); a.ended() },
		},
	}
}

// TestInside moves connections that lead from the app into the app.
func TestInside(t *testing.T) {
	for name, at := range map[string]netip.Addr{
		"loopback": netip.MustParseAddr("127.0.0.1"), "loopback of IPv6": netip.IPv6Loopback(), "own address": app4, "own address of IPv6": app6,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.loopback()
			port := uint16(9000)
			for state, s := range inside() {
				t.Run(state, func(t *testing.T) {
					w.t = t
					port++
					to := netip.AddrPortFrom(at, port)
					l := w.listen(w.app[w.at], to)
					a, b := w.dial(w.app[w.at], l, to)
					s.before(a, b)
					ends := []*end{l, a, b}
					set := w.hold(ends...)
					for range 2 {
						set = w.move(set)
					}
					ends = w.woken(set, ends...)
					s.after(ends[1], ends[2])
					a, b = w.dial(w.app[w.at], ends[0], to)
					over(a, b)
					qt.Assert(t, qt.IsNil(set.Close()))
				})
			}
		})
	}
}

// TestInsideMapped moves a connection of which one end is of IPv6 and the other of IPv4.
func TestInsideMapped(t *testing.T) {
	w := newWorld(t)
	w.loopback()
	l := w.listen(w.app[0], netip.AddrPortFrom(any6, 80))
	a, b := w.dial(w.app[0], l, netip.AddrPortFrom(app4, 80))
	a.write(1000)
	set := w.hold(l, a, b)
	for range 2 {
		set = w.move(set)
	}
	ends := w.woken(set, l, a, b)
	over(ends[1], ends[2])
}

// TestLeftAlone moves a connection of the app whose other end, in the app too, was closed.
func TestLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.loopback()
	to := netip.MustParseAddrPort("127.0.0.1:80")
	l := w.listen(w.app[0], to)
	a, b := w.dial(w.app[0], l, to)
	b.write(5000)
	b.close()
	a.wait(unix.POLLRDHUP)
	a = w.woken(w.move(w.hold(l, a)), l, a)[1] // not there and back: there the kernel still has the other end
	a.receive(b)
	a.ended()
	a.reaches(sockdiag.CloseWait)
	a.finish()
}
