package daemon

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
)

func TestNextSpace(t *testing.T) {
	first := address.Space{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")}
	second, err := nextSpace(first, 1)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(second.Prefix4, netip.MustParsePrefix("10.78.0.0/16")))
	qt.Check(t, qt.Equals(second.Prefix6, netip.MustParsePrefix("fd77:736e:6170:1::/64")))
	_, err = nextSpace(first, 178)
	qt.Check(t, qt.IsNil(err))
	_, err = nextSpace(first, 179)
	qt.Check(t, qt.ErrorIs(err, address.ErrExhausted))
}
