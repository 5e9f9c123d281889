package plan

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/vem/address"
	"github.com/snapctl/snapctl/vem/directory/codec"
)

// Block is a range of a network's addresses that one host may give out without asking.
type Block struct {
	Network  string       `json:"network"`
	Prefix   netip.Prefix `json:"prefix"`
	Host     string       `json:"host"`
	LeasedAt time.Time    `json:"leased_at"`

	// Revision is that of the record. It is not part of it.
	Revision int64 `json:"-"`
}

// Validate implements [codec.Record].
func (b *Block) Validate(name string) error {
	network, first, _ := strings.Cut(name, "/")
	if b.Network != network || !b.Prefix.IsValid() || !b.Prefix.Addr().Is4() || b.Prefix.Masked() != b.Prefix || b.Prefix.Addr().String() != first {
		return fmt.Errorf("it is that of block %s of network %q", b.Prefix, b.Network)
	}
	return errors.Join(codec.CheckName("network", b.Network), codec.CheckName("host", b.Host))
}

// BlockError is an address in a block that another host has leased.
type BlockError struct {
	Addr  netip.Addr
	Block Block
}

func (e *BlockError) Error() string {
	return fmt.Sprintf("address %s of network %s is in block %s of host %s: use another address, or that host", e.Addr, e.Block.Network, e.Block.Prefix, e.Block.Host)
}

// Blocks are the blocks of one host, in the order of networks and addresses. The value is not
// changed: whoever has it replaces it when a block is leased or given back.
type Blocks []Block

// With returns the blocks with one more.
func (l Blocks) With(b Block) Blocks {
	return append(l.Without(b), b).Sorted()
}

// Without returns the blocks without one.
func (l Blocks) Without(b Block) Blocks {
	return slices.DeleteFunc(slices.Clone(l), func(c Block) bool { return c.Network == b.Network && c.Prefix == b.Prefix })
}

// Sorted puts them into their order, in place.
func (l Blocks) Sorted() Blocks {
	slices.SortFunc(l, func(a, b Block) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	return l
}

// Next returns the lowest address of the network's blocks that an app can have and that is not
// used, or an error wrapping [address.ErrExhausted]. The caller also counts as used what it has
// heard of endpoints that have moved to other hosts with an address of these blocks.
func (l Blocks) Next(n Network, used func(netip.Addr) bool) (netip.Addr, error) {
	for a := range l.addrs(n) {
		if !used(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("choose an address of network %s in the blocks of this host: %w", n.Name, address.ErrExhausted)
}

// Free is how many addresses of the network's blocks are not used.
func (l Blocks) Free(n Network, used func(netip.Addr) bool) int {
	free := 0
	for a := range l.addrs(n) {
		if !used(a) {
			free++
		}
	}
	return free
}

// Low tells whether it is time to lease another block: less than a whole one is left. Up to three
// addresses of a block may be the network's own.
func (l Blocks) Low(n Network, used func(netip.Addr) bool) bool {
	size := 1 << (32 - n.BlockBits)
	return l.Free(n, used) < size-min(3, size-1)
}

// Idle returns the network's blocks that can be given back: none of their addresses is used, and
// without them a spare block is left.
func (l Blocks) Idle(n Network, used func(netip.Addr) bool) Blocks {
	var idle Blocks
	rest := l
	for _, b := range slices.Backward(l) {
		if b.Network != n.Name || rest.Without(b).Low(n, used) {
			continue
		}
		if (Blocks{b}).Free(n, used) == (Blocks{b}).Free(n, func(netip.Addr) bool { return false }) {
			idle, rest = append(idle, b), rest.Without(b)
		}
	}
	return idle.Sorted()
}

// Find returns the block that an address is in.
func (l Blocks) Find(network string, a netip.Addr) (Block, bool) {
	i := slices.IndexFunc(l, func(b Block) bool { return b.Network == network && b.Prefix.Contains(a) })
	if i < 0 {
		return Block{}, false
	}
	return l[i], true
}

// addrs are all addresses of the network's blocks that an app can have.
func (l Blocks) addrs(n Network) func(yield func(netip.Addr) bool) {
	s := n.Space()
	free := func(netip.Addr) bool { return false }
	return func(yield func(netip.Addr) bool) {
		for _, b := range l {
			if b.Network != n.Name {
				continue
			}
			for a := b.Prefix.Addr(); b.Prefix.Contains(a); a = a.Next() {
				if s.Check(a, free) == nil && !yield(a) {
					return
				}
			}
		}
	}
}

// Grid returns the block of the network that an address is in.
func (n Network) Grid(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a, n.BlockBits).Masked()
}

// FreeBlock returns the lowest block with an address for an app that is not taken.
func (n Network) FreeBlock(taken Blocks) (netip.Prefix, error) {
	is := make(map[netip.Addr]bool, len(taken))
	for _, b := range taken {
		is[b.Prefix.Addr()] = true
	}
	raw := n.Prefix4.Addr().As4()
	first := binary.BigEndian.Uint32(raw[:])
	for i := range uint32(1) << (n.BlockBits - n.Prefix4.Bits()) {
		binary.BigEndian.PutUint32(raw[:], first+i<<(32-n.BlockBits))
		a := netip.AddrFrom4(raw)
		p := n.Grid(a)
		if !is[a] && (Blocks{{Network: n.Name, Prefix: p}}).Free(n, func(netip.Addr) bool { return false }) > 0 {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all blocks are leased: %w", address.ErrExhausted)
}
