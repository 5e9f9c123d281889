// Package netlist lists what the kernel has in a network namespace: devices, addresses, routes, rules,
// queueing disciplines, filters, and what a firewall has ([Firewall]). Each list is whole: all is in it that
// was there the whole time.
//
// The kernel hands a long list out in pieces, and others may change what it lists between two of them.
// What it tells then may lack entries that nobody has touched: before Linux 6.9, for one, devices are
// counted in a list of each hash bucket, so that a device that goes hides another one
// (net/core/rtnetlink.c, rtnl_dump_ifinfo). The kernel marks the rest of such a list with NLM_F_DUMP_INTR
// (include/net/netlink.h, nl_dump_check_consistent), and it has to be asked again. Package net does not
// look at the mark, so it is no substitute.
package netlist

import (
	"errors"
	"fmt"
	"slices"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
)

// tries is how often a list is asked for that changes each time. Devices come and go by some hundreds a
// second at most, and a list takes less than a millisecond.
const tries = 100

// Here asks in the network namespace of the calling thread. It has no sockets that were open before, and
// needs no Close.
func Here() *netlink.Handle { return &netlink.Handle{} }

// Whole calls list until nothing has changed meanwhile. It returns an error wrapping
// [netlink.ErrDumpInterrupted] if something always has.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, fmt.Errorf("%w %d times: it changes faster than it can be read", err, tries)
}

// Messages is [Whole] for a list of the netlink package that does not look at the mark.
func Messages(list func() ([]mdnetlink.Message, error)) ([]mdnetlink.Message, error) {
	return Whole(func() ([]mdnetlink.Message, error) {
		all, err := list()
		if err == nil && slices.ContainsFunc(all, func(m mdnetlink.Message) bool { return m.Header.Flags&mdnetlink.DumpInterrupted != 0 }) {
			err = netlink.ErrDumpInterrupted
		}
		return all, err
	})
}

// Links lists the devices.
func Links(nl *netlink.Handle) ([]netlink.Link, error) { return Whole(nl.LinkList) }

// Addrs lists the addresses of both families, of all devices.
func Addrs(nl *netlink.Handle) ([]netlink.Addr, error) {
	return Whole(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
}

// Routes lists routes of an address family that are as one that is given, in those of its fields that
// a mask of netlink.RT_FILTER_... names.
func Routes(nl *netlink.Handle, family int, as *netlink.Route, mask uint64) ([]netlink.Route, error) {
	return Whole(func() ([]netlink.Route, error) { return nl.RouteListFiltered(family, as, mask) })
}

// Rules lists the routing rules of an address family.
func Rules(nl *netlink.Handle, family int) ([]netlink.Rule, error) {
	return Whole(func() ([]netlink.Rule, error) { return nl.RuleList(family) })
}

// Qdiscs lists the queueing disciplines of a device.
func Qdiscs(nl *netlink.Handle, of netlink.Link) ([]netlink.Qdisc, error) {
	return Whole(func() ([]netlink.Qdisc, error) { return nl.QdiscList(of) })
}

// Filters lists the filters at a hook of a device, netlink.HANDLE_MIN_INGRESS for one.
func Filters(nl *netlink.Handle, of netlink.Link, hook uint32) ([]netlink.Filter, error) {
	return Whole(func() ([]netlink.Filter, error) { return nl.FilterList(of, hook) })
}
