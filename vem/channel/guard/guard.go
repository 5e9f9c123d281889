package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// Guard is the table of one network's channels. Its methods are called one at a time.
type Guard struct {
	Table string
	NS    *netns.NS // the host's; it stays the caller's
	// In matches the channels' packets that come, and Out those that go.
	In, Out []expr.Any
	// Mark is what becomes of a packet of a host, by its number, that is let in before it is accepted; nil:
	// nothing.
	Mark func(number int) []expr.Any
}

// Host is another host, which may send.
type Host struct {
	Number    int // from 1 on, no other host's
	Name      string
	Addresses []netip.Addr // that it sends from
	Note      string       // what else the next process wants to know, without spaces at its ends
}

// Underlay are the addresses of this host that packets may come for, with the names of the devices
// that have them. By other devices nothing comes.
type Underlay map[netip.Addr]string

// Stranger is the counter of what was dropped.
const Stranger = "stranger"

// The names of what else is in the table.
const (
	arrive  = "arrive"
	leave   = "leave"
	devices = "devices"
)

// From is the counter of what has come from a host, by its number, and the name of its chain.
func From(number int) string { return "from-" + strconv.Itoa(number) }

// To is the counter of what has gone to a host, and the name of its chain.
func To(number int) string { return "to-" + strconv.Itoa(number) }

func table(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

func open(ns *netns.NS) (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		return nil, fmt.Errorf("open firewall: %w", err)
	}
	return c, nil
}

// list returns a list that is whole.
func list[T any](ns *netns.NS, fn func(c *nftables.Conn) ([]T, error)) ([]T, error) {
	c, err := open(ns)
	if err != nil {
		return nil, err
	}
	return netlist.Firewall(int(ns.File().Fd()), func() ([]T, error) { return fn(c) })
}

// change makes one transaction in the table.
func (g *Guard) change(what string, fn func(c *nftables.Conn, t *nftables.Table) error) error {
	c, err := open(g.NS)
	if err != nil {
		return err
	}
	if err := fn(c, table(g.Table)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s in firewall table %s: %w", what, g.Table, err)
	}
	return nil
}

