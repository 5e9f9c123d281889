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
