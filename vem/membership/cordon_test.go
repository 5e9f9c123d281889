package membership

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/directory"
)

// A host is cordoned by any host of the installation, and is so until one says otherwise.
func TestCordon(t *testing.T) {
	w := newWorld()
	a, b := w.host(t, "a"), w.host(t, "b")
	var failed *Error
	_, err := a.SetCordoned(t.Context(), "", true)
	qt.Assert(t, qt.ErrorAs(err, &failed))
	qt.Assert(t, qt.ErrorAs(a.TakesApps(t.Context(), nil), &failed))
	a.init()
	_, err = b.join(a, a.invite())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(b.TakesApps(t.Context(), nil)))

	host, err := a.SetCordoned(t.Context(), "b", true)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(host.Name, "b"))
	qt.Check(t, qt.IsTrue(host.Cordoned))
	_, err = b.Update(t.Context(), func(h *directory.Host) { h.Release = "2.0" })
	qt.Assert(t, qt.IsNil(err))
	b.restart()
	err = b.TakesApps(t.Context(), nil)
	qt.Assert(t, qt.ErrorMatches(err, "host b is cordoned: it takes no apps of other hosts"))
	qt.Assert(t, qt.ErrorAs(err, &failed))
	qt.Check(t, qt.Equals(failed.Remedy, "choose another host, or have it take them again: snapctl host uncordon b"))
	qt.Check(t, qt.IsNil(a.TakesApps(t.Context(), nil)))

	host, err = b.SetCordoned(t.Context(), "", false)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(host.Cordoned))
	qt.Check(t, qt.IsNil(b.TakesApps(t.Context(), nil)))
	_, err = a.SetCordoned(t.Context(), "c", true)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	qt.Check(t, qt.ErrorMatches(err, "host c: not found"))
}
