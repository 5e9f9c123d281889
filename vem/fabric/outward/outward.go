// Package outward has routes of a fabric that are for traffic with other hosts: those by which
// packets are answered that are too big for a channel, and those that note the addresses at
// which endpoints of other hosts see this host. Where channels are the kernel's routes it translates
// these addresses, too.
package outward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// ErrAddress says that an address can't be the host's own.
var ErrAddress = errors.New("not an address for the host")

// Net is one address family of the network.
type Net struct {
	Prefix  netip.Prefix
	Gateway netip.Addr
}

// Routes are those of one fabric.
type Routes struct {
	NS       *netns.NS       // the fabric's namespace
	NL       *netlink.Handle // in it
	Uplink   int             // the index of its device towards the host
	Nets     []Net
	Channels []string // devices of channels that the kernel's routes lead to
}

// Narrow has a table of routes for packets marked with a size, whose number is that size, for each of
// these sizes, and for no others. The routes lead to the host, where a program takes fragments on to the
// other host. The size is locked, without which IPv6 forwards by the device's
// (include/net/ip6_route.h, ip6_dst_mtu_maybe_forward).
func (r Routes) Narrow(sizes []int) error {
	for _, n := range r.Nets {
		rules, err := netlist.Rules(r.NL, family(n.Gateway))
		if err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
		have := make(map[int]bool)
		for _, rule := range rules {
			if rule.Mark == 0 || int(rule.Mark) != rule.Table { // the others are not ours
				continue
			}
			if have[rule.Table] = true; !slices.Contains(sizes, rule.Table) {
				if err := r.widen(n, rule.Table); err != nil {
					return err
				}
			}
		}
		for _, size := range sizes {
			if !have[size] {
				if err := r.narrow(n, size); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// narrow adds a table. The rule comes last: with it the table is whole.
func (r Routes) narrow(n Net, size int) error {
	route, rule := r.table(n, size)
	if err := r.NL.RouteReplace(route); err != nil {
		return fmt.Errorf("set route for packets of more than %d bytes: %w", size, err)
	}
	if err := r.NL.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule for packets of more than %d bytes: %w", size, err)
	}
	return nil
}

// widen removes a table. The rule goes last: by it a table is found again.
func (r Routes) widen(n Net, size int) error {
	route, rule := r.table(n, size)
	if err := r.NL.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route for packets of more than %d bytes: %w", size, err)
	}
	if err := r.NL.RuleDel(rule); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete rule for packets of more than %d bytes: %w", size, err)
	}
	return nil
}

func (r Routes) table(n Net, size int) (*netlink.Route, *netlink.Rule) {
	all := &net.IPNet{IP: make(net.IP, n.Gateway.BitLen()/8), Mask: net.CIDRMask(0, n.Gateway.BitLen())}
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Table, rule.Priority = family(n.Gateway), uint32(size), size, size
	return &netlink.Route{LinkIndex: r.Uplink, Dst: all, Gw: n.Gateway.AsSlice(), Table: size, MTU: size, MTULock: true}, rule
}

// SetSelf makes the host reachable at addresses of the network, which become the gateway's on
// the way to it, and at no others. A zero one is none. The routes that it adds are for the next
// run to find the addresses. It returns an error wrapping [ErrAddress].
//
// table is nil if there is no fast path: then only channels by routes know the host's addresses.
func (r Routes) SetSelf(table *fastpath.Table, a4, a6 netip.Addr) error {
	for _, n := range r.Nets {
		a := a4
		if n.Gateway.Is6() {
			a = a6
		}
		if a.IsValid() && (!n.Prefix.Contains(a) || a == n.Gateway) {
			return fmt.Errorf("%w: %s in %s", ErrAddress, a, n.Prefix)
		}
		if err := r.setSelf(table, n, a); err != nil {
			return err
		}
	}
	return r.translate(a4, a6)
}

func (r Routes) setSelf(table *fastpath.Table, n Net, a netip.Addr) error {
	before, err := r.self(n)
	if err != nil {
		return err
	}
	for _, b := range before {
		if b == a {
			continue
		}
		if table != nil {
			if err := table.Remove(b); err != nil {
				return err
			}
		}
		if err := r.NL.RouteDel(r.to(b)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s: %w", b, err)
		}
	}
	if !a.IsValid() {
		return nil
	}
	if err := r.NL.RouteReplace(r.to(a)); err != nil {
		return fmt.Errorf("set route to %s: %w", a, err)
	}
	if table == nil {
		return nil
	}
	return table.Put(a, n.Gateway, r.Uplink, fastpath.Plain)
}

func (r Routes) to(a netip.Addr) *netlink.Route {
	one := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
	return &netlink.Route{LinkIndex: r.Uplink, Dst: one, Scope: netlink.SCOPE_LINK}
}

// self returns the addresses that the host has for other hosts: one, or two after a SetSelf that
// was cut short.
func (r Routes) self(n Net) (list []netip.Addr, err error) {
	all, err := netlist.Routes(r.NL, family(n.Gateway), &netlink.Route{LinkIndex: r.Uplink}, netlink.RT_FILTER_OIF)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, route := range all {
		if route.Dst == nil {
			continue
		}
		ones, bits := route.Dst.Mask.Size()
		a, ok := netip.AddrFromSlice(route.Dst.IP)
		if a = a.Unmap(); ok && ones == bits && n.Prefix.Contains(a) && a != n.Gateway {
			list = append(list, a)
		}
	}
	return list, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
