package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/netns"
)

// guard is the network's firewall tables: what lets packets of known hosts in, and counts them.
//
//	host's table, input:  UDP port 7077 and the network's number
//	                        -> by an underlay device, for an address of this host, from a known one:
//	                           host's chain: count, mark by priority, accept
//	                        -> else count, drop
//	host's table, output: the same port and number -> host's chain: count
//	fabric's table:       from vxlan0 without the mark, or from where no other host's endpoint is -> drop
//
// The kernel keeps a packet's priority when it takes the outer header off (skb_scrub_packet), unlike
// its mark. Before routing nothing else has set it.
type guard struct {
	cfg          Config
	fabric, host *netns.NS
}

// passed is the priority of packets that were let in: "snap".
const passed = 0x736e6170

// The names of what is in the tables.
const (
	fabricTable = "snapctl-vxlan"
	stranger    = "stranger" // the chain for what is dropped, and its counter
	refused     = "refused"  // the fabric's counter
	arrive      = "arrive"
	leave       = "leave"
	devices     = "devices"
)

// fromChain and toChain are those of a host, and its counters' names.
func fromChain(number int) string { return "from-" + strconv.Itoa(number) }
func toChain(number int) string   { return "to-" + strconv.Itoa(number) }

func (g guard) table() *nftables.Table {
	return &nftables.Table{Name: "snapctl-vxlan-" + g.cfg.Network, Family: nftables.TableFamilyINet}
}

func open(ns *netns.NS) (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		return nil, fmt.Errorf("open firewall: %w", err)
	}
	return c, nil
}

// change makes one transaction in the host's table.
func (g guard) change(what string, fn func(c *nftables.Conn, t *nftables.Table) error) error {
	c, err := open(g.host)
	if err != nil {
		return err
	}
	if err := fn(c, g.table()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s in firewall table %s: %w", what, g.table().Name, err)
	}
	return nil
}

// family is what differs between IPv4 and IPv6 underlays.
type family struct {
	suffix   string
	number   byte
	source   uint32 // offset of the address in the IP header
	target   uint32
	size     uint32
	datatype nftables.SetDatatype
}

var families = []family{
	{"4", unix.NFPROTO_IPV4, 12, 16, 4, nftables.TypeIPAddr},
	{"6", unix.NFPROTO_IPV6, 8, 24, 16, nftables.TypeIP6Addr},
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

func (f family) here(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: "here" + f.suffix, KeyType: f.datatype}
}

// hosts is a map of addresses to hosts' chains: "from4", "to6".
func (f family) hosts(t *nftables.Table, direction string) *nftables.Set {
	return &nftables.Set{Table: t, Name: direction + f.suffix, KeyType: f.datatype, IsMap: true, DataType: nftables.TypeVerdict}
}

func deviceSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: devices, KeyType: nftables.TypeIFName}
}

