// Package endpoint chooses and checks the virtual addresses of apps.
//
// It is pure: it looks at prefixes and at what the caller says is in use, and
// touches no system. A virtual network has an IPv4 prefix and, beside it, an IPv6
// one; an app's IPv6 address has the same number within its prefix as its IPv4
// address, so that 10.77.1.2 in 10.77.0.0/16 goes with fd77::102 in fd77::/64.
package endpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

var (
	// ErrExhausted says that every address of a pool is in use.
	ErrExhausted = errors.New("no address left in the pool")
	// ErrOutside says that an address belongs to neither prefix of a pool.
	ErrOutside = errors.New("address outside the network")
	// ErrReserved says that no app can have the address: it is the network's,
	// the gateway's or the broadcast address.
	ErrReserved = errors.New("address reserved")
	// ErrInUse says that another app has the address.
	ErrInUse = errors.New("address in use")
	// ErrPrefix says that a prefix cannot serve as a pool.
	ErrPrefix = errors.New("prefix unusable")
)

// Pool is the address space of one virtual network.
type Pool struct {
	Prefix4 netip.Prefix // required, /8 to /30
	Prefix6 netip.Prefix // zero: no IPv6; at most /96, so that it holds a number for every IPv4 address
}

// Validate returns an error wrapping [ErrPrefix] if the pool cannot work.
func (p Pool) Validate() error {
	switch {
	case !p.Prefix4.IsValid() || !p.Prefix4.Addr().Is4():
		return fmt.Errorf("check IPv4 prefix %s: %w: not an IPv4 prefix", p.Prefix4, ErrPrefix)
	case p.Prefix4.Masked() != p.Prefix4:
		return fmt.Errorf("check IPv4 prefix %s: %w: bits are set beyond its length; %s is meant?", p.Prefix4, ErrPrefix, p.Prefix4.Masked())
	case p.Prefix4.Bits() < 8 || p.Prefix4.Bits() > 30:
		return fmt.Errorf("check IPv4 prefix %s: %w: its length must be from 8 to 30", p.Prefix4, ErrPrefix)
	case !unicast(p.Prefix4.Addr()):
		return fmt.Errorf("check IPv4 prefix %s: %w: not an ordinary unicast range", p.Prefix4, ErrPrefix)
	}
	if p.Prefix6 == (netip.Prefix{}) {
		return nil
	}
	switch {
	case !p.Prefix6.IsValid() || !p.Prefix6.Addr().Is6() || p.Prefix6.Addr().Is4In6():
		return fmt.Errorf("check IPv6 prefix %s: %w: not an IPv6 prefix", p.Prefix6, ErrPrefix)
	case p.Prefix6.Masked() != p.Prefix6:
		return fmt.Errorf("check IPv6 prefix %s: %w: bits are set beyond its length; %s is meant?", p.Prefix6, ErrPrefix, p.Prefix6.Masked())
	case p.Prefix6.Bits() < 8 || p.Prefix6.Bits() > 96:
		return fmt.Errorf("check IPv6 prefix %s: %w: its length must be from 8 to 96", p.Prefix6, ErrPrefix)
	case !unicast(p.Prefix6.Addr()):
		return fmt.Errorf("check IPv6 prefix %s: %w: not an ordinary unicast range", p.Prefix6, ErrPrefix)
	}
	return nil
}

func unicast(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsUnspecified() &&
		(!a.Is4() || (a.As4()[0] != 0 && a.As4()[0] < 240))
}

// Gateway4 returns the host's own address in the network: the first one.
func (p Pool) Gateway4() netip.Addr { return p.Prefix4.Addr().Next() }

// Gateway6 returns the host's own IPv6 address, or the zero Addr without IPv6.
func (p Pool) Gateway6() netip.Addr { return p.Pair(p.Gateway4()) }

// Size is how many apps can have an address of a valid pool.
func (p Pool) Size() int { return 1<<(32-p.Prefix4.Bits()) - 3 } // but the network's, the gateway's and the broadcast address

// Next returns the lowest IPv4 address that an app can have and that is not
// used, or an error wrapping [ErrExhausted]. Cost: one call of used per address
// in use.
func (p Pool) Next(used func(netip.Addr) bool) (netip.Addr, error) {
	if err := p.Validate(); err != nil {
		return netip.Addr{}, err
	}
	last := p.broadcast()
	for a := p.Gateway4().Next(); a.Less(last); a = a.Next() {
		if !used(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("choose an address in %s: %w", p.Prefix4, ErrExhausted)
}

// Check tells whether an app can be given address a, of either family: nil, or
// an error wrapping [ErrOutside], [ErrReserved] or [ErrInUse].
func (p Pool) Check(a netip.Addr, used func(netip.Addr) bool) error {
	if err := p.Validate(); err != nil {
		return err
	}
	a4 := a
	if p.Prefix6.IsValid() && p.Prefix6.Contains(a) {
		var ok bool
		if a4, ok = p.unpair(a); !ok {
			// Beyond the IPv4 numbers: nothing reserved there.
			a4 = netip.Addr{}
		}
	} else if !p.Prefix4.Contains(a) {
		return fmt.Errorf("check address %s: %w %s", a, ErrOutside, p.Prefix4)
	}
	switch a4 {
	case p.Prefix4.Addr():
		return fmt.Errorf("check address %s: %w: it is the network's own", a, ErrReserved)
	case p.Gateway4():
		return fmt.Errorf("check address %s: %w: it is the gateway's", a, ErrReserved)
	case p.broadcast():
		return fmt.Errorf("check address %s: %w: it is the broadcast address", a, ErrReserved)
	}
	if used(a) {
		return fmt.Errorf("check address %s: %w", a, ErrInUse)
	}
	return nil
}

// Pair returns the IPv6 address that goes with an IPv4 one. It is the zero Addr
// if the pool has no IPv6 prefix or a4 is not in it.
func (p Pool) Pair(a4 netip.Addr) netip.Addr {
	if !p.Prefix6.IsValid() || !p.Prefix4.Contains(a4) {
		return netip.Addr{}
	}
	base4, host4 := p.Prefix4.Addr().As4(), a4.As4()
	number := binary.BigEndian.Uint32(host4[:]) - binary.BigEndian.Uint32(base4[:])
	a6 := p.Prefix6.Addr().As16()
	binary.BigEndian.PutUint32(a6[12:], number)
	return netip.AddrFrom16(a6)
}

// unpair is the inverse of Pair; false if a6 has no IPv4 address beside it.
func (p Pool) unpair(a6 netip.Addr) (netip.Addr, bool) {
	raw, base4 := a6.As16(), p.Prefix4.Addr().As4()
	var a4 [4]byte
	binary.BigEndian.PutUint32(a4[:], binary.BigEndian.Uint32(base4[:])+binary.BigEndian.Uint32(raw[12:]))
	a := netip.AddrFrom4(a4)
	return a, p.Pair(a) == a6
}

// broadcast returns the last address of the IPv4 prefix.
func (p Pool) broadcast() netip.Addr {
	a := p.Prefix4.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Prefix4.Bits()) - 1)
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}
