package peering

import (
	"testing"

	"github.com/go-quicktest/qt"
)

// Channels are taken down by hand, on both hosts, and are still known; the next packet brings them
// up again.
func TestTakeDown(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b, c := w.hosts["a"], w.hosts["b"], w.hosts["c"]
	one, two, three := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1), c.has("10.77.0.130", 1)
	w.oneLink = true
	up := func(h *host) (names string) {
		list, err := h.Channels(t.Context())
		qt.Assert(t, qt.IsNil(err))
		for _, s := range list {
			names += s.Host
		}
		return names
	}
	all, err := a.Known(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(all, 0))
	for range 2 {
		qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
		qt.Assert(t, qt.IsNil(a.send(t.Context(), one, three)))
		qt.Check(t, qt.Equals(up(a), "bc"))
		taken, err := a.TakeDown(t.Context(), "default", "b")
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(taken, 1))
		qt.Check(t, qt.Equals(taken[0].Host, "b"))
		qt.Check(t, qt.IsFalse(taken[0].Up))
		qt.Check(t, qt.Equals(up(a), "c"))
		qt.Check(t, qt.Equals(up(b), ""))
		qt.Check(t, qt.Equals(a.reaches(two), ""))
		all, err := a.Known(t.Context())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(all, 2))
		qt.Check(t, qt.IsTrue(!all[0].Up && all[1].Up && !all[0].Since.IsZero()))
		qt.Check(t, qt.Equals(all[0].Channel.Module, "direct"))
		qt.Check(t, qt.HasLen(all[0].Routes, 0))
		taken, err = a.TakeDown(t.Context(), "", "")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.HasLen(taken, 1))
		qt.Check(t, qt.Equals(up(a)+up(b)+up(c), ""))
	}
	taken, err := a.TakeDown(t.Context(), "other", "")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(taken, 0))
}
