package leak

import (
	"errors"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// takeLinks looks at devices, addresses, routes and rules of the network
// namespace that the calling thread is in.
func (s State) takeLinks(owner string) error {
	nl := netlist.Here() // it changes while it is read: what a daemon has left goes some time after it
	links, err := netlist.Links(nl)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		s.add(owner, l.Type()+" device", l.Attrs().Name)
	}
	addrs, err := netlist.Addrs(nl)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if linkLocal(a.IPNet) {
			continue
		}
		s.add(owner, "address", fmt.Sprintf("%s on %s", a.IPNet, names[a.LinkIndex]))
	}
	// A filter by table "unspecified" lists all tables.
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := netlist.Routes(nl, netlink.FAMILY_ALL, all, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if linkLocal(r.Dst) {
			continue
		}
		s.add(owner, "route", fmt.Sprintf("%s dev %s table %d type %d", r.Dst, names[r.LinkIndex], r.Table, r.Type))
	}
	rules, err := netlist.Rules(nl, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	for _, r := range rules {
		s.add(owner, "rule", r.String())
	}
	return nil
}

// takeTables looks at the nft tables of a namespace. What iptables and CRIU
// make through nft is there too.
func (s State) takeTables(owner string, ns *netns.NS) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		return fmt.Errorf("list nft tables: %w", err)
	}
	tables, err := netlist.Firewall(int(ns.File().Fd()), c.ListTables)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // a kernel without nft has no tables
	}
	if err != nil {
		return fmt.Errorf("list nft tables: %w", err)
	}
	for _, t := range tables {
		s.add(owner, "nft table", fmt.Sprintf("%d %s", t.Family, t.Name))
	}
	return nil
}

// linkLocal tells whether the kernel makes and removes a route or address
// itself, a while after its device came up: IPv6 link-local and multicast.
func linkLocal(n *net.IPNet) bool {
	return n != nil && n.IP.To4() == nil && (n.IP.IsLinkLocalUnicast() || n.IP.IsMulticast())
}
