package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// rtaNexthop is RTA_NH_ID of include/uapi/linux/rtnetlink.h, which package unix does not have.
const rtaNexthop = 30

// Table has the routes of one kind of channels in one network. No two kinds may have the same
// numbers. Its methods are called one at a time.
type Table struct {
	NS       *netns.NS // the fabric's; it stays the caller's
	Protocol byte      // marks the routes (rtm_protocol)
	// Metric is that of all routes: more than IPv6's usual 1024, for those of the fabric to come
	// first. Of two kinds that have a route to one endpoint, the one with the lower metric is used.
	Metric uint32
	// Opening is the number of the table of routes that are being opened, and the priority of the
	// rule that leads there.
	Opening int
	// Aside has the number of the table of open routes, and of the priority of the rules that lead
	// there: for packets from some prefixes alone, see SetSources. 0: they are in the main table, for
	// all packets.
	Aside int
}

// Route leads packets for one address to a nexthop object.
type Route struct {
	Nexthop int
	State   channel.State
	Room    int // the size of the largest packet, in bytes; 0: the device says it
}

// rules are those that lead what the slow path writes back to the routes that are being opened.
func (t *Table) rules() (list []*netlink.Rule) {
	if t.Aside != 0 {
		return nil
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		r := netlink.NewRule()
		r.Family, r.IifName, r.Table, r.Priority = family, fabric.SlowDevice, t.Opening, t.Opening
		list = append(list, r)
	}
	return list
}

// SetSources has the routes of a table with Aside be for packets from these prefixes, and no others,
// by a socket in the table's namespace.
func (t *Table) SetSources(nl *netlink.Handle, list []netip.Prefix) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		have, err := netlist.Rules(nl, family)
		if err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		there := make(map[netip.Prefix]int)
		for _, r := range have {
			if r.Table != t.Opening && r.Table != t.Aside || r.Src == nil {
				continue
			}
			ones, _ := r.Src.Mask.Size()
			a, _ := netip.AddrFromSlice(r.Src.IP)
			p := netip.PrefixFrom(a.Unmap(), ones)
			if slices.Contains(list, p) {
				there[p]++
				continue
			}
			r.Family = family
			if err := nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("delete rule for packets from %s: %w", p, err)
			}
		}
		for _, p := range list {
			if p.Addr().Is4() != (family == unix.AF_INET) || there[p] == 2 {
				continue
			}
			for _, r := range t.from(p) {
				if err := nl.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
					return fmt.Errorf("add rule for packets from %s: %w", p, err)
				}
			}
		}
	}
	return nil
}

// from are the rules for a prefix.
func (t *Table) from(p netip.Prefix) (list []*netlink.Rule) {
	for _, number := range []int{t.Opening, t.Aside} {
		r := netlink.NewRule()
		r.Family, r.Table, r.Priority = unix.AF_INET, number, number
		r.Src = &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if p.Addr().Is6() {
			r.Family = unix.AF_INET6
		}
		if number == t.Opening {
			r.IifName = fabric.SlowDevice
		}
		list = append(list, r)
	}
	return list
}

// AddRules has routes that are being opened be found, by a socket in the table's namespace.
func (t *Table) AddRules(nl *netlink.Handle) error {
	for _, r := range t.rules() {
		if err := nl.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule for routes that are being opened: %w", err)
		}
	}
	return nil
}

// RemoveRules undoes AddRules.
func (t *Table) RemoveRules(nl *netlink.Handle) error {
	for _, r := range t.rules() {
		if err := nl.RuleDel(r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete rule for routes that are being opened: %w", err)
		}
	}
	return nil
}

// Set sets routes, and removes those of the same addresses with another state after, which before
// has: no packet finds none.
func (t *Table) Set(want, before map[netip.Addr]Route) error {
	var put, remove []mdnetlink.Message
	for a, r := range want {
		one, err := t.message(unix.RTM_NEWROUTE, mdnetlink.Create|mdnetlink.Replace, a, r)
		if err != nil {
			return err
		}
		put = append(put, one)
		old, ok := before[a]
		if !ok || old.State == r.State {
			continue
		}
		if one, err = t.message(unix.RTM_DELROUTE, 0, a, Route{Nexthop: old.Nexthop, State: old.State}); err != nil {
			return err
		}
		remove = append(remove, one)
	}
	if err := exchange(t.NS, put, nil); err != nil {
		return fmt.Errorf("set routes: %w", err)
	}
	if err := exchange(t.NS, remove, unix.ESRCH); err != nil {
		return fmt.Errorf("remove routes: %w", err)
	}
	return nil
}

