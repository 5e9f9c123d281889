package guard_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/channel/guard"
	"github.com/snapctl/snapctl/vem/fabric/rule"
	"github.com/snapctl/snapctl/vem/netns"
)

var (
	a4 = netip.MustParseAddr("192.0.2.1")
	b4 = netip.MustParseAddr("192.0.2.2")
	b6 = netip.MustParseAddr("2001:db8::2")
)

// The table knows its hosts, and what was noted of them, in the next process as well.
func TestHosts(t *testing.T) {
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	g := guard.Guard{Table: "test", NS: ns, In: rule.Port(unix.IPPROTO_UDP, 7), Out: rule.SourcePort(unix.IPPROTO_UDP, 7)}
	are := func(want ...guard.Host) {
		t.Helper()
		found, err := g.Hosts()
		qt.Assert(t, qt.IsNil(err))
		expected := map[int]guard.Host{}
		for _, h := range want {
			expected[h.Number] = h
		}
		qt.Check(t, qt.CmpEquals(found, expected, cmpopts.EquateComparable(netip.Addr{}), cmpopts.SortSlices(netip.Addr.Less)))
	}
	are()
	qt.Assert(t, qt.IsNil(g.Drop(guard.Host{Number: 1}))) // there is none
	one := guard.Host{Number: 1, Name: "one", Addresses: []netip.Addr{b4, b6}, Note: "a note"}
	qt.Assert(t, qt.IsNil(g.Install(guard.Underlay{a4: "lo"}, []guard.Host{one})))
	are(one)
	two := guard.Host{Number: 2, Name: "two", Addresses: []netip.Addr{b4.Next()}}
	qt.Assert(t, qt.IsNil(g.Add(two)))
	are(one, two)
	now := one
	now.Addresses, now.Note = []netip.Addr{b4}, "another one"
	qt.Assert(t, qt.IsNil(g.Let(one, now)))
	qt.Assert(t, qt.IsNil(g.Shut([]netip.Addr{b6})))
	qt.Assert(t, qt.IsNil(g.Shut(nil)))
	are(now, two)
	qt.Assert(t, qt.IsNil(g.SetUnderlay(nil)))
	counted, err := g.Counters()
	qt.Assert(t, qt.IsNil(err))
	for _, name := range []string{guard.From(1), guard.To(1), guard.From(2), guard.To(2), guard.Stranger} {
		_, ok := counted[name]
		qt.Check(t, qt.IsTrue(ok), qt.Commentf("%s", name))
	}
	qt.Assert(t, qt.IsNil(g.Drop(two)))
	are(now)
	qt.Assert(t, qt.IsNil(g.Remove()))
	qt.Assert(t, qt.IsNil(g.Remove()))
	have, err := g.There()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsFalse(have))
}

// The fabric's table comes and goes.
func TestInside(t *testing.T) {
	testenv.Need(t, testenv.Root)
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer ns.Close()
	i := guard.Inside{Table: "test", NS: ns, Device: "any0", Prefix4: netip.MustParsePrefix("10.77.0.0/16"), Refuse: rule.Port(unix.IPPROTO_TCP, 1)}
	for range 2 {
		qt.Assert(t, qt.IsNil(i.Close(guard.Machines{})))
		n, err := i.Refused()
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(n, 0))
	}
	qt.Assert(t, qt.IsNil(i.Remove()))
}
