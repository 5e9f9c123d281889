package fastpath_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
	"github.com/snapctl/snapctl/vem/fabric/fastpath/bpfmap"
	"github.com/snapctl/snapctl/vem/fabric/tcx"
	"github.com/snapctl/snapctl/vem/netns"
)

// newNet returns a scratch namespace, in which lo stands for all devices.
func newNet(t *testing.T) (n tcx.Net, lo int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace")
	}
	ns, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { ns.Close() })
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		n.NL, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})))
	t.Cleanup(n.NL.Close)
	n.Do = ns.Do
	dev, err := n.NL.LinkByName("lo")
	qt.Assert(t, qt.IsNil(err))
	return n, dev.Attrs().Index
}

func openTable(t *testing.T, n tcx.Net, uplink int) *fastpath.Table {
	t.Helper()
	table, err := fastpath.New(n, uplink)
	if problem, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		t.Fatalf("%+v", problem)
	}
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(table.Close())) })
	return table
}

var (
	prefix4 = netip.MustParsePrefix("10.77.0.0/16")
	prefix6 = netip.MustParsePrefix("fd77::/64")
	way     = fastpath.Path{
		Module: fastpath.Tunnel, Device: 7, MTU: 1420, Name: "beta", Accept: fastpath.Set(fastpath.Direct, fastpath.Tunnel),
		Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2"),
	}
)

// A table that is opened again has what the one before knew of other hosts.
func TestRemotesSurvive(t *testing.T) {
	n, lo := newNet(t)
	first := openTable(t, n, lo)
	addr, addr6 := netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("fd77::9")
	r := first.Remotes()
	routes := []fastpath.Route{{Addr: addr, Host: 3, Use: fastpath.Opening}, {Addr: addr6, Host: 3, Use: fastpath.Open}}
	qt.Assert(t, qt.IsNil(r.PutRoutes(routes)))
	qt.Assert(t, qt.IsNil(r.PutPath(3, fastpath.Path{Local: way.Local, Remote: way.Remote, Name: "old"})))
	qt.Assert(t, qt.IsNil(r.PutPath(3, way)))
	qt.Assert(t, qt.IsNil(r.PutSender(way.Remote, 3)))
	undo := filtersOnly() // as an earlier release has it
	qt.Assert(t, qt.IsNil(first.Install(n, lo, fastpath.Uplink)))
	undo()
	second := openTable(t, n, lo)
	qt.Assert(t, qt.IsNil(second.Install(n, lo, fastpath.Uplink)))
	qt.Assert(t, qt.IsNil(errors.Join(first.Close(), second.Close())))

	r = openTable(t, n, lo).Remotes()
	found := map[netip.Addr]fastpath.Route{}
	for route, err := range r.Routes() {
		qt.Assert(t, qt.IsNil(err))
		found[route.Addr] = route
	}
	qt.Check(t, qt.Equals(found[addr], routes[0]))
	qt.Check(t, qt.Equals(found[addr6], routes[1]))
	paths, err := r.Paths()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(paths, 1))
	qt.Check(t, qt.Equals(paths[3], way))
	senders, err := r.Senders()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(senders[way.Remote], 3))

	for range 2 {
		qt.Check(t, qt.IsNil(r.RemoveSender(way.Remote)))
		qt.Check(t, qt.IsNil(r.RemoveRoutes([]netip.Addr{addr, addr6})))
		qt.Check(t, qt.IsNil(r.RemovePath(3)))
	}
	paths, err = r.Paths()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(paths, 0))
	for route := range r.Routes() {
		t.Errorf("route %v is left", route)
	}
}

// What a release has left that knew nothing of machines beyond gateways is taken over, too.
func TestRemotesOfOlderRelease(t *testing.T) {
	n, lo := newNet(t)
	first := openTable(t, n, lo)
	qt.Assert(t, qt.IsNil(first.Remotes().PutPath(3, way)))
	qt.Assert(t, qt.IsNil(first.InstallOlder(n, lo)))
	r := openTable(t, n, lo).Remotes()
	paths, err := r.Paths()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(paths[3], way))
	one := map[bpfmap.Prefix]int{{Class: 3, Prefix: netip.MustParsePrefix("203.0.113.0/24")}: 3}
	qt.Assert(t, qt.IsNil(r.SetBeyond(one)))
	got, err := r.Beyond()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(got, one))
}

// Without an earlier run's program, or with one of another kind, a table begins empty.
func TestRemotesBegin(t *testing.T) {
	n, lo := newNet(t)
	qt.Check(t, qt.IsNil(openTable(t, n, 0).Remotes()))
	plain := openTable(t, n, lo)
	qt.Assert(t, qt.IsNil(plain.Remotes().PutPath(1, way)))
	qt.Assert(t, qt.IsNil(plain.Install(n, lo, fastpath.Plain)))
	paths, err := openTable(t, n, lo).Remotes().Paths()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(paths, 0))
}

// The programs at the host's end load, replace each other, and go.
func TestEnds(t *testing.T) {
	testEnds(t)
	defer filtersOnly()()
	testEnds(t)
}

func testEnds(t *testing.T) {
	t.Helper()
	n, lo := newNet(t)
	for _, six := range []netip.Prefix{prefix6, {}} {
		r := openTable(t, n, lo).Remotes()
		e, err := r.Ends(lo, prefix4, six)
		if problem, ok := errors.AsType[*ebpf.VerifierError](err); ok {
			t.Fatalf("%+v", problem)
		}
		qt.Assert(t, qt.IsNil(err))
		for range 2 {
			qt.Assert(t, qt.IsNil(e.InstallLeave(n)))
			qt.Assert(t, qt.IsNil(e.InstallArrive(n, lo)))
		}
		devices, err := fastpath.Arrivals(n, lo)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(devices, []int{lo}))
		qt.Check(t, qt.IsNil(e.RemoveLeave(n)))
		qt.Check(t, qt.IsNil(fastpath.RemoveArrive(n, lo, lo+1)))
		for range 2 {
			qt.Check(t, qt.IsNil(fastpath.RemoveArrive(n, lo, lo)))
		}
		qt.Check(t, qt.IsNil(e.Close()))
		filters, programs := installed(t, n, lo)
		qt.Check(t, qt.Equals(filters, [2]int{}))
		qt.Check(t, qt.Equals(programs, [2]int{}))
	}
}
