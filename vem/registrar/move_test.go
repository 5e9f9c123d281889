package registrar

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
)

// moving has host a own an endpoint that is about to move to host b.
func moving(t *testing.T) (a, b *site, web Endpoint, there directory.Endpoint, store *memory.Server) {
	t.Helper()
	store, web = memory.New(), app("web", "10.77.0.7")
	a, b = newSite(t, store, "a"), newSite(t, store, "b")
	a.vem.put(web)
	a.work(t)
	b.work(t)
	there, err := a.Depart(t.Context(), web.Spot(), "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(a.allowed(web))) // it goes on
	qt.Assert(t, qt.IsNil(b.Expect(t.Context(), there)))
	return a, b, web, there, store
}

func (h *site) arrived(t *testing.T, e Endpoint) directory.Standing {
	t.Helper()
	s, err := h.Arrived(t.Context(), e.Spot())
	qt.Assert(t, qt.IsNil(err))
	return s
}

func TestMove(t *testing.T) {
	a, b, web, _, _ := moving(t)
	qt.Check(t, qt.Equals(b.arrived(t, web), directory.Pending))
	b.vem.waiting = []Endpoint{web} // its app is being made
	b.work(t)
	qt.Check(t, qt.IsFalse(b.allowed(web)))
	qt.Assert(t, qt.IsNil(a.GiveAway(t.Context(), web.Spot(), "b")))
	qt.Check(t, qt.IsFalse(a.allowed(web)))
	qt.Check(t, qt.Equals(b.arrived(t, web), directory.Owner))
	qt.Check(t, qt.IsTrue(b.allowed(web)))
	gone, err := a.Stay(t.Context(), web.Spot(), directory.Running)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(gone))
	a.vem.put()
	b.vem.waiting = nil
	b.vem.put(web)
	a.work(t)
	b.work(t)
	e := b.endpointOf(t, web)
	qt.Check(t, qt.Equals(e.Owner, "b"))
	qt.Check(t, qt.Equals(e.Epoch, 2))

	// And back.
	there, err := b.Depart(t.Context(), web.Spot(), "a")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(a.Expect(t.Context(), there)))
	qt.Assert(t, qt.IsNil(b.GiveAway(t.Context(), web.Spot(), "a")))
	qt.Check(t, qt.Equals(a.arrived(t, web), directory.Owner))
	b.vem.put()
	a.vem.put(web)
	b.work(t)
	// It is released when its app is removed.
	a.vem.put()
	a.work(t)
	_, err = a.opt.Directory.Lookup(t.Context(), "default", web.Addr4)
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
	b.known(t)
	b.work(t)
	_, known := b.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.IsFalse(known))
}

// The endpoint of a stopped app, which the directory does not know, is claimed to move, and stays the target's as long
// as the app is there.
func TestMoveOfOneThatIsNotThere(t *testing.T) {
	store, web := memory.New(), app("web", "10.77.0.7")
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	qt.Check(t, qt.ErrorIs(a.Keep(t.Context(), web.Spot(), web.App), directory.ErrUnavailable))
	a.work(t)
	b.work(t)
	a.vem.waiting = []Endpoint{web}
	for range 2 {
		qt.Assert(t, qt.IsNil(a.Keep(t.Context(), web.Spot(), web.App)))
		a.work(t)
	}
	there, err := a.Depart(t.Context(), web.Spot(), "b")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(b.Expect(t.Context(), there)))
	b.vem.waiting = []Endpoint{web}
	qt.Assert(t, qt.IsNil(a.GiveAway(t.Context(), web.Spot(), "b")))
	qt.Check(t, qt.Equals(b.arrived(t, web), directory.Owner))
	gone, err := a.Stay(t.Context(), web.Spot(), directory.Held)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(gone))
	a.vem.waiting = nil
	for range 2 {
		a.work(t)
		b.work(t)
	}
	qt.Check(t, qt.Equals(b.endpointOf(t, web).Owner, "b"))

	// What another host has got meanwhile can't move.
	taken := app("other", "10.77.0.7")
	a.vem.waiting = []Endpoint{taken}
	var there2 *directory.TakenError
	qt.Check(t, qt.ErrorAs(a.Keep(t.Context(), taken.Spot(), taken.App), &there2))
	a.opt.Private = func(string) bool { return true }
	var alone *membership.Error
	qt.Check(t, qt.ErrorAs(a.Keep(t.Context(), taken.Spot(), taken.App), &alone))
}

func TestMoveIsCalledOff(t *testing.T) {
	a, b, web, _, _ := moving(t)
	gone, err := a.Stay(t.Context(), web.Spot(), directory.Running)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(gone))
	qt.Check(t, qt.IsTrue(a.allowed(web)))
	qt.Check(t, qt.ErrorAs(a.GiveAway(t.Context(), web.Spot(), "b"), new(*directory.StateError)))
	qt.Check(t, qt.IsFalse(a.allowed(web))) // until it has called the move off once more
	gone, err = a.Stay(t.Context(), web.Spot(), directory.Running)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(!gone && a.allowed(web)))
	qt.Check(t, qt.Equals(b.arrived(t, web), directory.Lost))
	qt.Assert(t, qt.IsNil(b.Dismiss(web.Spot())))
	_, known := b.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.IsFalse(known))
	qt.Check(t, qt.Equals(b.arrived(t, web), directory.Lost))
}

// Both daemons are killed in the middle: what the directory says decides.
func TestMoveAfterRestarts(t *testing.T) {
	for _, given := range []bool{false, true} {
		a, b, web, _, store := moving(t)
		if given {
			qt.Assert(t, qt.IsNil(a.GiveAway(t.Context(), web.Spot(), "b")))
		}
		a, b = a.again(t, store, "boot"), b.again(t, store, "boot")
		a.vem.waiting, b.vem.waiting = []Endpoint{web}, []Endpoint{web}
		a.work(t)
		b.work(t)
		if !given {
			qt.Check(t, qt.Equals(b.arrived(t, web), directory.Pending))
		}
		gone, err := a.Stay(t.Context(), web.Spot(), directory.Held)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(gone, given))
		qt.Check(t, qt.Equals(a.allowed(web), !given))
		want := directory.Lost
		if given {
			want = directory.Owner
		}
		qt.Check(t, qt.Equals(b.arrived(t, web), want))
		qt.Check(t, qt.Equals(b.allowed(web), given))
	}
}

// What this host has already, or can't have, is not expected.
func TestNotExpected(t *testing.T) {
	a, b, web, there, _ := moving(t)
	b.vem.put(app("other", "10.77.0.7"))
	var why *membership.Error
	qt.Assert(t, qt.ErrorAs(b.Expect(t.Context(), there), &why))
	qt.Check(t, qt.Equals(why.Text, "app other with endpoint 10.77.0.7 is on host b already"))
	b.vem.put(app("web", "10.77.0.99"))
	qt.Assert(t, qt.ErrorAs(b.Expect(t.Context(), there), &why))
	qt.Check(t, qt.Equals(why.Remedy, "remove it there: snapctl rm --force web"))
	_, err := b.Depart(t.Context(), ownership.Spot{Network: "default", Addr: web.Addr4}, "a")
	qt.Check(t, qt.ErrorAs(err, &why)) // it is not b's
	_, err = a.Depart(t.Context(), web.Spot(), "a")
	qt.Check(t, qt.ErrorAs(err, new(*directory.StateError))) // it is there already
}
