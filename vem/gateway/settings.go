package gateway

import (
	"fmt"
	"net/netip"
)

// Settings are what an operator has said.
type Settings struct {
	// On tells whether the host is a gateway.
	On bool `json:"on,omitempty"`
	// Advertise are prefixes of machines behind the gateway, which keep their addresses.
	Advertise []netip.Prefix `json:"advertise,omitempty"`
}

// MaxAdvertise is how many prefixes one gateway may advertise: for so many a record of the directory
// has room.
const MaxAdvertise = 16

// Obstacle is a prefix that is something else already.
type Obstacle struct {
	Prefix netip.Prefix
	What   string // "network default", "the underlay of host beta"
}

// Check returns an error if the settings can't be, for what there is already.
func (s Settings) Check(there []Obstacle) error {
	if len(s.Advertise) > MaxAdvertise {
		return fmt.Errorf("%d prefixes to advertise, at most %d", len(s.Advertise), MaxAdvertise)
	}
	for i, p := range s.Advertise {
		a := p.Addr()
		switch {
		case p != p.Masked():
			return fmt.Errorf("advertise %s: its address has bits beyond the prefix: is %s meant?", p, p.Masked())
		case a.Is4In6() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || p.Bits() == 0:
			return fmt.Errorf("advertise %s: no prefix of other machines", p)
		}
		for _, q := range s.Advertise[:i] {
			if p.Overlaps(q) {
				return fmt.Errorf("advertise %s: it overlaps %s", p, q)
			}
		}
		for _, o := range there {
			if p.Overlaps(o.Prefix) {
				return fmt.Errorf("advertise %s: it overlaps %s, which has %s", p, o.What, o.Prefix)
			}
		}
	}
	return nil
}
