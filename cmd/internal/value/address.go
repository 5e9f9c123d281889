package value

import (
	"fmt"
	"net/netip"
)

// ParseIPv4 reads an IPv4 address.
func ParseIPv4(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address such as 10.77.0.7", text)
	}
	return a, nil
}

// ParsePrefix reads an address prefix; an address alone is one of full length.
func ParsePrefix(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not an address or a prefix such as 10.77.0.1 or 192.0.2.0/24", text)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
