package peering

import (
	"testing"

	"github.com/go-quicktest/qt"
)

// When a channel has come up each host has routes to all endpoints of the other; one that comes
// later is told, and what could not be told is told by the watch.
func TestIntroduce(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, other := a.has("10.77.0.2", 1), a.has("10.77.0.3", 1)
	two, more := b.has("10.77.0.66", 1), b.has("10.77.0.67", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	qt.Check(t, qt.Equals(b.reaches(one)+b.knows(other), "aa"))
	qt.Check(t, qt.Equals(a.reaches(two)+a.knows(more), "bb"))
	// What is sent there first may find others waiting in the slow path, and comes after them.
	qt.Check(t, qt.Equals(b.reaches(other)+a.reaches(more), ""))
	w.cut = func(string, string) cutAt { return before } // nobody is asked
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, more)))
	qt.Check(t, qt.Equals(a.reaches(more), "b"))
	w.cut = nil
	w.agreed("a", "b")

	late := a.has("10.77.0.4", 1)
	a.Here("default", late)
	a.Here("other", late)
	qt.Check(t, qt.Equals(b.knows(late), "a"))
	w.agreed("a", "b")

	w.cut = func(string, string) cutAt { return before }
	later := b.has("10.77.0.68", 1)
	b.Here("default", later)
	qt.Check(t, qt.Equals(a.knows(later), ""))
	w.cut = nil
	qt.Assert(t, qt.IsNil(b.Met(t.Context(), "a")))
	qt.Check(t, qt.Equals(a.knows(later), "b"))
}
