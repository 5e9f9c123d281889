// Package address chooses and checks the virtual addresses of apps.
//
// It is pure: it looks at prefixes and at what the caller says is in use, and
// touches no system. A virtual network has an IPv4 prefix and, beside it, an IPv6
// one; an app's IPv6 address has the same number within its prefix as its IPv4
// address, so that 10.77.1.2 in 10.77.0.0/16 goes with fd77::102 in fd77::/64.
package address

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

var (
	// ErrExhausted says that every address of a space is in use.
	ErrExhausted = errors.New("no address left in the pool")
	// ErrOutside says that an address belongs to neither prefix of a space.
	ErrOutside = errors.New("address outside the network")
	// ErrReserved says that no app can have the address: it is the network's,
	// the gateway's or the broadcast address.
	ErrReserved = errors.New("address reserved")
	// ErrInUse says that another app has the address.
	ErrInUse = errors.New("address in use")
	// ErrPrefix says that a prefix cannot serve as a space.
	ErrPrefix = errors.New("prefix unusable")
)

// Space is the address space of one virtual network.
type Space struct {
	Prefix4 netip.Prefix // required, /8 to /30
	Prefix6 netip.Prefix // zero: no IPv6; at most /96, so that it holds a number for every IPv4 address
}

// Validate returns an error wrapping [ErrPrefix] if the space cannot work.
func (s Space) Validate() error {
	switch {
	case !s.Prefix4.IsValid() || !s.Prefix4.Addr().Is4():
		return fmt.Errorf("check IPv4 prefix %s: %w: not an IPv4 prefix", s.Prefix4, ErrPrefix)
	case s.Prefix4.Masked() != s.Prefix4:
		return fmt.Errorf("check IPv4 prefix %s: %w: bits are set beyond its length; %s is meant?", s.Prefix4, ErrPrefix, s.Prefix4.Masked())
	case s.Prefix4.Bits() < 8 || s.Prefix4.Bits() > 30:
		return fmt.Errorf("check IPv4 prefix %s: %w: its length must be from 8 to 30", s.Prefix4, ErrPrefix)
	case !unicast(s.Prefix4.Addr()):
		return fmt.Errorf("check IPv4 prefix %s: %w: not an ordinary unicast range", s.Prefix4, ErrPrefix)
	}
	if s.Prefix6 == (netip.Prefix{}) {
		return nil
	}
	switch {
	case !s.Prefix6.IsValid() || !s.Prefix6.Addr().Is6() || s.Prefix6.Addr().Is4In6():
		return fmt.Errorf("check IPv6 prefix %s: %w: not an IPv6 prefix", s.Prefix6, ErrPrefix)
	case s.Prefix6.Masked() != s.Prefix6:
		return fmt.Errorf("check IPv6 prefix %s: %w: bits are set beyond its length; %s is meant?", s.Prefix6, ErrPrefix, s.Prefix6.Masked())
	case s.Prefix6.Bits() < 8 || s.Prefix6.Bits() > 96:
		return fmt.Errorf("check IPv6 prefix %s: %w: its length must be from 8 to 96", s.Prefix6, ErrPrefix)
	case !unicast(s.Prefix6.Addr()):
		return fmt.Errorf("check IPv6 prefix %s: %w: not an ordinary unicast range", s.Prefix6, ErrPrefix)
	}
	return nil
}

func unicast(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsUnspecified() &&
		(!a.Is4() || (a.As4()[0] != 0 && a.As4()[0] < 240))
}

// Gateway4 returns the host's own address in the network: the first one.
func (s Space) Gateway4() netip.Addr { return s.Prefix4.Addr().Next() }

// Gateway6 returns the host's own IPv6 address, or the zero Addr without IPv6.
func (s Space) Gateway6() netip.Addr { return s.Pair(s.Gateway4()) }

// Size is how many apps can have an address of a valid space.
func (s Space) Size() int { return 1<<(32-s.Prefix4.Bits()) - 3 } // but the network's, the gateway's and the broadcast address

// Next returns the lowest IPv4 address that an app can have and that is not
// used, or an error wrapping [ErrExhausted]. Cost: one call of used per address
// in use.
func (s Space) Next(used func(netip.Addr) bool) (netip.Addr, error) {
	if err := s.Validate(); err != nil {
		return netip.Addr{}, err
	}
	last := s.broadcast()
	for a := s.Gateway4().Next(); a.Less(last); a = a.Next() {
		if !used(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("choose an address in %s: %w", s.Prefix4, ErrExhausted)
}

// Check tells whether an app can be given address a, of either family: nil, or
// an error wrapping [ErrOutside], [ErrReserved] or [ErrInUse].
func (s Space) Check(a netip.Addr, used func(netip.Addr) bool) error {
	if err := s.Validate(); err != nil {
		return err
	}
	a4 := a
	if s.Prefix6.IsValid() && s.Prefix6.Contains(a) {
		var ok bool
		if a4, ok = s.Unpair(a); !ok {
			// Beyond the IPv4 numbers: nothing reserved there.
			a4 = netip.Addr{}
		}
	} else if !s.Prefix4.Contains(a) {
		return fmt.Errorf("check address %s: %w %s", a, ErrOutside, s.Prefix4)
	}
	switch a4 {
	case s.Prefix4.Addr():
		return fmt.Errorf("check address %s: %w: it is the network's own", a, ErrReserved)
	case s.Gateway4():
		return fmt.Errorf("check address %s: %w: it is the gateway's", a, ErrReserved)
	case s.broadcast():
		return fmt.Errorf("check address %s: %w: it is the broadcast address", a, ErrReserved)
	}
	if used(a) {
		return fmt.Errorf("check address %s: %w", a, ErrInUse)
	}
	return nil
}

// Pair returns the IPv6 address that goes with an IPv4 one. It is the zero Addr
// if the space has no IPv6 prefix or a4 is not in it.
func (s Space) Pair(a4 netip.Addr) netip.Addr {
	if !s.Prefix6.IsValid() || !s.Prefix4.Contains(a4) {
		return netip.Addr{}
	}
	base4, host4 := s.Prefix4.Addr().As4(), a4.As4()
	number := binary.BigEndian.Uint32(host4[:]) - binary.BigEndian.Uint32(base4[:])
	a6 := s.Prefix6.Addr().As16()
	binary.BigEndian.PutUint32(a6[12:], number)
	return netip.AddrFrom16(a6)
}

// Unpair is the inverse of Pair; false if a6 has no IPv4 address beside it.
func (s Space) Unpair(a6 netip.Addr) (netip.Addr, bool) {
	raw, base4 := a6.As16(), s.Prefix4.Addr().As4()
	var a4 [4]byte
	binary.BigEndian.PutUint32(a4[:], binary.BigEndian.Uint32(base4[:])+binary.BigEndian.Uint32(raw[12:]))
	a := netip.AddrFrom4(a4)
	return a, s.Pair(a) == a6
}

// broadcast returns the last address of the IPv4 prefix.
func (s Space) broadcast() netip.Addr {
	a := s.Prefix4.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | (1<<(32-s.Prefix4.Bits()) - 1)
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}