// Remove removes routes, which may be gone.
func (t *Table) Remove(list map[netip.Addr]Route) error {
	var remove []mdnetlink.Message
	for a, r := range list {
		one, err := t.message(unix.RTM_DELROUTE, 0, a, Route{Nexthop: r.Nexthop, State: r.State})
		if err != nil {
			return err
		}
		remove = append(remove, one)
	}
	if err := exchange(t.NS, remove, unix.ESRCH); err != nil {
		return fmt.Errorf("remove routes: %w", err)
	}
	return nil
}

// List returns all routes. One that is in both states is open.
func (t *Table) List() (map[netip.Addr]Route, error) {
	all := make(map[netip.Addr]Route)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		for _, state := range []channel.State{channel.Opening, channel.Open} {
			if err := t.list(all, family, state); err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
		}
	}
	return all, nil
}

// table is where a route of a state is.
func (t *Table) table(s channel.State) uint32 {
	if s == channel.Opening {
		return uint32(t.Opening)
	}
	if t.Aside != 0 {
		return uint32(t.Aside)
	}
	return unix.RT_TABLE_MAIN
}

// message makes a request about a route.
func (t *Table) message(kind uint16, flags mdnetlink.HeaderFlags, a netip.Addr, r Route) (mdnetlink.Message, error) {
	header := []byte{unix.AF_INET, 32, 0, 0, 0, t.Protocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0} // struct rtmsg
	if a.Is6() {
		header[0], header[1] = unix.AF_INET6, 128
	}
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Bytes(unix.RTA_DST, a.AsSlice())
	attrs.Uint32(unix.RTA_TABLE, t.table(r.State))
	attrs.Uint32(unix.RTA_PRIORITY, t.Metric)
	attrs.Uint32(rtaNexthop, uint32(r.Nexthop))
	narrow(attrs, r.Room)
	return message(kind, flags, header, attrs)
}

// narrow adds how large packets may be; 0: as the device says.
func narrow(attrs *mdnetlink.AttributeEncoder, room int) {
	// Also where there is nothing to be said: a route of IPv4's that names a nexthop object and has no such
	// attribute gets what another one has that names the same (net/ipv4/fib_semantics.c, fib_create_info:
	// fib_find_info_nh).
	attrs.Nested(unix.RTA_METRICS, func(e *mdnetlink.AttributeEncoder) error {
		if room > 0 {
			// Locked: otherwise IPv6 forwards by the device's (ip6_dst_mtu_maybe_forward).
			e.Uint32(unix.RTAX_LOCK, 1<<unix.RTAX_MTU)
			e.Uint32(unix.RTAX_MTU, uint32(room))
		}
		return nil
	})
}

// list adds the routes that the kernel has of a family and state.
func (t *Table) list(all map[netip.Addr]Route, family byte, state channel.State) error {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[5] = family, t.Protocol
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.Uint32(unix.RTA_TABLE, t.table(state))
	list, err := Dump(t.NS, unix.RTM_GETROUTE, header, attrs)
	if errors.Is(err, unix.ENOENT) { // no such table
		return nil
	}
	if err != nil {
		return err
	}
	for _, one := range list {
		if len(one.Data) < unix.SizeofRtMsg || one.Data[5] != t.Protocol {
			continue
		}
		r, err := read(one.Data[unix.SizeofRtMsg:])
		if err != nil {
			return err
		}
		if r.addr.IsValid() && r.Nexthop != 0 {
			r.State = state
			all[r.addr] = r.Route
		}
	}
	return nil
}

// attributes are those of a route.
type attributes struct {
	Route

	addr   netip.Addr // the first of what it is for
	metric uint32
}

// read reads the attributes of a route.
func read(b []byte) (r attributes, err error) {
	ad, err := mdnetlink.NewAttributeDecoder(b)
	if err != nil {
		return r, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_DST:
			r.addr, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.RTA_PRIORITY:
			r.metric = ad.Uint32()
		case rtaNexthop:
			r.Nexthop = int(ad.Uint32())
		case unix.RTA_METRICS:
			ad.Nested(func(e *mdnetlink.AttributeDecoder) error {
				for e.Next() {
					if e.Type() == unix.RTAX_MTU {
						r.Room = int(e.Uint32())
					}
				}
				return nil
			})
		}
	}
	return r, ad.Err()
}
