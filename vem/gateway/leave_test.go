package gateway

import (
	"io/fs"
	"net/netip"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
)

// A host that leaves its installation is in no network itself, and forwards nothing.
func TestLeave(t *testing.T) {
	w := newWorld(t)
	f := w.open()
	qt.Assert(t, qt.IsNil(f.Leave(t.Context()))) // nothing was done yet
	qt.Assert(t, qt.IsNil(f.Reside(t.Context(), "default")))
	qt.Assert(t, qt.IsNil(f.Set(t.Context(), Settings{On: true, Advertise: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})))
	qt.Check(t, qt.HasLen(w.at, 1))
	qt.Assert(t, qt.IsNil(f.Leave(t.Context())))
	qt.Check(t, qt.HasLen(w.at, 0))
	qt.Check(t, qt.HasLen(w.far, 0))
	qt.Check(t, qt.IsFalse(w.rules.On))
	_, err := os.Stat(w.path)
	qt.Check(t, qt.ErrorIs(err, fs.ErrNotExist))
}
