package registrar

import (
	"fmt"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
	"github.com/snapctl/snapctl/vem/ownership"
)

// restore puts a directory back from a backup.
func restore(t *testing.T, store *memory.Server, b memory.Backup, n int64) {
	t.Helper()
	store.Restore(b.Ahead(n * 1_000_000))
	mark := directory.Restoration{ID: fmt.Sprint("restoration-", n), At: time.Now().UTC(), By: "a"}
	put, err := mark.Put("test")
	qt.Assert(t, qt.IsNil(err))
	_, err = store.Open().Commit(t.Context(), directory.Txn{Puts: []directory.Put{put}})
	qt.Assert(t, qt.IsNil(err))
}

// endpointOf is what the directory has of an endpoint.
func (h *site) endpointOf(t *testing.T, e Endpoint) directory.Endpoint {
	t.Helper()
	r, err := h.opt.Directory.Lookup(t.Context(), e.Network, e.Addr4)
	qt.Assert(t, qt.IsNil(err))
	return r
}

// What a directory has forgotten that was put back from a backup, its owner claims again, with a later
// epoch, and sends meanwhile; also if the session is not the one that the backup has.
func TestForgotten(t *testing.T) {
	for name, restart := range map[string]bool{"the same session": false, "a later session": true} {
		t.Run(name, func(t *testing.T) {
			store, web, db := memory.New(), app("web", "10.77.0.7"), app("db", "10.77.0.8")
			a := newSite(t, store, "a")
			a.vem.put(web)
			a.work(t)
			backup := store.Backup()
			if restart {
				vem := a.vem
				a = a.again(t, store, "boot")
				a.vem.put(vem.all...)
				a.work(t)
			}
			a.vem.put(web, db)
			a.work(t)
			qt.Assert(t, qt.IsTrue(a.allowed(web) && a.allowed(db)))

			restore(t, store, backup, 1)
			for range 2 {
				a.work(t)
				qt.Assert(t, qt.IsTrue(a.allowed(web) && a.allowed(db)))
				qt.Check(t, qt.Equals(a.endpointOf(t, web).Epoch, 1))
				qt.Check(t, qt.Equals(a.endpointOf(t, db).Epoch, 2))
				qt.Check(t, qt.Equals(a.Epoch(db), 2))
			}
			a.vem.put(web)
			a.work(t)
			_, err := a.opt.Directory.Lookup(t.Context(), db.Network, db.Addr4)
			qt.Check(t, qt.ErrorIs(err, directory.ErrNotFound))

			// It can happen again.
			a.vem.put(web, db)
			a.work(t)
			restore(t, store, backup, 2)
			a.work(t)
			qt.Check(t, qt.IsTrue(a.allowed(web) && a.allowed(db)))
		})
	}
}

// Whoever has taken an endpoint over keeps it if the backup is of before that. A copy that was saved
// before this boot waits for a command.
func TestForgottenTakeover(t *testing.T) {
	store, web := memory.New(), app("web", "10.77.0.7")
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	a.vem.put(web)
	a.work(t)
	b.work(t)
	backup := store.Backup()
	a.die(t, b)
	_, err := b.Takeover(t.Context(), "web", "a")
	qt.Assert(t, qt.IsNil(err))
	b.vem.put(web)
	b.work(t)
	restore(t, store, backup, 1)
	b.work(t)
	qt.Check(t, qt.IsTrue(b.allowed(web)))
	now := b.endpointOf(t, web)
	qt.Check(t, qt.Equals(now.Owner, "b"))
	qt.Check(t, qt.Equals(now.Epoch, 3))

	a = a.again(t, store, "second boot")
	a.vem.waiting = []Endpoint{web}
	a.work(t)
	qt.Check(t, qt.IsFalse(a.allowed(web)))

	empty := memory.New()
	c := newSite(t, empty, "c")
	before := empty.Backup()
	c.vem.put(web)
	c.work(t)
	c.end()
	restore(t, empty, before, 1)
	c = c.again(t, empty, "second boot")
	c.vem.waiting = []Endpoint{web}
	for range 2 {
		c.work(t)
		copied, _ := c.opt.Ledger.Get(web.Spot())
		qt.Check(t, qt.Equals(copied.State, ownership.Owned))
		qt.Check(t, qt.IsFalse(c.allowed(web)))
	}
	_, err = c.Recall(t.Context(), "db")
	qt.Check(t, qt.ErrorMatches(err, ".*no app db of it waits.*"))
	e, err := c.Recall(t.Context(), "web")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(e.Epoch, 2))
	qt.Check(t, qt.IsTrue(c.allowed(web)))
}

