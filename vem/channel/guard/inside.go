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
// nor for an address of the network, and what says it comes from an endpoint of this host.
type Inside struct {
	Table            string
	NS               *netns.NS // the fabric's; it stays the caller's
	Device           string
	Prefix4, Prefix6 netip.Prefix // an invalid one lets nothing of its family in
	// Refuse matches further packets that are dropped; nil: none are.
	Refuse []expr.Any
}

// refused is the counter of what was dropped.
const refused = "refused"

// Close puts the table in the place of the one that is there, if any.
func (i *Inside) Close() error {
	c, err := open(i.NS)
	if err != nil {
		return err
	}
	t := table(i.Table)
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	c.AddObj(&nftables.CounterObj{Table: t, Name: refused})
	chain := c.AddChain(&nftables.Chain{Name: "prerouting", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	drop := func(parts ...[]expr.Any) {
		all := slices.Concat(append([][]expr.Any{rule.In(i.Device)}, parts...)...)
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(all, count(refused), verdict(expr.VerdictDrop, ""))})
	}
	if i.Refuse != nil {
		drop(i.Refuse)
	}
	for n, prefix := range []netip.Prefix{i.Prefix4, i.Prefix6} {
		f := families[n]
		if !prefix.IsValid() {
			drop(is(f))
			continue
		}
		drop(rule.NotAddr(rule.Source, prefix))
		drop(rule.NotAddr(rule.Target, prefix))
		// An endpoint here, or the host.
		drop(is(f), routedBy(), compare(expr.CmpOpEq, []byte(fabric.EndpointPrefix)))
		drop(is(f), routedBy(), compare(expr.CmpOpEq, padded(fabric.UplinkDevice)))
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set firewall table %s of the fabric: %w", i.Table, err)
	}
	return nil
}

// Refused returns how many packets the table has dropped.
func (i *Inside) Refused() (uint64, error) {
	var all map[string]channel.Traffic
	all, err := counters(i.NS, i.Table)
	return all[refused].Packets, err
}

// Remove removes the table.
func (i *Inside) Remove() error { return remove(i.NS, i.Table) }
