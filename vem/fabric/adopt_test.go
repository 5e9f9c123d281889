package fabric_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// The daemon goes and comes back: nothing that is open notices.
func TestAdopt(t *testing.T) {
	cfg := testConfig(t)
	f := open(t, cfg)
	app, peer := attach(t, f, ep(2)), attach(t, f, ep(3))
	udpEcho(t, app, "10.77.0.2:80")
	pub := []fabric.Publication{{Proto: "udp", HostPort: 8080, Addr: ep(2).Addr4, Port: 80}}
	qt.Assert(t, qt.IsNil(f.SetPublications(t.Context(), pub)))
	flows := map[string]net.Conn{
		"10.77.0.3": dialUDP(t, peer, "10.77.0.2:80"),
		"10.77.0.1": dialUDP(t, cfg.Host, "127.0.0.1:8080"),
	}
	check := func(when string) {
		t.Helper()
		for want, c := range flows {
			saw, err := ask(t, c)
			qt.Assert(t, qt.IsNil(err), qt.Commentf("%s, from %s", when, want))
			qt.Check(t, qt.Equals(saw, want), qt.Commentf(when))
		}
	}
	check("before")
	qt.Assert(t, qt.IsNil(f.Close()))
	check("without a daemon")

	f, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	check("adopted")
	qt.Assert(t, qt.IsNil(f.Attach(t.Context(), ep(2), app)))
	qt.Assert(t, qt.IsNil(f.SetPublications(t.Context(), pub)))
	check("attached again")
	qt.Assert(t, qt.IsNil(f.Detach(t.Context(), ep(2))))
	_, err = dial(t, peer, netip.MustParseAddrPort("10.77.0.2:80"))
	qt.Check(t, qt.ErrorIs(err, unix.EHOSTUNREACH))
}

// Whatever piece is missing, Open and Attach put it back.
func TestRepair(t *testing.T) {
	delLink := func(name string) func(*testing.T, *netns.NS) {
		return func(t *testing.T, ns *netns.NS) {
			t.Helper()
			h := handle(t, ns)
			link, err := h.LinkByName(name)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(h.LinkDel(link)))
		}
	}
	type place int
	const (
		host place = iota
		inside
		app
	)
	for name, test := range map[string]struct {
		where  place
		damage func(*testing.T, *netns.NS)
	}{
		"host device":        {host, delLink("snap-default")},
		"host0":              {inside, delLink("host0")},
		"endpoint device":    {inside, delLink("ep0a4d0002")},
		"eth0":               {app, delLink("eth0")},
		"host's routes":      {host, delRoutes},
		"fabric's routes":    {inside, delRoutes},
		"app's routes":       {app, delRoutes},
		"host's addresses":   {host, delAddrs},
		"fabric's addresses": {inside, delAddrs},
		"app's addresses":    {app, delAddrs},
		"host's devices":     {host, setDown},
		"fabric's devices":   {inside, setDown},
		"app's devices":      {app, setDown},
		"host's neighbours":  {host, delNeighs},
		"fabric's neighbors": {inside, delNeighs},
		"app's neighbours":   {app, delNeighs},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			f := open(t, cfg)
			one, two := attach(t, f, ep(2)), attach(t, f, ep(3))
			test.damage(t, map[place]*netns.NS{host: cfg.Host, inside: f.Namespace(), app: one}[test.where])
			qt.Assert(t, qt.IsNil(f.Close()))

			f, err := fabric.Open(t.Context(), cfg)
			qt.Assert(t, qt.IsNil(err))
			defer f.Close()
			qt.Assert(t, qt.IsNil(f.Attach(t.Context(), ep(2), one)))
			qt.Assert(t, qt.IsNil(f.Attach(t.Context(), ep(3), two)))
			for _, way := range []string{"fast path", "kernel's routes"} {
				if way == "kernel's routes" {
					dropFastPath(t, f)
				}
				for _, listen := range []string{"10.77.0.2:0", "[fd77::2]:0"} {
					addr := serve(t, one, listen)
					for who, ns := range map[string]*netns.NS{"app": two, "host": cfg.Host, "itself": one} {
						_, err := dial(t, ns, addr)
						qt.Check(t, qt.IsNil(err), qt.Commentf("%s to %s by %s", who, listen, way))
					}
				}
			}
		})
	}
}

// The bind mount is gone, and with it the namespace: the host's half is useless.
func TestRepairLostNamespace(t *testing.T) {
	cfg := testConfig(t)
	f := open(t, cfg)
	attach(t, f, ep(2))
	qt.Assert(t, qt.IsNil(netns.Unbind(cfg.Dir+"/default")))
	again, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	defer again.Close()
	qt.Assert(t, qt.IsNil(f.Close()))
	addr := serve(t, attach(t, again, ep(3)), "10.77.0.3:80")
	_, err = dial(t, cfg.Host, addr)
	qt.Check(t, qt.IsNil(err))
}

func devices(t *testing.T, ns *netns.NS) (*netlink.Handle, []netlink.Link) {
	t.Helper()
	h := handle(t, ns)
	links, err := h.LinkList()
	qt.Assert(t, qt.IsNil(err))
	return h, links
}

func delRoutes(t *testing.T, ns *netns.NS) {
	t.Helper()
	h := handle(t, ns)
	for _, fam := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := h.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		qt.Assert(t, qt.IsNil(err))
		for _, r := range routes {
			if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(r, err)
			}
		}
	}
}

func delAddrs(t *testing.T, ns *netns.NS) {
	t.Helper()
	h, links := devices(t, ns)
	for _, l := range links {
		list, err := h.AddrList(l, netlink.FAMILY_ALL)
		qt.Assert(t, qt.IsNil(err))
		for _, a := range list {
			qt.Assert(t, qt.IsNil(h.AddrDel(l, &a)))
		}
	}
}

func setDown(t *testing.T, ns *netns.NS) {
	t.Helper()
	h, links := devices(t, ns)
	for _, l := range links {
		qt.Assert(t, qt.IsNil(h.LinkSetDown(l)))
	}
}

func delNeighs(t *testing.T, ns *netns.NS) {
	t.Helper()
	h, links := devices(t, ns)
	for _, l := range links {
		list, err := h.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		qt.Assert(t, qt.IsNil(err))
		for _, n := range list {
			if n.State == netlink.NUD_PERMANENT {
				qt.Assert(t, qt.IsNil(h.NeighDel(&n)))
			}
		}
	}
}