// install puts the whole table in the place of the one that is there, if any.
func (g guard) install(underlay map[netip.Addr]device, hosts map[string]*entry) error {
	return g.change("let hosts in", func(c *nftables.Conn, t *nftables.Table) error {
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
		c.AddTable(t)
		in := c.AddChain(&nftables.Chain{Name: "input", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		out := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
		drop, from, to := c.AddChain(&nftables.Chain{Name: stranger, Table: t}), c.AddChain(&nftables.Chain{Name: arrive, Table: t}), c.AddChain(&nftables.Chain{Name: leave, Table: t})
		rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(parts...)})
		}
		c.AddObj(&nftables.CounterObj{Table: t, Name: stranger})
		rule(drop, count(stranger), verdict(expr.VerdictDrop, ""))
		rule(in, g.ours(), verdict(expr.VerdictJump, arrive))
		rule(out, g.ours(), verdict(expr.VerdictJump, leave))

		d := deviceSet(t)
		if err := c.AddSet(d, nil); err != nil {
			return err
		}
		rule(from, load(expr.MetaKeyIIFNAME), among(d, inverted), verdict(expr.VerdictGoto, stranger))
		for _, f := range families {
			here, sources, targets := f.here(t), f.hosts(t, "from"), f.hosts(t, "to")
			if err := errors.Join(c.AddSet(here, nil), c.AddSet(sources, nil), c.AddSet(targets, nil)); err != nil {
				return err
			}
			rule(from, is(f), f.load(f.target), among(here, inverted), verdict(expr.VerdictGoto, stranger))
			rule(from, is(f), f.load(f.source), decide(sources))
			rule(to, is(f), f.load(f.target), decide(targets))
		}
		rule(from, verdict(expr.VerdictGoto, stranger))
		if err := fillUnderlay(c, t, underlay); err != nil {
			return err
		}
		for _, e := range hosts {
			if err := admit(c, t, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// setUnderlay lets packets in by these devices, and for these addresses.
func (g guard) setUnderlay(underlay map[netip.Addr]device) error {
	return g.change("set underlay", func(c *nftables.Conn, t *nftables.Table) error {
		c.FlushSet(deviceSet(t))
		for _, f := range families {
			c.FlushSet(f.here(t))
		}
		return fillUnderlay(c, t, underlay)
	})
}

func fillUnderlay(c *nftables.Conn, t *nftables.Table, underlay map[netip.Addr]device) error {
	names := make(map[string]bool)
	for a, d := range underlay {
		if err := c.SetAddElements(familyOf(a).here(t), []nftables.SetElement{{Key: a.AsSlice()}}); err != nil {
			return err
		}
		names[d.name] = true
	}
	for name := range names {
		if err := c.SetAddElements(deviceSet(t), []nftables.SetElement{{Key: padded(name)}}); err != nil {
			return err
		}
	}
	return nil
}

// add lets a new host in.
func (g guard) add(e *entry) error {
	return g.change("let a host in", func(c *nftables.Conn, t *nftables.Table) error { return admit(c, t, e) })
}

// let lets a host that is known in from further addresses.
func (g guard) let(e *entry) error {
	return g.change("let a host in", func(c *nftables.Conn, t *nftables.Table) error { return enter(c, t, e) })
}

func admit(c *nftables.Conn, t *nftables.Table, e *entry) error {
	for name, rest := range map[string][]expr.Any{
		fromChain(e.number): append(prioritise(), verdict(expr.VerdictAccept, "")...),
		toChain(e.number):   nil,
	} {
		chain := c.AddChain(&nftables.Chain{Name: name, Table: t})
		c.AddObj(&nftables.CounterObj{Table: t, Name: name})
		c.FlushChain(chain)
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(count(name), rest...)})
	}
	return enter(c, t, e)
}

// enter maps a host's addresses to its chains. Their comments are for the next run to know whose
// they are.
func enter(c *nftables.Conn, t *nftables.Table, e *entry) error {
	comment := strconv.Itoa(e.number) + " " + e.status.Host.Name
	for _, a := range e.addresses() {
		for direction, chain := range map[string]string{"from": fromChain(e.number), "to": toChain(e.number)} {
			element := nftables.SetElement{Key: a.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}, Comment: comment}
			if err := c.SetAddElements(familyOf(a).hosts(t, direction), []nftables.SetElement{element}); err != nil {
				return err
			}
		}
	}
	return nil
}

// shut lets nothing in from addresses any more.
func (g guard) shut(addresses []netip.Addr) error {
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

// drop lets nothing in from a host any more, and forgets its counters.
func (g guard) drop(e *entry) error {
	if have, err := g.there(); err != nil || !have {
		return err
	}
	return g.change("let a host in no more", func(c *nftables.Conn, t *nftables.Table) error {
		if err := bar(c, t, e.addresses()); err != nil {
			return err
		}
		for _, name := range []string{fromChain(e.number), toChain(e.number)} {
			chain := &nftables.Chain{Name: name, Table: t}
			c.FlushChain(chain)
			c.DelChain(chain)
			c.DeleteObject(&nftables.CounterObj{Table: t, Name: name})
		}
		return nil
	})
}

// there tells whether the host's table is there: whoever loads a firewall's rules anew may have
// taken it away.
func (g guard) there() (bool, error) {
	c, err := open(g.host)
	if err != nil {
		return false, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list firewall tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == g.table().Name }), nil
}

// source is a host as the table has it.
type source struct {
	name      string
	addresses []netip.Addr
}

// sources returns which hosts the table lets in, by their numbers; none if there is no table.
func (g guard) sources() (map[int]source, error) {
	found := make(map[int]source)
	if have, err := g.there(); err != nil || !have {
		return found, err
	}
	c, err := open(g.host)
	if err != nil {
		return nil, err
	}
	for _, f := range families {
		elements, err := c.GetSetElements(f.hosts(g.table(), "from"))
		if err != nil {
			return nil, fmt.Errorf("list hosts of firewall table %s: %w", g.table().Name, err)
		}
		for _, e := range elements {
			text, name, _ := strings.Cut(e.Comment, " ")
			number, err := strconv.Atoi(text)
			a, ok := netip.AddrFromSlice(e.Key)
			if err != nil || !ok {
				continue
			}
			s := found[number]
			s.name, s.addresses = name, append(s.addresses, a)
			found[number] = s
		}
	}
	return found, nil
}

// counters returns what the host's table has counted, by names, with the bytes of outer packets.
func (g guard) counters() (map[string]channel.Traffic, error) { return counters(g.host, g.table()) }

// refusals returns how many packets the fabric's table has dropped.
func (g guard) refusals() (uint64, error) {
	all, err := counters(g.fabric, &nftables.Table{Name: fabricTable, Family: nftables.TableFamilyINet})
	return all[refused].Packets, err
}

func counters(ns *netns.NS, t *nftables.Table) (map[string]channel.Traffic, error) {
	c, err := open(ns)
	if err != nil {
		return nil, err
	}
	list, err := c.GetObjects(t)
	if err != nil {
		return nil, fmt.Errorf("read counters of firewall table %s: %w", t.Name, err)
	}
	found := make(map[string]channel.Traffic)
	for _, o := range list {
		if n, ok := o.(*nftables.CounterObj); ok {
			found[n.Name] = channel.Traffic{Packets: n.Packets, Bytes: n.Bytes}
		}
	}
	return found, nil
}

// remove removes both tables.
func (g guard) remove() error {
	for _, x := range []struct {
		ns    *netns.NS
		table *nftables.Table
	}{{g.host, g.table()}, {g.fabric, &nftables.Table{Name: fabricTable, Family: nftables.TableFamilyINet}}} {
		c, err := open(x.ns)
		if err != nil {
			return err
		}
		c.AddTable(x.table)
		c.DelTable(x.table)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("delete firewall table %s: %w", x.table.Name, err)
		}
	}
	return nil
}
