// Package plan has the networks of an installation, and the blocks of their addresses that hosts
// lease: values, of which package directory has the records.
package plan

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory/codec"
)

// Network is a virtual network of the installation: one name and one address space on all hosts.
type Network struct {
	Name    string       `json:"name"`
	Prefix4 netip.Prefix `json:"prefix4"`
	Prefix6 netip.Prefix `json:"prefix6,omitzero"`
	// BlockBits is how long the prefix of a block is: 26 for 64 addresses.
	BlockBits int       `json:"block_bits"`
	MadeBy    string    `json:"made_by,omitempty"` // host
	MadeAt    time.Time `json:"made_at"`

	// Revision is that of the record. It is not part of it.
	Revision int64 `json:"-"`
}

// Space returns the address space of the network.
func (n Network) Space() address.Space {
	return address.Space{Prefix4: n.Prefix4, Prefix6: n.Prefix6}
}

// Validate implements [codec.Record].
func (n *Network) Validate(name string) error {
	if n.Name != name {
		return fmt.Errorf("it is that of network %q", n.Name)
	}
	if err := codec.CheckName("network", n.Name); err != nil {
		return err
	}
	if err := n.Space().Validate(); err != nil {
		return err
	}
	if n.BlockBits < n.Prefix4.Bits() || n.BlockBits > 32 {
		return fmt.Errorf("blocks of /%d in %s", n.BlockBits, n.Prefix4)
	}
	return nil
}

// BlockBits is how long the prefix of a block of a network is: 64 addresses, or less in a
// network that would have fewer than 16 such blocks.
func BlockBits(prefix4 netip.Prefix) int { return min(max(prefix4.Bits()+4, 26), 32) }

// NetworkError is a network that can't be there together with one that is.
type NetworkError struct {
	Wanted, There Network
}

func (e *NetworkError) Error() string {
	if e.Wanted.Name == e.There.Name {
		return fmt.Sprintf("network %s has the prefixes %s in this installation, not %s", e.There.Name, e.There.prefixes(), e.Wanted.prefixes())
	}
	return fmt.Sprintf("the prefixes of network %s, %s, overlap those of network %s, %s", e.Wanted.Name, e.Wanted.prefixes(), e.There.Name, e.There.prefixes())
}

func (n Network) prefixes() string {
	if !n.Prefix6.IsValid() {
		return n.Prefix4.String()
	}
	return n.Prefix4.String() + " and " + n.Prefix6.String()
}

// Meets tells whether two networks can't both be there.
func (n Network) Meets(m Network) bool {
	if n.Name == m.Name {
		return n.Prefix4 != m.Prefix4 || n.Prefix6 != m.Prefix6
	}
	return n.Prefix4.Overlaps(m.Prefix4) || n.Prefix6.IsValid() && m.Prefix6.IsValid() && n.Prefix6.Overlaps(m.Prefix6)
}

// IPv4 returns the IPv4 address of the network that goes with an address of it, of either family.
func (n Network) IPv4(a netip.Addr) (netip.Addr, bool) {
	if a.Is4() {
		return a, n.Prefix4.Contains(a)
	}
	if !n.Prefix6.IsValid() || !n.Prefix6.Contains(a) {
		return a, false
	}
	return n.Space().Unpair(a)
}