// The dead host comes back before the one that took its app over has told the directory, which a backup
// of before that says is the dead host's: its copy does not send, and is lost as soon as the other one has
// told. Where nobody has taken it over, a command has the copy go on.
func TestBackupOlderThanTakeover(t *testing.T) {
	for name, takenOver := range map[string]bool{"taken over": true, "not taken over": false} {
		t.Run(name, func(t *testing.T) {
			store, web, own := memory.New(), app("web", "10.77.0.7"), app("own", "10.77.0.8")
			a, b := newSite(t, store, "a"), newSite(t, store, "b")
			a.vem.put(web, own)
			a.work(t)
			b.work(t)
			backup := store.Backup()
			a.die(t, b)
			if takenOver {
				_, err := b.Takeover(t.Context(), "web", "a")
				qt.Assert(t, qt.IsNil(err))
				b.vem.put(web)
				b.work(t)
				qt.Assert(t, qt.IsTrue(b.allowed(web)))
			}
			restore(t, store, backup, 1)

			a = a.again(t, store, "second boot")
			a.vem.waiting = []Endpoint{web, own}
			for range 2 {
				a.work(t)
				qt.Check(t, qt.IsFalse(a.allowed(web)))
				qt.Check(t, qt.IsFalse(a.allowed(own)))
				qt.Check(t, qt.Equals(b.allowed(web), takenOver))
			}
			a = a.again(t, store, "second boot") // the next daemon does not know better
			a.vem.waiting = []Endpoint{web, own}
			a.work(t)
			qt.Check(t, qt.IsFalse(a.allowed(web)))
			b.work(t)
			a.work(t)
			qt.Check(t, qt.IsFalse(a.allowed(web)))
			e, err := a.Recall(t.Context(), "web")
			if takenOver {
				qt.Check(t, qt.ErrorMatches(err, "(?s).*this copy of app web stays stopped.*"))
				qt.Check(t, qt.IsTrue(b.allowed(web)))
				qt.Check(t, qt.Equals(b.endpointOf(t, web).Epoch, 3))
			} else {
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.Equals(e.Epoch, 1))
			}
			qt.Check(t, qt.Equals(a.allowed(web), !takenOver))

			// What was asked for once is known in the boots after it.
			_, err = a.Recall(t.Context(), "own")
			qt.Assert(t, qt.IsNil(err))
			a = a.again(t, store, "third boot")
			a.vem.waiting = []Endpoint{own}
			a.work(t)
			qt.Check(t, qt.IsTrue(a.allowed(own)))
		})
	}
}

// Of two hosts that claim an address of which a restored directory knows nothing, the second one's copy
// is lost.
func TestForgottenByBoth(t *testing.T) {
	store, web, other := memory.New(), app("web", "10.77.0.7"), app("other", "10.77.0.7")
	a, b := newSite(t, store, "a"), newSite(t, store, "b")
	a.work(t)
	b.work(t)
	backup := store.Backup()
	a.vem.put(web)
	a.work(t)
	restore(t, store, backup, 1)
	b.vem.put(other)
	b.work(t)
	qt.Check(t, qt.Equals(b.endpointOf(t, other).App, "other"))
	a.work(t)
	qt.Check(t, qt.IsFalse(a.allowed(web)))
	c, _ := a.opt.Ledger.Get(web.Spot())
	qt.Check(t, qt.Equals(c.State, ownership.Lost))
	qt.Check(t, qt.Equals(c.Now.App, "other"))
	qt.Check(t, qt.IsTrue(b.allowed(other)))
}
