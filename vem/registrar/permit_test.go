package registrar

import (
	"errors"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/ownership"
	"github.com/snapctl/snapctl/vem/pause"
)

// work is what the daemon of a host does once, with what it has begun.
func (h *site) work(t *testing.T) {
	t.Helper()
	h.known(t)
	qt.Assert(t, qt.IsNil(h.keep(t.Context())))
}

// allowed tells whether a copy may send.
func (h *site) allowed(e Endpoint) bool {
	c, ok := h.opt.Ledger.Get(e.Spot())
	return ok && c.Allowed(h.opt.Boot)
}

// die ends a host, and waits until it is not seen any more.
func (h *site) die(t *testing.T, by *site) {
	t.Helper()
	h.end()
	for {
		seen, err := by.opt.Directory.Seen(t.Context())
		qt.Assert(t, qt.IsNil(err))
		if !seen[h.opt.Self] {
			return
		}
		pause.For(t.Context(), time.Millisecond, nil)
	}
}

// again is the next daemon of a host.
func (h *site) again(t *testing.T, store *memory.Server, boot string) *site {
	t.Helper()
	h.end()
	return startSite(t, store, h.opt.Self, h.dir, boot)
}

// A copy that was saved before this boot may send when the directory has said that it is the
// owner's; a daemon that is started again in the same boot asks nobody.
func TestPermits(t *testing.T) {
	store, web := memory.New(), app("web", "10.77.0.7")
	a := newSite(t, store, "a")
	a.vem.put(web)
	a.work(t)
	qt.Check(t, qt.IsTrue(a.allowed(web)))
	a = a.again(t, store, "boot")
	qt.Check(t, qt.IsTrue(a.allowed(web)))

	a = a.again(t, store, "second boot")
	a.vem.waiting = []Endpoint{web}
	qt.Check(t, qt.IsFalse(a.allowed(web)))
	qt.Check(t, qt.Equals(a.admitted, 0))
	a.work(t)
	qt.Check(t, qt.IsTrue(a.allowed(web)))
	qt.Check(t, qt.Equals(a.admitted, 1))
	a.work(t)
	qt.Check(t, qt.Equals(a.admitted, 1))
	e, err := a.opt.Directory.LookupApp(t.Context(), "web")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(e.Epoch, 1))

	// When the app is gone, so is all of that.
	a.vem.waiting = nil
	a.work(t)
	qt.Check(t, qt.HasLen(a.opt.Ledger.All(), 0))
	_, err = a.opt.Directory.LookupApp(t.Context(), "web")
	qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))
}

// The machine crashes between a claim and what is known of it.
func TestPermitOfAClaim(t *testing.T) {
	for name, happened := range map[string]bool{"it has happened": true, "it has not": false} {
		t.Run(name, func(t *testing.T) {
			store, web := memory.New(), app("web", "10.77.0.7")
			a := newSite(t, store, "a")
			a.vem.put(web)
			a.work(t)
			c, _ := a.opt.Ledger.Get(web.Spot())
			if !happened {
				qt.Assert(t, qt.IsNil(a.release(t.Context(), a.session.Load(), []ownership.Copy{c})))
			}
			c.State, c.Endpoint.Revision = ownership.Claiming, 0
			qt.Assert(t, qt.IsNil(a.opt.Ledger.Put(c)))

			a = a.again(t, store, "second boot")
			a.vem.waiting = []Endpoint{web}
			qt.Check(t, qt.IsFalse(a.allowed(web)))
			a.work(t)
			qt.Check(t, qt.IsTrue(a.allowed(web)))
			now, err := a.opt.Directory.LookupApp(t.Context(), "web")
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(now.ID == c.Endpoint.ID, happened))
		})
	}
}

