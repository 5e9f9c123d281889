package handover_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/handover"
	"github.com/snapctl/snapctl/vem/handover/plain"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

func TestReaddress(t *testing.T) {
	at := netip.MustParseAddrPort
	near, far, near6, far6 := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.65"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::65")
	ends := func(all ...tcprepair.State) tcprepair.Connection { return tcprepair.Connection{Ends: all} }
	own, other := at("10.77.0.7:80"), at("10.77.0.9:4000")
	s := &handover.Saved{
		Connections: []tcprepair.Connection{
			ends(tcprepair.State{Local: own, Remote: at("10.77.0.1:4000")}),
			ends(tcprepair.State{Local: own, Remote: at("[::ffff:10.77.0.1]:4001")}),
			ends(tcprepair.State{Local: own, Remote: at("[fd00::1]:4002")}),
			ends(tcprepair.State{Local: own, Remote: other}),
			ends(tcprepair.State{Local: own, Remote: at("10.77.0.1:5")}, tcprepair.State{Local: at("10.77.0.1:5"), Remote: own}),
			ends(tcprepair.State{Local: own, Remote: at("198.51.100.7:443")}),
		},
		Waiting: []handover.Waiting{{State: tcprepair.State{Local: own, Remote: at("10.77.0.1:4003")}}},
		Others:  []plain.Socket{{Local: own, Remote: at("10.77.0.1:53"), Queue: []plain.Packet{{From: at("10.77.0.1:53"), To: own}}}, {Local: own}},
		Sockets: []hold.Socket{{Local: own, Remote: at("10.77.0.1:4000")}},
	}
	s.Readdress(map[netip.Addr]netip.Addr{near: far, near6: far6})
	var got []string
	for _, c := range s.Connections {
		got = append(got, c.Ends[0].Remote.String())
	}
	qt.Check(t, qt.DeepEquals(got, []string{
		"10.77.0.65:4000", "[::ffff:10.77.0.65]:4001", "[fd00::65]:4002", "10.77.0.9:4000",
		"10.77.0.1:5", // the app is its own peer
		"198.51.100.7:443",
	}))
	qt.Check(t, qt.Equals(s.Waiting[0].State.Remote, at("10.77.0.65:4003")))
	qt.Check(t, qt.Equals(s.Others[0].Remote, at("10.77.0.65:53")))
	qt.Check(t, qt.Equals(s.Others[0].Queue[0].From, at("10.77.0.65:53")))
	qt.Check(t, qt.Equals(s.Others[0].Queue[0].To, own))
	qt.Check(t, qt.IsFalse(s.Others[1].Remote.IsValid()))
	qt.Check(t, qt.Equals(s.Sockets[0].Remote, at("10.77.0.65:4000")))
	qt.Check(t, qt.DeepEquals(s.Beyond(func(a netip.Addr) bool { return netip.MustParsePrefix("10.77.0.0/16").Contains(a.Unmap()) || a.Is6() }),
		[]string{"tcp 10.77.0.7:80 to 198.51.100.7:443"}))
}
