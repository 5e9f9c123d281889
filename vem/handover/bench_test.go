package handover_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/hold"
)

// BenchmarkMove moves 1000 sockets to and fro, and tells how long each part of it takes. Only
// begin passes while the gate is open.
func BenchmarkMove(b *testing.B) {
	const many = 1000
	to := netip.AddrPortFrom(app4, 80)
	for name, sockets := range map[string]func(w *world) *hold.Set{
		"connections": func(w *world) *hold.Set {
			l := w.listen(w.app[0], to)
			ends := []*end{l}
			for range many {
				_, a := w.dial(w.peer, l, to)
				ends = append(ends, a)
			}
			return w.hold(ends...)
		},
		"waiting": func(w *world) *hold.Set {
			set := w.hold(w.listen(w.app[0], to))
			for range many {
				w.visit(to).write(100)
			}
			return set
		},
		"datagrams": func(w *world) *hold.Set { // in one socket
			a, p := w.datagram(w.app[0], to, 0), w.datagram(w.peer, netip.AddrPortFrom(peer4, 0), 0)
			set := w.hold(a)
			for range many {
				p.sendTo(to, "a datagram")
			}
			return set
		},
		"listeners": func(w *world) *hold.Set {
			var ends []*end
			for i := range many {
				ends = append(ends, w.listen(w.app[0], netip.AddrPortFrom(app4, uint16(2000+i))))
			}
			return w.hold(ends...)
		},
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			set := sockets(w)
			var spent [5]time.Duration
			for b.Loop() {
				set = w.timed(set, &spent)
			}
			for i, part := range []string{"begin", "save", "encode", "restore", "release"} {
				b.ReportMetric(float64(spent[i].Microseconds())/1000/float64(b.N), part+"-ms")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// timed is move.
func (w *world) timed(set *hold.Set, spent *[5]time.Duration) *hold.Set {
	w.t.Helper()
	ctx := w.t.Context()
	last := time.Now()
	part := func(i int) {
		if i >= 0 {
			spent[i] += time.Since(last)
		}
		last = time.Now()
	}
	l, err := handover.Begin(ctx, w.app[w.at], set, app4, app6)
	qt.Assert(w.t, qt.IsNil(err))
	part(0)
	qt.Assert(w.t, qt.IsNil(l.Still(ctx)))
	w.shut()
	part(-1)
	saved, err := l.Save(ctx)
	qt.Assert(w.t, qt.IsNil(err))
	part(1)
	got := w.sent(saved)
	part(2)
	qt.Assert(w.t, qt.IsNil(set.Close()))
	w.at = 1 - w.at
	part(-1)
	r, err := handover.Restore(ctx, w.app[w.at], got)
	qt.Assert(w.t, qt.IsNil(err))
	part(3)
	qt.Assert(w.t, qt.HasLen(r.Problems, 0))
	w.open()
	part(-1)
	qt.Assert(w.t, qt.IsNil(r.Release(ctx)))
	part(4)
	return r.Set
}
