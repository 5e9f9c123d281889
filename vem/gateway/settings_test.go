package gateway

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestCheck(t *testing.T) {
	there := []Obstacle{
		{netip.MustParsePrefix("10.77.0.0/16"), "network default"}, {netip.MustParsePrefix("192.0.2.0/24"), "the underlay of host beta"},
	}
	for text, want := range map[string]string{
		"203.0.113.0/24":  "",
		"2001:db8:9::/48": "",
		"10.77.3.0/24":    "advertise 10.77.3.0/24: it overlaps network default, which has 10.77.0.0/16",
		"192.0.2.9/32":    "advertise 192.0.2.9/32: it overlaps the underlay of host beta, which has 192.0.2.0/24",
		"192.0.0.0/8":     "advertise 192.0.0.0/8: .* is 192.0.0.0/8 meant.*|.*overlaps the underlay.*",
		"203.0.113.7/24":  "advertise 203.0.113.7/24: its address has bits beyond the prefix: is 203.0.113.0/24 meant.*",
		"0.0.0.0/0":       ".*no prefix of other machines",
		"127.0.0.0/8":     ".*no prefix of other machines",
		"224.0.0.0/8":     ".*no prefix of other machines",
		"fe80::/64":       ".*no prefix of other machines",
	} {
		t.Run(text, func(t *testing.T) {
			err := Settings{On: true, Advertise: []netip.Prefix{netip.MustParsePrefix(text)}}.Check(there)
			if want == "" {
				qt.Check(t, qt.IsNil(err))
				return
			}
			qt.Check(t, qt.ErrorMatches(err, want))
		})
	}
	one := netip.MustParsePrefix("203.0.113.0/24")
	qt.Check(t, qt.ErrorMatches(Settings{Advertise: []netip.Prefix{one, one}}.Check(nil), ".*overlaps 203.0.113.0/24"))
	qt.Check(t, qt.ErrorMatches(Settings{Advertise: slices.Repeat([]netip.Prefix{one}, 17)}.Check(nil), "17 prefixes to advertise, at most 16"))
}