// Install puts the whole table in the place of the one that is there, if any.
func (g *Guard) Install(underlay Underlay, hosts []Host) error {
	return g.change("let hosts in", func(c *nftables.Conn, t *nftables.Table) error {
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
		c.AddTable(t)
		in := c.AddChain(&nftables.Chain{Name: "input", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		out := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
		drop, from, to := c.AddChain(&nftables.Chain{Name: Stranger, Table: t}), c.AddChain(&nftables.Chain{Name: arrive, Table: t}), c.AddChain(&nftables.Chain{Name: leave, Table: t})
		rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(parts...)})
		}
		c.AddObj(&nftables.CounterObj{Table: t, Name: Stranger})
		rule(drop, count(Stranger), verdict(expr.VerdictDrop, ""))
		rule(in, g.In, verdict(expr.VerdictJump, arrive))
		rule(out, g.Out, verdict(expr.VerdictJump, leave))

		d := deviceSet(t)
		if err := c.AddSet(d, nil); err != nil {
			return err
		}
		rule(from, load(expr.MetaKeyIIFNAME), among(d, inverted), verdict(expr.VerdictGoto, Stranger))
		for _, f := range families {
			here, sources, targets := f.here(t), f.hosts(t, "from"), f.hosts(t, "to")
			if err := errors.Join(c.AddSet(here, nil), c.AddSet(sources, nil), c.AddSet(targets, nil)); err != nil {
				return err
			}
			rule(from, is(f), f.load(f.target), among(here, inverted), verdict(expr.VerdictGoto, Stranger))
			rule(from, is(f), f.load(f.source), decide(sources))
			rule(to, is(f), f.load(f.target), decide(targets))
		}
		rule(from, verdict(expr.VerdictGoto, Stranger))
		if err := fillUnderlay(c, t, underlay); err != nil {
			return err
		}
		for _, h := range hosts {
			if err := g.admit(c, t, h); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetUnderlay lets packets in by these devices, and for these addresses.
func (g *Guard) SetUnderlay(underlay Underlay) error {
	return g.change("set underlay", func(c *nftables.Conn, t *nftables.Table) error {
		c.FlushSet(deviceSet(t))
		for _, f := range families {
			c.FlushSet(f.here(t))
		}
		return fillUnderlay(c, t, underlay)
	})
}

func fillUnderlay(c *nftables.Conn, t *nftables.Table, underlay Underlay) error {
	names := make(map[string]bool)
	for a, device := range underlay {
		if err := c.SetAddElements(familyOf(a).here(t), []nftables.SetElement{{Key: a.AsSlice()}}); err != nil {
			return err
		}
		names[device] = true
	}
	for name := range names {
		if err := c.SetAddElements(deviceSet(t), []nftables.SetElement{{Key: padded(name)}}); err != nil {
			return err
		}
	}
	return nil
}

// Add lets a new host in. One that is there is marked as this release marks it.
func (g *Guard) Add(h Host) error {
	return g.change("let a host in", func(c *nftables.Conn, t *nftables.Table) error { return g.admit(c, t, h) })
}

// Let lets a host in from further addresses, and has a new note of it. Those that it had before
// stay, until [Guard.Shut].
func (g *Guard) Let(before, now Host) error {
	return g.change("let a host in", func(c *nftables.Conn, t *nftables.Table) error {
		if before.Note != now.Note { // an element that is there keeps its comment
			both := slices.DeleteFunc(slices.Clone(before.Addresses), func(a netip.Addr) bool { return !slices.Contains(now.Addresses, a) })
			if err := bar(c, t, both); err != nil {
				return err
			}
		}
		return enter(c, t, now)
	})
}

func (g *Guard) admit(c *nftables.Conn, t *nftables.Table, h Host) error {
	var mark []expr.Any
	if g.Mark != nil {
		mark = g.Mark(h.Number)
	}
	for name, rest := range map[string][]expr.Any{
		From(h.Number): slices.Concat(mark, verdict(expr.VerdictAccept, "")),
		To(h.Number):   nil,
	} {
		chain := c.AddChain(&nftables.Chain{Name: name, Table: t})
		c.AddObj(&nftables.CounterObj{Table: t, Name: name})
		c.FlushChain(chain)
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(count(name), rest...)})
	}
	return enter(c, t, h)
}

// enter maps a host's addresses to its chains. Their comments are for the next run to know whose
// they are.
func enter(c *nftables.Conn, t *nftables.Table, h Host) error {
	comment := strings.TrimSpace(strconv.Itoa(h.Number) + " " + h.Name + " " + h.Note)
	for _, a := range h.Addresses {
		for direction, chain := range map[string]string{"from": From(h.Number), "to": To(h.Number)} {
			element := nftables.SetElement{Key: a.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}, Comment: comment}
			if err := c.SetAddElements(familyOf(a).hosts(t, direction), []nftables.SetElement{element}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Shut lets nothing in from addresses any more.
func (g *Guard) Shut(addresses []netip.Addr) error {
	if len(addresses) == 0 {
		return nil
	}
	return g.change("let a host's address in no more", func(c *nftables.Conn, t *nftables.Table) error { return bar(c, t, addresses) })
}

func bar(c *nftables.Conn, t *nftables.Table, addresses []netip.Addr) error {
	for _, a := range addresses {
		for _, direction := range []string{"from", "to"} {
			if err := c.SetDeleteElements(familyOf(a).hosts(t, direction), []nftables.SetElement{{Key: a.AsSlice()}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Drop lets nothing in from a host any more, and forgets its counters.
func (g *Guard) Drop(h Host) error {
	if have, err := g.There(); err != nil || !have {
		return err
	}
	return g.change("let a host in no more", func(c *nftables.Conn, t *nftables.Table) error {
		if err := bar(c, t, h.Addresses); err != nil {
			return err
		}
		for _, name := range []string{From(h.Number), To(h.Number)} {
			chain := &nftables.Chain{Name: name, Table: t}
			c.FlushChain(chain)
			c.DelChain(chain)
			c.DeleteObject(&nftables.CounterObj{Table: t, Name: name})
		}
		return nil
	})
}

// There tells whether the table is there: whoever loads a firewall's rules anew may have taken it
// away.
func (g *Guard) There() (bool, error) {
	tables, err := list(g.NS, func(c *nftables.Conn) ([]*nftables.Table, error) {
		return c.ListTablesOfFamily(nftables.TableFamilyINet)
	})
	if err != nil {
		return false, fmt.Errorf("list firewall tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == g.Table }), nil
}

// Hosts returns which hosts the table lets in, by their numbers; none if there is no table.
func (g *Guard) Hosts() (map[int]Host, error) {
	found := make(map[int]Host)
	if have, err := g.There(); err != nil || !have {
		return found, err
	}
	for _, f := range families {
		elements, err := list(g.NS, func(c *nftables.Conn) ([]nftables.SetElement, error) {
			return c.GetSetElements(f.hosts(table(g.Table), "from"))
		})
		if err != nil {
			return nil, fmt.Errorf("list hosts of firewall table %s: %w", g.Table, err)
		}
		for _, e := range elements {
			text, rest, _ := strings.Cut(e.Comment, " ")
			number, err := strconv.Atoi(text)
			a, ok := netip.AddrFromSlice(e.Key)
			if err != nil || !ok {
				continue
			}
			h := found[number]
			h.Number, h.Addresses = number, append(h.Addresses, a)
			h.Name, h.Note, _ = strings.Cut(rest, " ")
			found[number] = h
		}
	}
	return found, nil
}

// Counters returns what the table has counted, by the names of [From], [To] and [Stranger], with
// the bytes of outer packets.
func (g *Guard) Counters() (map[string]channel.Traffic, error) { return counters(g.NS, g.Table) }

func counters(ns *netns.NS, name string) (map[string]channel.Traffic, error) {
	all, err := list(ns, func(c *nftables.Conn) ([]nftables.Obj, error) { return c.GetObjects(table(name)) })
	if err != nil {
		return nil, fmt.Errorf("read counters of firewall table %s: %w", name, err)
	}
	found := make(map[string]channel.Traffic)
	for _, o := range all {
		if n, ok := o.(*nftables.CounterObj); ok {
			found[n.Name] = channel.Traffic{Packets: n.Packets, Bytes: n.Bytes}
		}
	}
	return found, nil
}

// Remove removes the table.
func (g *Guard) Remove() error { return remove(g.NS, g.Table) }

func remove(ns *netns.NS, name string) error {
	c, err := open(ns)
	if err != nil {
		return err
	}
	c.AddTable(table(name))
	c.DelTable(table(name))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete firewall table %s: %w", name, err)
	}
	return nil
}
