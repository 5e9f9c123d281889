package guard

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/rule"
	"github.com/snapctl/snapctl/vem/netns"
)

// Inside is the table in a network's fabric. It drops what a device brings that is neither from
// nor for an address of the network, but for machines beyond gateways, and what says it comes from an
// endpoint of this host.
type Inside struct {
	Table            string
	NS               *netns.NS // the fabric's; it stays the caller's
	Device           string
	Prefix4, Prefix6 netip.Prefix // an invalid one lets nothing of its family in
	// Refuse matches further packets that are dropped; nil: none are. Allow matches packets that are let
	// in whatever their addresses are; nil: none are.
	Refuse, Allow []expr.Any
}

// Machines are those beyond gateways of which packets are let in.
type Machines struct {
	// Here are prefixes of machines behind this host, which are reached.
	Here []netip.Prefix
	// Of are prefixes of machines behind other hosts, which send.
	Of []Sender
}

// Sender is a gateway.
type Sender struct {
	From     []expr.Any // matches what that host has sent
	Prefixes []netip.Prefix
}

// The names of what else is in the table, and the counter of what was dropped.
const (
	refused = "refused"
	behind  = "behind" // what is for none of the network's addresses
	beyond  = "beyond" // what is from none
)

// Close puts the table in the place of the one that is there, if any, but goes on counting. It is one
// transaction: no packet finds no table.
func (i *Inside) Close(machines Machines) error {
	c, err := open(i.NS)
	if err != nil {
		return err
	}
	t := table(i.Table)
	c.AddTable(t)
	c.AddObj(&nftables.CounterObj{Table: t, Name: refused})
	chains := make(map[string]*nftables.Chain)
	for _, name := range []string{behind, beyond} {
		chains[name] = c.AddChain(&nftables.Chain{Name: name, Table: t})
	}
	first := c.AddChain(&nftables.Chain{Name: "prerouting", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	for _, chain := range []*nftables.Chain{first, chains[behind], chains[beyond]} {
		c.FlushChain(chain)
	}
	rules := func(chain *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(parts...)})
	}
	drop := slices.Concat(count(refused), verdict(expr.VerdictDrop, ""))
	in := rule.In(i.Device)
	if i.Refuse != nil {
		rules(first, in, i.Refuse, drop)
	}
	if i.Allow != nil {
		rules(first, in, i.Allow, verdict(expr.VerdictAccept, ""))
	}
	for n, prefix := range []netip.Prefix{i.Prefix4, i.Prefix6} {
		f := families[n]
		if !prefix.IsValid() {
			rules(first, in, is(f), drop)
			continue
		}
		rules(first, in, rule.NotAddr(rule.Source, prefix), verdict(expr.VerdictGoto, beyond))
		rules(first, in, rule.NotAddr(rule.Target, prefix), verdict(expr.VerdictJump, behind))
		// An endpoint here, or the host.
		rules(first, in, is(f), routedBy(), compare(expr.CmpOpEq, []byte(fabric.EndpointPrefix)), drop)
		rules(first, in, is(f), routedBy(), compare(expr.CmpOpEq, padded(fabric.UplinkDevice)), drop)
		rules(chains[beyond], rule.NotAddr(rule.Target, prefix), drop)
	}
	for _, p := range machines.Here {
		rules(chains[behind], rule.Addr(rule.Target, p), verdict(expr.VerdictReturn, ""))
	}
	for _, s := range machines.Of {
		for _, p := range s.Prefixes {
			rules(chains[beyond], s.From, rule.Addr(rule.Source, p), verdict(expr.VerdictAccept, ""))
		}
	}
	rules(chains[behind], drop)
	rules(chains[beyond], drop)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set firewall table %s of the fabric: %w", i.Table, err)
	}
	return nil
}

// Current tells whether the table is there as Close makes it: releases before there were gateways for
// machines that keep their addresses made another one.
func (i *Inside) Current() (bool, error) {
	chains, err := list(i.NS, func(c *nftables.Conn) ([]*nftables.Chain, error) {
		return c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	})
	if err != nil {
		return false, fmt.Errorf("list firewall chains of the fabric: %w", err)
	}
	return slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == i.Table && c.Name == beyond }), nil
}

// Refused returns how many packets the table has dropped.
func (i *Inside) Refused() (uint64, error) {
	var all map[string]channel.Traffic
	all, err := counters(i.NS, i.Table)
	return all[refused].Packets, err
}

// Remove removes the table.
func (i *Inside) Remove() error { return remove(i.NS, i.Table) }
