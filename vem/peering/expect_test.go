package peering

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
)

// listens tells whether each module of a host takes packets from another one.
func (h *host) listens(to string) (list []bool) {
	h.w.t.Helper()
	for _, k := range h.kernels() {
		hosts, err := k.Open().Hosts(h.w.t.Context())
		qt.Assert(h.w.t, qt.IsNil(err))
		_, ok := hosts[to]
		list = append(list, ok)
	}
	return list
}

// A host takes packets from the one that it asks for a channel before it asks. If that one refuses
// this ends, also if it was asked several times; but not if it may have its end of the channel up.
func TestExpected(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), netip.MustParseAddr("10.77.0.66") // which b does not have any more
	a.opt.Owners = staleOwners{w, map[netip.Addr]Owner{two: {"b", 1}}}
	var asked [][]bool
	ask := func(c cutAt) error {
		w.cut = func(string, string) cutAt {
			asked = append(asked, a.listens("b"))
			return c
		}
		return a.send(t.Context(), one, two)
	}
	qt.Assert(t, qt.IsNotNil(ask(uncut)))
	qt.Check(t, qt.DeepEquals(asked, [][]bool{{true}}))
	qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{false}))
	qt.Check(t, qt.HasLen(b.channels(), 0))

	// The same while another call is under way, whose answer nobody knows yet.
	inner := false
	w.cut = func(string, string) cutAt {
		if !inner {
			inner = true
			w.mu.Unlock()
			qt.Check(t, qt.IsNotNil(a.send(t.Context(), one, two)))
			qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{true}))
			w.mu.Lock()
		}
		return uncut
	}
	qt.Assert(t, qt.IsNotNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{false}))

	// A call that was cut may have happened, whatever b says to others.
	qt.Assert(t, qt.ErrorIs(ask(after), errCut))
	qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{true}))
	qt.Assert(t, qt.IsNotNil(ask(uncut)))
	qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{true}))
}

// Whatever becomes of a call, and of the daemon that made it: the next packet has its way, and both
// hosts have the same.
func TestExpectedAndCut(t *testing.T) {
	for _, c := range []cutAt{before, after} {
		for _, dies := range []bool{false, true} {
			w, a, b := newWorldOfKinds(t)
			one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
			w.cut = func(string, string) cutAt { return c }
			qt.Assert(t, qt.ErrorIs(a.send(t.Context(), one, two), errCut))
			w.cut = nil
			qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{true, false}))
			if dies {
				a.start()
			}
			qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
			qt.Check(t, qt.Equals(a.reaches(two)+b.reaches(one), "ba"))
			w.agreed("a", "b")
		}
	}
}

// newWorldOfTwoModules has host a have channels of both modules: to c by vxlan.
func newWorldOfTwoModules(t *testing.T) (w *world, a, b *host) {
	t.Helper()
	w = newWorld(t, "a", "b", "c")
	w.runBeside()
	for name, h := range w.hosts {
		if h.makes("direct", "tunnel", "vxlan"); name == "c" {
			h.makes("vxlan")
		}
	}
	a = w.hosts["a"]
	qt.Assert(t, qt.IsNil(a.send(t.Context(), a.has("10.77.0.2", 1), w.hosts["c"].has("10.77.0.130", 1))))
	return w, a, w.hosts["b"]
}

// When the channel is up, nothing more comes by the module that did not get it; nor does a refusal
// end what the channel has.
func TestExpectedByOthers(t *testing.T) {
	for _, kind := range []string{"direct", "vxlan"} {
		w, a, b := newWorldOfTwoModules(t)
		one, two := netip.MustParseAddr("10.77.0.2"), b.has("10.77.0.66", 1)
		b.makes(kind) // which a does not know
		var asked []bool
		w.cut = func(string, string) cutAt {
			if asked == nil {
				asked = a.listens("b")
			}
			return uncut
		}
		qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
		w.mu.Lock()
		w.cut = nil
		w.mu.Unlock()
		qt.Check(t, qt.DeepEquals(asked, []bool{true, true}))
		qt.Check(t, qt.Equals(w.kind("a", "b"), kind))
		w.eventually("the other module takes nothing", func() bool {
			l := a.listens("b")
			return l[0] == (kind == "direct") && l[1] == (kind == "vxlan")
		})
		qt.Assert(t, qt.IsNil(a.net.downAll(t.Context())))
		three := netip.MustParseAddr("10.77.0.67") // which b does not have any more
		a.opt.Owners = staleOwners{w, map[netip.Addr]Owner{three: {"b", 1}}}
		qt.Assert(t, qt.IsNotNil(a.send(t.Context(), one, three)))
		qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{kind == "direct", kind == "vxlan"}))
	}
}

// A module that is not in use is not told of a host, unless it was the one before.
func TestExpectedByOne(t *testing.T) {
	w, a, b := newWorldOfKinds(t)
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	b.makes("vxlan")
	for _, want := range [][]bool{{true, false}, {true, true}} {
		var asked []bool
		w.mu.Lock()
		w.cut = func(string, string) cutAt {
			if asked == nil {
				asked = a.listens("b")
			}
			return uncut
		}
		w.mu.Unlock()
		qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
		qt.Check(t, qt.DeepEquals(asked, want))
		qt.Assert(t, qt.IsNil(a.net.downAll(t.Context())))
	}
}

// Both hosts ask each other at once, and one of them has both modules ready: in the end both have the
// same.
func TestBothExpect(t *testing.T) {
	w, a, b := newWorldOfTwoModules(t)
	one, two := netip.MustParseAddr("10.77.0.2"), b.has("10.77.0.66", 1)
	first := true
	w.cut = func(string, string) cutAt {
		if first { // a asks, and b does before a's call has come
			first = false
			w.mu.Unlock()
			qt.Check(t, qt.DeepEquals(a.listens("b"), []bool{true, true}))
			qt.Check(t, qt.IsNil(b.send(t.Context(), two, one)))
			w.mu.Lock()
		}
		return uncut
	}
	w.again(a, one, two)
	w.again(b, two, one)
	qt.Check(t, qt.Equals(a.reaches(two)+b.reaches(one), "ba"))
	for _, h := range []*host{a, b} {
		w.eventually("vxlan is left", func() bool { l := h.listens(other(h)); return l[0] && !l[1] })
	}
	w.agreed("a", "b")
}

// other is the other one of two hosts.
func other(h *host) string {
	if h.name == "a" {
		return "b"
	}
	return "a"
}
