package directory_test

import (
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/memory"
)

// restore puts the directory back from a backup.
func (w *world) restore(b memory.Backup, id string) {
	w.Helper()
	w.server.Restore(b.Ahead(1000))
	r := directory.Restoration{ID: id, At: time.Now().UTC(), By: "a"}
	put, err := r.Put("lab")
	qt.Assert(w, qt.IsNil(err))
	_, err = w.server.Open().Commit(w.Context(), directory.Txn{Puts: []directory.Put{put}})
	qt.Assert(w, qt.IsNil(err))
}

// What a restored directory has forgotten is claimed again with the next epoch, once.
func TestReclaim(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.hosts["a"], w.hosts["b"]
	before := w.server.Backup()
	mine := a.mustClaim("cache", "10.77.0.2")
	verdicts, err := a.s.Confirm(t.Context(), []directory.Endpoint{mine}, "boot")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(verdicts[0].Standing, directory.Owner))
	qt.Check(t, qt.Equals(verdicts[0].Restored, ""))

	w.restore(before, "one")
	r, err := a.d.Restored(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(r.ID, "one"))
	verdicts, err = a.s.Confirm(t.Context(), []directory.Endpoint{mine}, "boot")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(verdicts[0].Standing, directory.Lost))
	qt.Check(t, qt.Equals(verdicts[0].Restored, "one"))
	for range 2 {
		o := a.s.Reclaim(t.Context(), []directory.Endpoint{mine})[0]
		qt.Assert(t, qt.IsNil(o.Err))
		qt.Check(t, qt.Equals(o.Endpoint.Epoch, 2))
		qt.Check(t, qt.IsTrue(w.is("a", 2, directory.Running)))
	}
	taken := mine
	taken.Epoch = 2
	o := b.s.Reclaim(t.Context(), []directory.Endpoint{taken})[0]
	var other *directory.TakenError
	qt.Assert(t, qt.ErrorAs(o.Err, &other))
	qt.Check(t, qt.Equals(other.There.Owner, "a"))

	// The other host had it later than the backup knows.
	taken.Epoch = 5
	o = b.s.Reclaim(t.Context(), []directory.Endpoint{taken})[0]
	qt.Assert(t, qt.IsNil(o.Err))
	qt.Check(t, qt.IsTrue(w.is("b", 6, directory.Running)))
}

// A session that the backup has an earlier entry of ends.
func TestForgottenSession(t *testing.T) {
	w := newWorld(t, "a")
	a := w.hosts["a"]
	before := w.server.Backup()
	a.store.Next(memory.Late) // the session's entry is written anew
	a.s.Claim(t.Context(), []directory.Endpoint{endpoint("cache", "10.77.0.2")})
	_, err := a.s.Confirm(t.Context(), []directory.Endpoint{endpoint("cache", "10.77.0.2")}, "boot")
	qt.Assert(t, qt.IsNil(err))
	w.restore(before, "one")
	o := a.s.Claim(t.Context(), []directory.Endpoint{endpoint("cache", "10.77.0.2")})[0]
	qt.Check(t, qt.ErrorIs(o.Err, directory.ErrForgotten))
}

func TestRestorationRecord(t *testing.T) {
	for _, r := range []directory.Restoration{{}, {ID: "one"}, {ID: "one", By: "no host"}} {
		qt.Check(t, qt.IsNotNil(r.Validate("")))
	}
}
