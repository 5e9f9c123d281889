package devices

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/membership"
)

// An address that no device has is on no link.
func TestUnderlay(t *testing.T) {
	list, err := Addresses()
	qt.Assert(t, qt.IsNil(err))
	list = append(list, membership.Address{Addr: netip.MustParseAddr("192.0.2.77")})
	for _, u := range Underlay(list) {
		qt.Check(t, qt.IsTrue(u.Device != "" && u.Prefix.IsValid()))
		qt.Check(t, qt.Not(qt.Equals(u.Prefix.Addr().String(), "192.0.2.77")))
	}
}
