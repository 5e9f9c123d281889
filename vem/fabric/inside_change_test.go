package fabric_test

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// The daemon goes and comes back: conversations with clones go on.
func TestCloneAdopt(t *testing.T) {
	w := newCloned(t, testConfig(t))
	var open []net.Conn
	for _, pair := range w.pairs() {
		for family := range 2 {
			c, _, err := talk(t, w.places[pair[0]].ns, "tcp", w.places[pair[1]].address(family, 80), 10)
			qt.Assert(t, qt.IsNil(err))
			open = append(open, c)
		}
	}
	check := func(when string) {
		t.Helper()
		for _, c := range open {
			_, err := echo(c, "tcp", 1000, false)
			qt.Check(t, qt.IsNil(err), qt.Commentf("%s: %s to %s", when, c.LocalAddr(), c.RemoteAddr()))
		}
		for _, pair := range w.pairs() {
			w.check(t, pair[0], pair[1], "tcp", 0, 1000)
		}
	}
	check("before")
	qt.Assert(t, qt.IsNil(w.f.Close()))
	check("without a daemon")
	f, err := fabric.Open(t.Context(), w.cfg)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	check("adopted")
	qt.Assert(t, qt.IsNil(f.Attach(t.Context(), clone(2), w.places["c2"].ns)))
	check("attached again")
	qt.Assert(t, qt.IsNil(f.Detach(t.Context(), clone(3))))
	// From somebody new: the kernel limits ICMP errors to one address, and open
	// connections may have had theirs.
	_, err = dial(t, attach(t, f, clone(6)), netip.MustParseAddrPort("10.77.0.3:80"))
	qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
	qt.Assert(t, qt.IsNil(f.Attach(t.Context(), clone(3), w.places["c3"].ns)))
	check("detached and attached again")
}

// An endpoint that is attached again with other inside addresses has those and no
// others, and so after a restart of the daemon.
func TestCloneChanges(t *testing.T) {
	cfg := testConfig(t)
	f := open(t, cfg)
	app, peer := attach(t, f, ep(2)), attach(t, f, clone(3))
	elsewhere := ep(2)
	elsewhere.Inside4, elsewhere.Inside6 = netip.MustParseAddr("192.168.5.6"), netip.MustParseAddr("fdab::6")
	one := ep(2)
	one.Inside4 = inside.Addr4
	for _, e := range []fabric.Endpoint{clone(2), elsewhere, one, ep(2), one, elsewhere, ep(2), clone(2)} {
		qt.Assert(t, qt.IsNil(f.Attach(t.Context(), e, app)))
		qt.Assert(t, qt.IsNil(f.Close()))
		var err error
		f, err = fabric.Open(t.Context(), cfg)
		qt.Assert(t, qt.IsNil(err))
		t.Cleanup(func() { f.Close() })
		want := []netip.Addr{cmp.Or(e.Inside4, e.Addr4), cmp.Or(e.Inside6, e.Addr6)}
		for i, a := range []netip.Addr{e.Addr4, e.Addr6} {
			for name, ns := range map[string]*netns.NS{"clone": peer, "host": cfg.Host} {
				_, err := dial(t, ns, netip.AddrPortFrom(a, serve(t, app, netip.AddrPortFrom(want[i], 0).String()).Port()))
				qt.Check(t, qt.IsNil(err), qt.Commentf("%s to %s, inside %s", name, a, want[i]))
			}
		}
		qt.Check(t, qt.IsTrue(slices.Equal(eth0(t, app), want)), qt.Commentf("%v, not %v", eth0(t, app), want))
	}
}

// eth0 lists the addresses of an app's device.
func eth0(t *testing.T, ns *netns.NS) (list []netip.Addr) {
	t.Helper()
	h := handle(t, ns)
	link, err := h.LinkByName("eth0")
	qt.Assert(t, qt.IsNil(err))
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	qt.Assert(t, qt.IsNil(err))
	for _, a := range addrs {
		addr, _ := netip.AddrFromSlice(a.IP)
		list = append(list, addr.Unmap())
	}
	return list
}

// A clone's address goes to another app, plain or clone, and leaves nothing.
func TestCloneDetach(t *testing.T) {
	f := open(t, testConfig(t))
	for n, e := range []fabric.Endpoint{clone(2), ep(2), clone(2)} {
		// One of its own each time: the kernel limits ICMP errors to one address.
		peer, app := attach(t, f, clone(byte(3+n))), newNS(t)
		qt.Assert(t, qt.IsNil(f.Attach(t.Context(), e, app)))
		listen := eth0(t, app)
		for i, a := range []netip.Addr{e.Addr4, e.Addr6} {
			addr := netip.AddrPortFrom(a, serve(t, app, netip.AddrPortFrom(listen[i], 0).String()).Port())
			_, err := dial(t, peer, addr)
			qt.Check(t, qt.IsNil(err), qt.Commentf("%v", e))
		}
		qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(2))), qt.Commentf("the inside address need not be known"))
		_, err := dial(t, peer, netip.MustParseAddrPort("10.77.0.2:80"))
		qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH), qt.Commentf("%v", e))
	}
}
