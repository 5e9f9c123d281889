package routes_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/channel/routes"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// Routes of both families and states are as they were set, and those of others are left alone.
func TestRoutes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	const four, six = 14, 16
	var nl *netlink.Handle
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})))
	defer nl.Close()
	lo, err := nl.LinkByName("lo")
	qt.Assert(t, qt.IsNil(err))
	for id, family := range map[uint32]byte{four: unix.AF_INET, six: unix.AF_INET6} {
		attrs := mdnetlink.NewAttributeEncoder()
		attrs.Uint32(1, id)                            // NHA_ID
		attrs.Uint32(5, uint32(lo.Attrs().Index))      // NHA_OIF
		header := []byte{family, 0, 79, 0, 0, 0, 0, 0} // struct nhmsg
		qt.Assert(t, qt.IsNil(routes.Request(ns, 104, mdnetlink.Create, header, attrs)))
	}
	all, err := routes.Dump(ns, 106, make([]byte, 8), mdnetlink.NewAttributeEncoder())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(all, 2))

	table := routes.Table{NS: ns, Protocol: 79, Metric: 3000, Opening: 7079}
	other := routes.Table{NS: ns, Protocol: 80, Metric: 3001, Opening: 7080}
	for range 2 {
		qt.Assert(t, qt.IsNil(table.AddRules(nl)))
	}
	are := func(table routes.Table, want map[netip.Addr]routes.Route) {
		t.Helper()
		list, err := table.List()
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(list, want))
	}
	are(table, map[netip.Addr]routes.Route{})
	v4, v6 := netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("fd77::9")
	theirs := map[netip.Addr]routes.Route{v4: {Nexthop: four, State: channel.Open}}
	qt.Assert(t, qt.IsNil(other.Set(theirs, nil)))
	opening := map[netip.Addr]routes.Route{v4: {Nexthop: four, State: channel.Opening}, v6: {Nexthop: six, State: channel.Opening, Room: 1300}}
	qt.Assert(t, qt.IsNil(table.Set(opening, nil)))
	are(table, opening)
	open := map[netip.Addr]routes.Route{v4: {Nexthop: four, State: channel.Open, Room: 1400}, v6: {Nexthop: six, State: channel.Open}}
	for range 2 {
		qt.Assert(t, qt.IsNil(table.Set(open, opening)))
		are(table, open)
	}
	// One that has room again gets nothing of another one that has not yet.
	wide := map[netip.Addr]routes.Route{v4.Next(): {Nexthop: four, State: channel.Open}, v6: open[v6]}
	qt.Assert(t, qt.IsNil(table.Set(wide, nil)))
	are(table, map[netip.Addr]routes.Route{v4: open[v4], v4.Next(): wide[v4.Next()], v6: open[v6]})
	qt.Assert(t, qt.IsNil(table.Remove(wide)))
	for range 2 {
		qt.Assert(t, qt.IsNil(table.Remove(open)))
		are(table, map[netip.Addr]routes.Route{})
	}
	are(other, theirs)
	many := make(map[netip.Addr]routes.Route)
	for n := range 1000 {
		a := binary.BigEndian.AppendUint32(nil, 10<<24|78<<16|uint32(n))
		many[netip.AddrFrom4([4]byte(a))] = routes.Route{Nexthop: four, State: channel.Open}
	}
	qt.Assert(t, qt.IsNil(table.Set(many, nil)))
	are(table, many)
	qt.Check(t, qt.ErrorMatches(table.Set(map[netip.Addr]routes.Route{v4: {Nexthop: 99, State: channel.Open}}, nil), "set routes: .*"))
	for range 2 {
		qt.Assert(t, qt.IsNil(table.RemoveRules(nl)))
	}
}

