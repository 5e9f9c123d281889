package gateway

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// What was changed is there for the next daemon, and what could not be written has not changed.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.json")
	f, err := Load(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(f.State(), State{}))
	a := netip.MustParseAddr("10.77.0.66")
	qt.Assert(t, qt.IsNil(f.Change(func(s *State) { s.Addresses = map[string]netip.Addr{"default": a} })))
	qt.Assert(t, qt.IsNil(f.Change(func(s *State) {
		s.On, s.Advertise = true, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	})))
	f.State().Addresses["default"] = netip.Addr{} // a copy
	again, err := Load(path)
	qt.Assert(t, qt.IsNil(err))
	s := again.State()
	qt.Check(t, qt.Equals(s.Addresses["default"], a))
	qt.Check(t, qt.IsTrue(s.On))
	qt.Check(t, qt.HasLen(s.Advertise, 1))

	again.path = filepath.Join(t.TempDir(), "missing", "gateway.json")
	qt.Check(t, qt.ErrorIs(again.Change(func(s *State) { s.Addresses["other"] = a }), fs.ErrNotExist))
	qt.Check(t, qt.HasLen(again.State().Addresses, 1))
	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("{"), 0o600)))
	_, err = Load(path)
	qt.Check(t, qt.ErrorMatches(err, "read what this host has in its networks: .*"))
}