// A dead host's endpoint is taken over. The host comes back, and its copy stays stopped.
func TestTakeover(t *testing.T) {
	store, web := memory.New(), app("web", "10.77.0.7")
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	a.vem.put(web)
	a.work(t)
	b.work(t)
	_, err := b.Takeover(t.Context(), "web", "a")
	var alive *directory.HostError
	qt.Assert(t, qt.ErrorAs(err, &alive))
	qt.Check(t, qt.Equals(alive.Why, directory.HostAlive))
	a.die(t, b)
	for _, no := range []struct{ app, from, want string }{
		{"nothing", "a", "the installation has no app nothing"},
		{"web", "c", "app web is on host a"},
	} {
		_, err = b.Takeover(t.Context(), no.app, no.from)
		qt.Check(t, qt.ErrorMatches(err, no.want))
	}
	b.vem.put(app("other", "10.77.0.7"))
	_, err = b.Takeover(t.Context(), "web", "a")
	qt.Check(t, qt.ErrorMatches(err, "app other with endpoint 10.77.0.7 is on this host"))
	b.vem.put()

	for range 2 { // the second time nothing changes
		e, err := b.Takeover(t.Context(), "web", "a")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(e.Epoch, 2))
		qt.Check(t, qt.Equals(e.TakenFrom, "a"))
	}
	qt.Check(t, qt.IsTrue(b.allowed(web)))
	b.work(t) // no app has it, and it is kept
	// The daemon was killed when the directory had it, and it was not written here.
	qt.Assert(t, qt.IsNil(b.opt.Ledger.Drop(web.Spot())))
	b = b.again(t, store, "boot")
	qt.Check(t, qt.IsFalse(b.allowed(web)))
	b.work(t)
	qt.Check(t, qt.IsTrue(b.allowed(web)))
	c, _ := b.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.IsTrue(c.Kept))

	a = a.again(t, store, "second boot")
	a.vem.waiting = []Endpoint{web}
	a.work(t)
	a.work(t)
	qt.Check(t, qt.IsFalse(a.allowed(web)))
	c, _ = a.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.Equals(c.State, ownership.Lost))
	qt.Check(t, qt.Equals(c.Now.Owner, "b"))
	qt.Check(t, qt.ErrorMatches(Lost(c), ".*app web stays stopped.* host b took it over, and owns it with epoch 2"))
	// As long as somebody has the address, this host gives it to no app.
	a.vem.waiting = nil
	a.work(t)
	_, ok := a.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.ErrorAs(a.Claim(t.Context(), web), new(*directory.TakenError)))
	c, _ = a.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.Equals(c.State, ownership.Lost))
	now, _ := b.opt.Ledger.Get(web.Spot())
	qt.Assert(t, qt.IsNil(b.release(t.Context(), b.session.Load(), []ownership.Copy{now})))
	a.work(t)
	_, ok = a.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.IsFalse(ok))
}

// A host that was only cut off loses its endpoint, against the promise: it sees that as soon as it
// can, and its copy is cut off.
func TestTakenOverWhileItRuns(t *testing.T) {
	store, web := memory.New(), app("web", "10.77.0.7")
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	a.vem.put(web)
	a.work(t)
	b.work(t)
	a.known(t)
	a.way.Set(memory.Cut)
	store.Drop()
	for _, err := b.Takeover(t.Context(), "web", "a"); err != nil; _, err = b.Takeover(t.Context(), "web", "a") {
		qt.Assert(t, qt.ErrorAs(err, new(*directory.HostError))) // it is seen until then
		store.Drop()
	}
	qt.Check(t, qt.IsTrue(a.allowed(web))) // no partition ends an app
	before := a.admitted
	a.way.Set(memory.None)
	a.work(t)
	qt.Check(t, qt.IsFalse(a.allowed(web)))
	qt.Check(t, qt.Equals(a.admitted, before+1))
}

// A takeover that ends at any of its steps has happened, or not: the next daemon goes on with it, and so
// does the same command.
func TestTakeoverEnds(t *testing.T) {
	for _, step := range []string{membership.TakeoverBegun, membership.TakeoverTold, membership.TakeoverKept} {
		for name, restart := range map[string]bool{"the next daemon": true, "the same command": false} {
			t.Run(step+", "+name, func(t *testing.T) {
				store, web := memory.New(), app("web", "10.77.0.7")
				a, b := newSite(t, store, "a"), newSite(t, store, "b")
				a.vem.put(web)
				a.work(t)
				b.work(t)
				a.die(t, b)
				broken := errors.New("broken")
				b.steps = map[string]error{step: broken}
				_, err := b.Takeover(t.Context(), "web", "a")
				qt.Assert(t, qt.ErrorIs(err, broken))
				b.steps = nil
				if restart {
					b = b.again(t, store, "boot")
					b.work(t)
				}
				happened := step != membership.TakeoverBegun
				if !restart || !happened {
					_, err = b.Takeover(t.Context(), "web", "a")
					qt.Assert(t, qt.IsNil(err))
				}
				qt.Check(t, qt.IsTrue(b.allowed(web)))
				now := b.endpointOf(t, web)
				qt.Check(t, qt.Equals(now.Owner, "b"))
				qt.Check(t, qt.Equals(now.Epoch, 2))
				c, _ := b.opt.Ledger.Get(web.Spot())
				qt.Check(t, qt.IsTrue(c.Kept))

				a = a.again(t, store, "second boot")
				a.vem.waiting = []Endpoint{web}
				a.work(t)
				qt.Check(t, qt.IsFalse(a.allowed(web)))
			})
		}
	}
}
