package fabric

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestStandard(t *testing.T) {
	four, six := netip.MustParseAddr("10.77.0.7"), netip.MustParseAddr("fd77::7")
	s := Standard(four, six)
	qt.Check(t, qt.IsTrue(slices.Equal(s.Addresses, []netip.Addr{four, six})))
	qt.Check(t, qt.IsTrue(slices.Equal(s.Gateways, []netip.Addr{nextHop4, nextHop6})))
	qt.Check(t, qt.Equals(s.Sysctls["mptcp/enabled"], "0"))
	only := Standard(four, netip.Addr{})
	qt.Check(t, qt.IsTrue(slices.Equal(only.Addresses, []netip.Addr{four})))
	qt.Check(t, qt.IsTrue(slices.Equal(only.Gateways, []netip.Addr{nextHop4})))
}