// Prefixes have their ways, and a fence where there is none; what others have, and endpoints' routes of
// packets from elsewhere, are left alone.
func TestPrefixes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	var nl *netlink.Handle
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})))
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fabric.UplinkDevice
	link := netlink.NewVeth(attrs)
	link.PeerName = "other0"
	qt.Assert(t, qt.IsNil(nl.LinkAdd(link)))
	index := uint32(link.Attrs().Index)
	for _, text := range []string{"10.77.0.1/16", "fd77::1/64"} {
		a, err := netlink.ParseAddr(text)
		qt.Assert(t, qt.IsNil(err))
		a.Flags = unix.IFA_F_NODAD
		qt.Assert(t, qt.IsNil(nl.AddrAdd(link, a)))
	}
	for _, name := range []string{fabric.UplinkDevice, "other0"} {
		l, err := nl.LinkByName(name)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(nl.LinkSetUp(l)))
	}
	const one = 16 // carries both families, by a gateway that is an IPv6 address
	enc := mdnetlink.NewAttributeEncoder()
	enc.Uint32(1, one)                                                     // NHA_ID
	enc.Uint32(5, index)                                                   // NHA_OIF
	enc.Bytes(6, netip.MustParseAddr("fe80::7").AsSlice())                 // NHA_GATEWAY
	header := []byte{unix.AF_INET6, 0, 79, 0, unix.RTNH_F_ONLINK, 0, 0, 0} // struct nhmsg
	qt.Assert(t, qt.IsNil(routes.Request(ns, 104, mdnetlink.Create, header, enc)))

	p := routes.Prefixes{NS: ns, Protocol: 79, Metric: 3000, Gateways: []netip.Addr{netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("fd77::2")}}
	other := routes.Prefixes{NS: ns, Protocol: 80, Metric: 3001, Gateways: p.Gateways}
	four, six, wide := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:7::/48"), netip.MustParsePrefix("198.51.100.0/24")
	are := func(p routes.Prefixes, want map[netip.Prefix]routes.Way) {
		t.Helper()
		list, err := p.List()
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(list, want))
	}
	lead := func(to string) (why error) {
		r, err := nl.RouteGet(netip.MustParseAddr(to).AsSlice())
		if err == nil && len(r) != 1 {
			t.Fatalf("routes to %s: %v", to, r)
		}
		return err
	}
	theirs := map[netip.Prefix]routes.Way{four: {Nexthop: one}}
	qt.Assert(t, qt.IsNil(other.Set(theirs)))
	for _, want := range []map[netip.Prefix]routes.Way{
		{four: {Nexthop: one, Room: 1300}, six: {Nexthop: one}, wide: {Nexthop: routes.Here}},
		{four: {Nexthop: routes.Here}, six: {Nexthop: routes.Here}, wide: {Nexthop: one}},
		{six: {Nexthop: one, Room: 1280}},
	} {
		for range 2 {
			qt.Assert(t, qt.IsNil(p.Set(want)))
			are(p, want)
		}
	}
	qt.Assert(t, qt.IsNil(p.Set(map[netip.Prefix]routes.Way{four: {Nexthop: routes.Nowhere}, six: {Nexthop: routes.Nowhere}})))
	are(p, map[netip.Prefix]routes.Way{})
	are(other, theirs)
	qt.Check(t, qt.IsNil(lead("203.0.113.7")))
	qt.Check(t, qt.IsNotNil(lead("2001:db8:7::7")))
	qt.Assert(t, qt.IsNil(other.Set(nil)))
	qt.Check(t, qt.ErrorIs(lead("203.0.113.7"), unix.EINVAL)) // what a blackhole says
	qt.Assert(t, qt.IsNil(p.Set(nil)))
	qt.Check(t, qt.ErrorIs(lead("203.0.113.7"), unix.ENETUNREACH))

	aside := routes.Table{NS: ns, Protocol: 81, Metric: 3002, Opening: 7075, Aside: 7076}
	for _, sources := range [][]netip.Prefix{{four, six}, {six, wide}, nil} {
		for range 2 {
			qt.Assert(t, qt.IsNil(aside.SetSources(nl, sources)))
			count := 0
			for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
				rules, err := netlist.Rules(nl, family)
				qt.Assert(t, qt.IsNil(err))
				for _, r := range rules {
					if r.Table == aside.Opening || r.Table == aside.Aside {
						count++
					}
				}
			}
			qt.Check(t, qt.Equals(count, 2*len(sources)))
		}
	}
}
