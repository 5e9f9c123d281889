package peering

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
)

// An address that nobody reaches any more is left, by all routes at once, and taken again when
// that is wanted.
func TestRefit(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	for i, h := range []*host{a, b} {
		h.more = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})}
		h.start()
	}
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(a.channels()["b"].Host.Remote, b.underlay))
	stay := func(now Way) Way { return now }
	qt.Assert(t, qt.IsNil(a.Refit(t.Context(), "b", stay)))
	qt.Check(t, qt.Equals(a.channels()["b"].Host.Remote, b.underlay)) // all is well
	first, next := Way{a.underlay, b.underlay}, Way{a.more[0], b.more[0]}
	qt.Check(t, qt.DeepEquals(a.Ways("b"), map[Way]bool{first: true}))
	take := func(want Way) func(Way) Way { return func(Way) Way { return want } }
	changes := a.changes.Load()
	qt.Assert(t, qt.IsNil(a.Refit(t.Context(), "b", take(next)))) // one of them says so
	qt.Check(t, qt.Equals(a.changes.Load(), changes+1))
	qt.Check(t, qt.DeepEquals(a.Ways("b"), map[Way]bool{next: true}))
	qt.Check(t, qt.DeepEquals(b.Ways("a"), map[Way]bool{{b.more[0], a.more[0]}: true}))
	qt.Check(t, qt.Equals(a.channels()["b"].Host.Remote, b.more[0]))
	qt.Check(t, qt.Equals(b.channels()["a"].Host.Remote, a.more[0]))
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	qt.Check(t, qt.Equals(b.reaches(one), "a"))
	w.agreed("a", "b")
	w.broken = map[netip.Addr]bool{a.underlay: true}
	qt.Assert(t, qt.IsNil(b.Refit(t.Context(), "a", take(Way{b.underlay, a.underlay})))) // a does not agree
	qt.Check(t, qt.Equals(b.channels()["a"].Host.Remote, a.more[0]))
	w.agreed("a", "b")
	w.broken = nil
	qt.Assert(t, qt.IsNil(b.Refit(t.Context(), "a", take(Way{b.underlay, a.underlay}))))
	qt.Check(t, qt.Equals(a.channels()["b"].Host.Remote, b.underlay))
	qt.Check(t, qt.Equals(b.channels()["a"].Host.Remote, a.underlay))
	w.agreed("a", "b")
	w.cut = func(string, string) cutAt { return after }
	qt.Check(t, qt.ErrorMatches(a.Refit(t.Context(), "b", take(next)), "have the channel to host b in network default go from .*"))
	w.cut = nil
	qt.Check(t, qt.Equals(a.channels()["b"].Host.Remote, b.underlay)) // it happened on the other side
	qt.Check(t, qt.Equals(b.channels()["a"].Host.Remote, a.more[0]))
	qt.Check(t, qt.IsNil(a.Refit(t.Context(), "b", take(next)))) // and again
	w.agreed("a", "b")
	qt.Assert(t, qt.IsNil(a.Refit(t.Context(), "c", take(next))))
}

// A channel carries what its way does.
func TestResize(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	a.mtu = 1450
	qt.Assert(t, qt.IsNil(a.Resize(t.Context(), "b")))
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(a.channels()["b"].Host.MTU, 1450))
	qt.Check(t, qt.Equals(b.channels()["a"].Host.MTU, 0))
	for _, mtu := range []int{1400, 1400, 0, 1500} {
		a.mtu = mtu
		qt.Assert(t, qt.IsNil(a.Resize(t.Context(), "b")))
		qt.Check(t, qt.Equals(a.channels()["b"].Host.MTU, mtu))
	}
	a.mtu = 1000
	qt.Check(t, qt.ErrorIs(a.Resize(t.Context(), "b"), channel.ErrMTU))
	qt.Check(t, qt.Equals(a.channels()["b"].Host.MTU, 1500))
}
