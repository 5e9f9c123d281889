package directory

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/directory/plan"
)

// What the plan of the addresses consists of.
type (
	// Block is a range of a network's addresses that one host may give out without asking.
	Block = plan.Block
	// Blocks are the blocks of one host.
	Blocks = plan.Blocks
	// BlockError is an address in a block that another host has leased.
	BlockError = plan.BlockError
	// Network is a virtual network of the installation.
	Network = plan.Network
	// NetworkError is a network that can't be there together with one that is.
	NetworkError = plan.NetworkError
)

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
	return list.Sorted(), err
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
		if p, err = n.FreeBlock(taken); err != nil {
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
		b, err = s.lease(ctx, n, n.Grid(a), now)
		if other, ok := errors.AsType[*BlockError](err); ok {
			other.Addr = a
		}
	}
	if err != nil {
		return b, fmt.Errorf("lease the block of address %s: %w", a, err)
	}
	return b, nil
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
