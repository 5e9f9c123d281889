package peering

import (
	"testing"

	"github.com/go-quicktest/qt"
)

// A process that is started anew learns who has what from the directory. A route that an earlier one
// had stays open meanwhile: nothing that takes it has to wait, unless another host has the endpoint.
func TestAdoptedRoutes(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 1), b.has("10.77.0.66", 1)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	a.start()
	for _, epoch := range []uint64{1, 1, 3} { // the last one: it has been elsewhere meanwhile
		qt.Assert(t, qt.IsNil(a.Moved(t.Context(), "default", two, Owner{"b", epoch})))
		qt.Check(t, qt.Equals(a.reaches(two), "b"))
		qt.Check(t, qt.HasLen(a.gone, 0)) // nothing is asked for anew
	}
	qt.Assert(t, qt.IsNil(a.Moved(t.Context(), "default", two, Owner{"c", 2}))) // old news
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	qt.Assert(t, qt.IsNil(a.Moved(t.Context(), "default", two, Owner{"c", 4})))
	qt.Check(t, qt.Equals(a.reaches(two), ""))
	qt.Check(t, qt.HasLen(a.gone, 1))
}

// What the directory says of an endpoint is what both hosts have in their tables afterwards.
func TestAdoptedEpochs(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	one, two := a.has("10.77.0.2", 2), b.has("10.77.0.66", 5)
	qt.Assert(t, qt.IsNil(a.send(t.Context(), one, two)))
	a.start()
	qt.Assert(t, qt.IsNil(a.Moved(t.Context(), "default", two, Owner{"b", 5})))
	qt.Assert(t, qt.IsNil(a.Met(t.Context(), "b")))
	qt.Check(t, qt.Equals(a.reaches(two), "b"))
	w.agreed("a", "b")
}
