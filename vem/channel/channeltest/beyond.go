package channeltest

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/snapctl/snapctl/vem/channel"
)

// testBeyond has prefixes of machines beyond gateways go to the first of these that is set.
func testBeyond(t *testing.T, s *suite) {
	t.Helper()
	router, ok := s.m.(channel.Router)
	if !ok {
		return // it carries no packets of such machines
	}
	four, six, mine := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:7::/48"), netip.MustParsePrefix("198.51.100.0/24")
	all := []channel.Beyond{{Prefix: four, Hosts: []string{"host1", "host2"}}, {Prefix: six, Hosts: []string{"host2"}}, {Prefix: mine, Here: true, Hosts: []string{"host1"}}}
	via := func(when string, want map[netip.Prefix]string) {
		t.Helper()
		got, err := router.Via(t.Context())
		s.check(t, err)
		if !maps.Equal(got, want) {
			t.Errorf("%s: packets go to %v, want %v", when, got, want)
		}
	}
	s.check(t, router.SetBeyond(t.Context(), all))
	via("no host is set", map[netip.Prefix]string{mine: ""})
	s.check(t, s.m.SetHost(t.Context(), s.host(2)))
	via("the second host is set", map[netip.Prefix]string{four: "host2", six: "host2", mine: ""})
	s.check(t, s.m.SetHost(t.Context(), s.host(1)))
	both := map[netip.Prefix]string{four: "host1", six: "host2", mine: ""}
	via("both are", both)

	s.check(t, s.m.Close())
	s.m = s.Open(t)
	router, _ = s.m.(channel.Router) // it was one before
	via("opened again", both)
	s.check(t, s.m.RemoveHost(t.Context(), "host1"))
	if got, err := router.Via(t.Context()); err != nil || got[four] == "host1" {
		t.Errorf("packets go to %v, %v, after the host was removed", got, err)
	}
	s.check(t, router.SetBeyond(t.Context(), all))
	via("told again", map[netip.Prefix]string{four: "host2", six: "host2", mine: ""})

	for _, wrong := range []string{"10.77.1.0/24", "10.0.0.0/8", "fd77::/48", "203.0.113.1/24"} {
		s.refused(t, router.SetBeyond(t.Context(), []channel.Beyond{{Prefix: netip.MustParsePrefix(wrong)}}), channel.ErrRoute)
	}
	via("after what was refused", map[netip.Prefix]string{four: "host2", six: "host2", mine: ""})
	s.check(t, router.SetBeyond(t.Context(), nil))
	via("none any more", nil)
}
