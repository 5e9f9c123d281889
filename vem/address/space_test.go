package address_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/address"
)

func space(prefix4, prefix6 string) address.Space {
	s := address.Space{Prefix4: netip.MustParsePrefix(prefix4)}
	if prefix6 != "" {
		s.Prefix6 = netip.MustParsePrefix(prefix6)
	}
	return s
}

func usedSet(list ...string) func(netip.Addr) bool {
	set := map[netip.Addr]bool{}
	for _, a := range list {
		set[netip.MustParseAddr(a)] = true
	}
	return func(a netip.Addr) bool { return set[a] }
}

func TestSize(t *testing.T) {
	for prefix, want := range map[string]int{"10.77.0.0/16": 65533, "10.77.0.0/29": 5, "10.77.0.4/30": 1} {
		s := space(prefix, "")
		qt.Assert(t, qt.Equals(s.Size(), want))
		used := make(map[netip.Addr]bool)
		if want > 10 {
			continue
		}
		for range want {
			a, err := s.Next(func(a netip.Addr) bool { return used[a] })
			qt.Assert(t, qt.IsNil(err))
			used[a] = true
		}
		_, err := s.Next(func(a netip.Addr) bool { return used[a] })
		qt.Assert(t, qt.ErrorIs(err, address.ErrExhausted))
	}
}

func TestValidate(t *testing.T) {
	for name, test := range map[string]struct {
		space address.Space
		ok    bool
	}{
		"both":          {space("10.77.0.0/16", "fd77::/64"), true},
		"IPv4 only":     {space("10.77.0.0/16", ""), true},
		"smallest":      {space("10.77.0.4/30", "fd77::/96"), true},
		"none":          {address.Space{}, false},
		"host bits":     {space("10.77.0.1/16", ""), false},
		"too small":     {space("10.77.0.0/31", ""), false},
		"too big":       {space("0.0.0.0/0", ""), false},
		"multicast":     {space("224.0.0.0/8", ""), false},
		"loopback":      {space("127.0.0.0/8", ""), false},
		"link-local":    {space("169.254.0.0/16", ""), false},
		"reserved":      {space("240.0.0.0/8", ""), false},
		"IPv6 as IPv4":  {address.Space{Prefix4: netip.MustParsePrefix("fd77::/64")}, false},
		"IPv4 as IPv6":  {space("10.77.0.0/16", "10.78.0.0/16"), false},
		"IPv6 too long": {space("10.77.0.0/16", "fd77::/112"), false},
		"IPv6 bits":     {space("10.77.0.0/16", "fd77::1/64"), false},
		"IPv6 local":    {space("10.77.0.0/16", "fe80::/64"), false},
		"IPv6 mapped":   {space("10.77.0.0/16", "::ffff:0:0/96"), false},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.space.Validate()
			if test.ok {
				qt.Check(t, qt.IsNil(err))
				return
			}
			qt.Check(t, qt.ErrorIs(err, address.ErrPrefix))
		})
	}
}

func TestNext(t *testing.T) {
	s := space("10.77.0.0/29", "fd77::/64")
	var got []string
	used := map[netip.Addr]bool{}
	for {
		a, err := s.Next(func(a netip.Addr) bool { return used[a] })
		if err != nil {
			qt.Check(t, qt.ErrorIs(err, address.ErrExhausted))
			break
		}
		used[a] = true
		got = append(got, a.String())
	}
	qt.Check(t, qt.DeepEquals(got, []string{"10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.5", "10.77.0.6"}))
	delete(used, netip.MustParseAddr("10.77.0.4"))
	a, err := s.Next(func(a netip.Addr) bool { return used[a] })
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(a.String(), "10.77.0.4"))
	_, err = address.Space{}.Next(usedSet())
	qt.Check(t, qt.ErrorIs(err, address.ErrPrefix))
}

func TestCheck(t *testing.T) {
	s := space("10.77.0.0/16", "fd77::/64")
	used := usedSet("10.77.0.9", "fd77::9")
	for a, want := range map[string]error{
		"10.77.0.2":        nil,
		"10.77.1.0":        nil, // an ordinary address of a /16
		"10.77.0.255":      nil,
		"10.77.0.9":        address.ErrInUse,
		"10.77.0.0":        address.ErrReserved,
		"10.77.0.1":        address.ErrReserved,
		"10.77.255.255":    address.ErrReserved,
		"10.78.0.2":        address.ErrOutside,
		"::ffff:10.77.0.2": address.ErrOutside,
		"fd77::2":          nil,
		"fd77::1:0:0:2":    nil,
		"fd77::9":          address.ErrInUse,
		"fd77::":           address.ErrReserved,
		"fd77::1":          address.ErrReserved,
		"fd77::ffff":       address.ErrReserved,
		"fd78::2":          address.ErrOutside,
	} {
		t.Run(a, func(t *testing.T) {
			qt.Check(t, qt.ErrorIs(s.Check(netip.MustParseAddr(a), used), want))
		})
	}
	qt.Check(t, qt.ErrorIs(s.Check(netip.Addr{}, used), address.ErrOutside))
}

func TestPair(t *testing.T) {
	s := space("10.77.0.0/16", "fd77::/64")
	for a4, want := range map[string]string{
		"10.77.0.1":   "fd77::1",
		"10.77.0.7":   "fd77::7",
		"10.77.1.2":   "fd77::102",
		"10.78.0.7":   "invalid IP",
		"2001:db8::7": "invalid IP",
	} {
		qt.Check(t, qt.Equals(s.Pair(netip.MustParseAddr(a4)).String(), want), qt.Commentf(a4))
	}
	qt.Check(t, qt.Equals(s.Gateway4().String(), "10.77.0.1"))
	qt.Check(t, qt.Equals(s.Gateway6().String(), "fd77::1"))
	odd := space("10.77.4.0/22", "fd77::/64")
	qt.Check(t, qt.Equals(odd.Pair(netip.MustParseAddr("10.77.5.3")).String(), "fd77::103"))
	qt.Check(t, qt.IsFalse(space("10.77.0.0/16", "").Gateway6().IsValid()))
}
