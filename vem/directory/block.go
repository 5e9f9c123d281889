package directory

import (
	"cmp"
	"context"
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
	return append(l.Without(b), b).sorted()
}

// Without returns the blocks without one.
func (l Blocks) Without(b Block) Blocks {
	return slices.DeleteFunc(slices.Clone(l), func(c Block) bool { return c.Network == b.Network && c.Prefix == b.Prefix })
}

func (l Blocks) sorted() Blocks {
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
	return idle.sorted()
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

// grid returns the block of the network that an address is in.
func (n Network) grid(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a, n.BlockBits).Masked()
}

// Blocks returns the blocks of a host, of all networks; of all hosts for an empty name.
func (d *Directory) Blocks(ctx context.Context, host string) (Blocks, error) {
	list, err := d.blocks(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list blocks of addresses: %w", err)
	}
	if host != "" {
		list = slices.DeleteFunc(list, func(b Block) bool { return b.Host != host })
	}
	return list, nil
}

func (d *Directory) blocks(ctx context.Context, prefix string) (Blocks, error) {
	var list Blocks
	err := d.records(ctx, KindBlock, prefix, func(e Entry) error {
		var b Block
		err := d.decode(e, &b)
		b.Revision = e.Revision
		list = append(list, b)
		return err
	})
	return list.sorted(), err
}

// LeaseBlock gives the host the lowest block of a network that nobody has. It returns an error
// wrapping [address.ErrExhausted] if there is none.
//
// If the error wraps [ErrUnsure], the host may have a block more, which [Directory.Blocks] tells.
func (s *Session) LeaseBlock(ctx context.Context, network string, now time.Time) (Block, error) {
	n, err := s.d.Network(ctx, network)
	for err == nil {
		var taken Blocks
		if taken, err = s.d.blocks(ctx, network+"/"); err != nil {
			break
		}
		var p netip.Prefix
		if p, err = n.freeBlock(taken); err != nil {
			break
		}
		b, failed := s.lease(ctx, n, p, now)
		if _, others := errors.AsType[*BlockError](failed); !others {
			return b, failed
		}
	}
	return Block{}, fmt.Errorf("lease a block of network %s: %w", network, err)
}

// LeaseBlockOf gives the host the block that an address is in, unless it has it. It returns a
// [*BlockError] if another host has it.
func (s *Session) LeaseBlockOf(ctx context.Context, network string, a netip.Addr, now time.Time) (Block, error) {
	n, err := s.d.Network(ctx, network)
	if err == nil {
		err = n.Space().Check(a, func(netip.Addr) bool { return false })
	}
	if err == nil && !a.Is4() {
		err = errors.New("blocks are of IPv4 addresses")
	}
	var b Block
	if err == nil {
		b, err = s.lease(ctx, n, n.grid(a), now)
		if other, ok := errors.AsType[*BlockError](err); ok {
			other.Addr = a
		}
	}
	if err != nil {
		return b, fmt.Errorf("lease the block of address %s: %w", a, err)
	}
	return b, nil
}

// freeBlock returns the lowest block with an address for an app that is not taken.
func (n Network) freeBlock(taken Blocks) (netip.Prefix, error) {
	is := make(map[netip.Addr]bool, len(taken))
	for _, b := range taken {
		is[b.Prefix.Addr()] = true
	}
	raw := n.Prefix4.Addr().As4()
	first := binary.BigEndian.Uint32(raw[:])
	for i := range uint32(1) << (n.BlockBits - n.Prefix4.Bits()) {
		binary.BigEndian.PutUint32(raw[:], first+i<<(32-n.BlockBits))
		a := netip.AddrFrom4(raw)
		p := n.grid(a)
		if !is[a] && (Blocks{{Network: n.Name, Prefix: p}}).Free(n, func(netip.Addr) bool { return false }) > 0 {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all blocks are leased: %w", address.ErrExhausted)
}

// lease gives the host a block, unless it has it.
func (s *Session) lease(ctx context.Context, n Network, p netip.Prefix, now time.Time) (Block, error) {
	b := Block{Network: n.Name, Prefix: p, Host: s.host, LeasedAt: now.UTC().Truncate(time.Second)}
	key := s.d.keys.block(n.Name, p.Addr())
	have := b
	rev, err := s.create(ctx, []string{key}, map[string]Entry{}, func(now map[string]Entry) (Txn, error) {
		if e := now[key]; e.Revision != 0 {
			have = Block{}
			err := s.d.decode(e, &have)
			have.Revision = e.Revision
			if err == nil && have.Host != s.host {
				err = &BlockError{Addr: p.Addr(), Block: have}
			}
			return Txn{}, err
		}
		have = b
		return s.d.put(key, &b)
	})
	if have.Revision == 0 {
		have.Revision = rev
	}
	return have, err
}

// ReturnBlock gives a block of the host back. The caller has made sure that none of its
// addresses is in use, and gives out none any more.
func (s *Session) ReturnBlock(ctx context.Context, b Block) error {
	key := s.d.keys.block(b.Network, b.Prefix.Addr())
	_, err := s.change(ctx, []string{key}, nil, func(now map[string]Entry) (Txn, error) {
		e := now[key]
		if e.Revision == 0 {
			return Txn{}, nil
		}
		var have Block
		if err := s.d.decode(e, &have); err != nil || have.Host != s.host {
			return Txn{}, err // it is another host's by now
		}
		return Txn{Deletes: []string{key}}, nil
	})
	if err != nil {
		return fmt.Errorf("give back block %s of network %s: %w", b.Prefix, b.Network, err)
	}
	return nil
}
