package daemon

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/endpoint"
)

func TestNextPool(t *testing.T) {
	first := endpoint.Pool{Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Prefix6: netip.MustParsePrefix("fd77:736e:6170::/64")}
	second, err := nextPool(first, 1)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(second.Prefix4, netip.MustParsePrefix("10.78.0.0/16")))
	qt.Check(t, qt.Equals(second.Prefix6, netip.MustParsePrefix("fd77:736e:6170:1::/64")))
	_, err = nextPool(first, 178)
	qt.Check(t, qt.IsNil(err))
	_, err = nextPool(first, 179)
	qt.Check(t, qt.ErrorIs(err, endpoint.ErrExhausted))
}
