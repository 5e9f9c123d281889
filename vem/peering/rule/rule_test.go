package rule

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// offers are those of a host that makes kinds, and was told to have one; "": none.
func offers(told string, kinds ...string) (list []message.Offer) {
	for _, k := range kinds {
		list = append(list, message.Offer{Module: k, Given: k == told})
	}
	return list
}

// An older release says nothing of what it was told, and gets the best that both make.
func TestKinds(t *testing.T) {
	all := []string{"direct", "tunnel", "vxlan"}
	qt.Check(t, qt.DeepEquals(Kinds(offers("", all...), offers("", all...)), all))
	qt.Check(t, qt.DeepEquals(Kinds(offers("", all...), []message.Offer{{Module: "vxlan"}, {Module: "pigeon"}}), []string{"vxlan"}))
	qt.Check(t, qt.HasLen(Kinds(nil, offers("", all...)), 0))
	for _, told := range [][2]string{{"direct", "vxlan"}, {"vxlan", "direct"}, {"vxlan", ""}} {
		one, two := offers(told[0], all...), offers(told[1], all...)
		qt.Check(t, qt.Equals(Kinds(one, two)[0], "vxlan"))
		qt.Check(t, qt.Equals(Kinds(two, one)[0], "vxlan"))
	}
}

func TestSuits(t *testing.T) {
	mine := offers("", "direct", "tunnel", "vxlan")
	qt.Check(t, qt.IsTrue(Suits(message.Channel{Module: "direct"}, mine)))
	qt.Check(t, qt.IsFalse(Suits(message.Channel{Module: "tunnel"}, mine)))
	qt.Check(t, qt.IsTrue(Suits(message.Channel{Module: "tunnel", Given: "tunnel"}, mine)))
	qt.Check(t, qt.IsFalse(Suits(message.Channel{Module: "direct"}, nil)))
}

func TestReaches(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.1:51820")
	theirs := []message.Offer{{Module: "wireguard", Underlay: []netip.AddrPort{at}, Parameters: []byte("key")}}
	c := message.Channel{Module: "wireguard", Remote: at, Parameters: []byte("key")}
	qt.Check(t, qt.IsTrue(Reaches(theirs, c)))
	c.Parameters = []byte("that of an earlier process")
	qt.Check(t, qt.IsFalse(Reaches(theirs, c)))
}

func TestLikely(t *testing.T) {
	mine := offers("vxlan", "direct", "vxlan")
	mine[1].MTU, mine[1].Underlay = 1420, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4789")}
	at := netip.MustParseAddr("192.0.2.2")
	there := []netip.AddrPort{netip.AddrPortFrom(at, 0)}
	theirs := Likely(mine, []netip.Addr{at})[1]
	qt.Check(t, qt.Equals(theirs.Module, "vxlan"))
	qt.Check(t, qt.IsFalse(theirs.Given))
	qt.Check(t, qt.Equals(theirs.MTU, 1420))
	qt.Check(t, qt.IsTrue(slices.Equal(theirs.Underlay, there)))
	qt.Check(t, qt.Equals(mine[1].Underlay[0].String(), "192.0.2.1:4789")) // as it was
}
