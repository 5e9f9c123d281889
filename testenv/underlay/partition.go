package underlay

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// Group is the nodes on one side of a partition.
type Group []Node

// Partition drops all frames between nodes of different groups, silently and in both
// directions, in place of the partition before. Nodes in no group reach all, and no
// groups at all is the end of the partition.
//
// A router is in a group, on one side, unless all that it connects is on one side: it
// is an error if one would lead from one group to another.
func (u *Underlay) Partition(groups ...Group) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.partition(groups); err != nil {
		return fmt.Errorf("partition: %w", err)
	}
	return nil
}

func (u *Underlay) partition(groups []Group) error {
	side := make(map[*node]int) // 0: none
	for i, g := range groups {
		for _, of := range g {
			n, err := u.node(of)
			if err != nil {
				return err
			}
			if side[n] != 0 {
				return fmt.Errorf("%s is in two groups", n.Name())
			}
			side[n] = i + 1
		}
	}
	if err := u.apart(side); err != nil {
		return err
	}
	for _, n := range u.networks {
		if err := n.divide(side); err != nil {
			return fmt.Errorf("network %s: %w", n.Name(), err)
		}
	}
	return nil
}

// apart checks that no chain of routers without a group connects two groups.
func (u *Underlay) apart(side map[*node]int) error {
	seen := make(map[*node]bool)
	for _, start := range u.nodes {
		if !start.forward || side[start] != 0 || seen[start] {
			continue
		}
		met := 0
		seen[start] = true
		for list := []*node{start}; len(list) > 0; {
			r := list[0]
			list = list[1:]
			for _, other := range r.neighbours() {
				switch s := side[other]; {
				case s != 0 && met != 0 && s != met:
					return fmt.Errorf("router %s leads from one group to another: put it in one", r.Name())
				case s != 0:
					met = s
				case other.forward && !seen[other]:
					seen[other] = true
					list = append(list, other)
				}
			}
		}
	}
	return nil
}

// neighbours are the nodes on the networks of a node.
func (n *node) neighbours() []*node {
	var list []*node
	for _, p := range n.ports {
		for _, other := range p.net.ports {
			if other != nil && other.node != n {
				list = append(list, other.node)
			}
		}
	}
	return list
}

// divide drops frames between the ports of nodes on different sides, and no others.
func (n *Network) divide(side map[*node]int) error {
	for _, a := range n.ports {
		for _, b := range n.ports {
			if a == nil || b == nil || a == b {
				continue
			}
			key := pair{From: uint32(a.index), To: uint32(b.index)}
			var err error
			if sa, sb := side[a.node], side[b.node]; sa != 0 && sb != 0 && sa != sb {
				err = n.taps.pairs.Put(key, uint32(1))
			} else if err = n.taps.pairs.Delete(key); errors.Is(err, ebpf.ErrKeyNotExist) {
				err = nil
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Heal ends all faults of all ports and the partition, gives carriers back, and makes
// routers speak. MTUs and addresses stay as they are.
func (u *Underlay) Heal(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	errs := []error{u.partition(nil)}
	for _, n := range u.networks {
		for _, p := range slices.DeleteFunc(slices.Clone(n.ports), func(p *Port) bool { return p == nil }) {
			errs = append(errs, p.Set(Both, Faults{}), p.Up(ctx))
		}
	}
	for _, r := range u.routers {
		errs = append(errs, r.SetSilent(false))
	}
	return errors.Join(errs...)
}
