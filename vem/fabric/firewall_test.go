package fabric_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// world is a scratch host with a network of two apps, and another machine that the
// host reaches at 192.0.2.2; the host is 192.0.2.1 there.
type world struct {
	cfg              fabric.Config
	f                *fabric.Fabric
	one, two, abroad *netns.NS
}

func newWorld(t *testing.T, outside fabric.Outside) world {
	t.Helper()
	w := world{cfg: testConfig(t), abroad: newNS(t)}
	w.cfg.Outside = outside
	joinPair(t, w.cfg.Host, w.abroad, "wan0")
	w.f = open(t, w.cfg)
	w.one, w.two = attach(t, w.f, ep(2)), attach(t, w.f, ep(3))
	return w
}

func TestOutside(t *testing.T) {
	const reachable, refused = "reachable", "refused"
	for outside, want := range map[fabric.Outside]struct{ v4, v6 string }{
		fabric.OutsideNone: {refused, refused},
		fabric.OutsideIPv4: {reachable, refused},
		fabric.OutsideDual: {reachable, reachable},
	} {
		t.Run(outside.String(), func(t *testing.T) {
			w := newWorld(t, outside)
			for listen, test := range map[string]struct{ want, sees string }{
				"192.0.2.2:80":     {want.v4, "192.0.2.1"},
				"[2001:db8::2]:80": {want.v6, "2001:db8::1"},
			} {
				saw, err := dial(t, w.one, serve(t, w.abroad, listen))
				if test.want == refused {
					qt.Check(t, qt.IsTrue(errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES)), qt.Commentf("%s: %v", listen, err))
					continue
				}
				qt.Assert(t, qt.IsNil(err), qt.Commentf(listen))
				qt.Check(t, qt.Equals(saw, test.sees))
			}
			saw, err := dial(t, w.one, serve(t, w.cfg.Host, "192.0.2.1:80"))
			qt.Assert(t, qt.IsNil(err), qt.Commentf("the host's other addresses"))
			qt.Check(t, qt.Equals(saw, "10.77.0.2"))
			saw, err = dial(t, w.one, serve(t, w.two, "10.77.0.3:80"))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(saw, "10.77.0.2"))
			saw, err = dial(t, w.cfg.Host, serve(t, w.two, "10.77.0.3:81"))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(saw, "10.77.0.1"))

			// Others cannot come in, even if they know the way and the host forwards.
			h := handle(t, w.abroad)
			link, err := h.LinkByName("wan0")
			qt.Assert(t, qt.IsNil(err))
			for _, r := range []struct{ dst, gw string }{{"10.77.0.0/16", "192.0.2.1"}, {"fd77::/64", "2001:db8::1"}} {
				addRoute(t, h, link, r.dst, r.gw)
			}
			for _, listen := range []string{"10.77.0.3:82", "[fd77::3]:82"} {
				// A host that does not forward drops without a word.
				_, err := dialWithin(t, w.abroad, serve(t, w.two, listen), 200*time.Millisecond)
				qt.Check(t, qt.IsNotNil(err), qt.Commentf("from abroad to %s", listen))
			}
		})
	}
}

func TestPublications(t *testing.T) {
	w := newWorld(t, fabric.OutsideNone)
	serve(t, w.two, "10.77.0.3:80")
	serve(t, w.two, "[fd77::3]:80")
	udpEcho(t, w.two, "10.77.0.3:53")
	a4, a6 := ep(3).Addr4, ep(3).Addr6
	qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), []fabric.Publication{
		{Proto: "tcp", HostPort: 8080, Addr: a4, Port: 80},
		{Proto: "tcp", HostPort: 8080, Addr: a6, Port: 80},
		{Proto: "udp", HostPort: 8053, Addr: a4, Port: 53},
		{Proto: "tcp", HostAddr: netip.MustParseAddr("127.0.0.1"), HostPort: 8081, Addr: a4, Port: 80},
		{Proto: "tcp", HostAddr: netip.MustParseAddr("192.0.2.1"), HostPort: 8082, Addr: a4, Port: 80},
	})))
	for name, test := range map[string]struct {
		from     *netns.NS
		to, sees string // sees: empty if not reachable
	}{
		"abroad":                   {w.abroad, "192.0.2.1:8080", "192.0.2.2"},
		"abroad, one address":      {w.abroad, "192.0.2.1:8082", "192.0.2.2"},
		"abroad, loopback only":    {w.abroad, "192.0.2.1:8081", ""},
		"host, own address":        {w.cfg.Host, "192.0.2.1:8080", "192.0.2.1"},
		"host, loopback":           {w.cfg.Host, "127.0.0.1:8080", "10.77.0.1"},
		"host, any loopback":       {w.cfg.Host, "127.9.9.9:8080", "10.77.0.1"},
		"host, loopback only":      {w.cfg.Host, "127.0.0.1:8081", "10.77.0.1"},
		"host, not on loopback":    {w.cfg.Host, "127.0.0.1:8082", ""},
		"host, gateway":            {w.cfg.Host, "10.77.0.1:8080", "10.77.0.1"},
		"host, IPv6":               {w.cfg.Host, "[2001:db8::1]:8080", "2001:db8::1"},
		"app, through the host":    {w.one, "192.0.2.1:8080", "10.77.0.1"},
		"app, through the gateway": {w.one, "10.77.0.1:8080", "10.77.0.1"},
		"app itself, through host": {w.two, "192.0.2.1:8080", "10.77.0.1"},
		"app, direct":              {w.one, "10.77.0.3:80", "10.77.0.2"},
		"app, not the host's port": {w.one, "10.77.0.3:8080", ""},
	} {
		t.Run(name, func(t *testing.T) {
			saw, err := dial(t, test.from, netip.MustParseAddrPort(test.to))
			if test.sees == "" {
				qt.Check(t, qt.ErrorIs(err, unix.ECONNREFUSED))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(saw, test.sees))
		})
	}
	for name, test := range map[string]struct {
		from     *netns.NS
		to, sees string
	}{
		"abroad":   {w.abroad, "192.0.2.1:8053", "192.0.2.2"},
		"loopback": {w.cfg.Host, "127.0.0.1:8053", "10.77.0.1"},
		"app":      {w.one, "192.0.2.1:8053", "10.77.0.1"},
	} {
		t.Run("udp/"+name, func(t *testing.T) {
			saw, err := ask(t, dialUDP(t, test.from, test.to))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(saw, test.sees))
		})
	}
	t.Run("none any more", func(t *testing.T) {
		qt.Check(t, qt.Equals(sysctl(t, w.cfg.Host, "ipv4/ip_forward"), "1"))
		qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), nil)))
		_, err := dial(t, w.abroad, netip.MustParseAddrPort("192.0.2.1:8080"))
		qt.Check(t, qt.ErrorIs(err, unix.ECONNREFUSED))
		qt.Check(t, qt.Equals(sysctl(t, w.cfg.Host, "ipv4/ip_forward"), "0"))
		qt.Check(t, qt.Equals(sysctl(t, w.cfg.Host, "ipv4/conf/snap-default/route_localnet"), "0"))
	})
}

// IPv6 ports are there for others too, whether apps reach the outside or not, also those that lead to another
// host: to that all come as this host. Nothing else gets in.
func TestPublicationsIPv6(t *testing.T) {
	for _, outside := range []fabric.Outside{fabric.OutsideNone, fabric.OutsideDual} {
		t.Run(outside.String(), func(t *testing.T) { testPublicationsIPv6(t, outside) })
	}
}

func testPublicationsIPv6(t *testing.T, outside fabric.Outside) {
	t.Helper()
	w := newWorld(t, outside)
	serve(t, w.two, "[fd77::3]:80")
	udpEcho(t, w.two, "[fd77::3]:53")
	serve(t, w.one, "[fd77::2]:80")
	udpEcho(t, w.one, "[fd77::2]:53")
	a6, far := ep(3).Addr6, ep(2).Addr6
	qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), []fabric.Publication{
		{Proto: "tcp", HostPort: 8080, Addr: a6, Port: 80},
		{Proto: "udp", HostPort: 8053, Addr: a6, Port: 53},
		{Proto: "tcp", HostPort: 8081, Addr: far, Port: 80, Far: true},
		{Proto: "udp", HostPort: 8054, Addr: far, Port: 53, Far: true},
	})))
	for to, want := range map[string]string{"[2001:db8::1]:8053": "2001:db8::2", "[2001:db8::1]:8054": "fd77::1"} {
		saw, err := ask(t, dialUDP(t, w.abroad, to))
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", to))
		qt.Check(t, qt.Equals(saw, want))
	}
	h := handle(t, w.abroad)
	link, err := h.LinkByName("wan0")
	qt.Assert(t, qt.IsNil(err))
	addRoute(t, h, link, "fd77::/64", "2001:db8::1")
	_, err = dial(t, w.abroad, netip.MustParseAddrPort("[fd77::3]:80"))
	qt.Check(t, qt.IsTrue(errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES)), qt.Commentf("%v", err))
	for name, test := range map[string]struct {
		from     *netns.NS
		to, sees string
	}{
		"abroad":               {w.abroad, "[2001:db8::1]:8080", "2001:db8::2"},
		"abroad, far":          {w.abroad, "[2001:db8::1]:8081", "fd77::1"},
		"host":                 {w.cfg.Host, "[2001:db8::1]:8080", "2001:db8::1"},
		"app, through gateway": {w.one, "[fd77::1]:8080", "fd77::1"},
		"app, through host":    {w.one, "[2001:db8::1]:8080", "fd77::1"},
	} {
		t.Run(name, func(t *testing.T) {
			saw, err := dial(t, test.from, netip.MustParseAddrPort(test.to))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(saw, test.sees))
		})
	}
	qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), nil)))
	want := map[fabric.Outside]string{fabric.OutsideNone: "0", fabric.OutsideDual: "1"}[outside]
	qt.Check(t, qt.Equals(sysctl(t, w.cfg.Host, "ipv6/conf/all/forwarding"), want))
}

// A UDP client that never stops follows a change of its port's app.
func TestPublicationMoves(t *testing.T) {
	w := newWorld(t, fabric.OutsideNone)
	udpEcho(t, w.two, "10.77.0.3:53")
	pub := fabric.Publication{Proto: "udp", HostPort: 8053, Addr: ep(2).Addr4, Port: 53}
	qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), []fabric.Publication{pub})))
	c := dialUDP(t, w.abroad, "192.0.2.1:8053")
	_, err := ask(t, c)
	qt.Assert(t, qt.ErrorIs(err, unix.ECONNREFUSED), qt.Commentf("nobody listens in the first app"))
	pub.Addr = ep(3).Addr4
	qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), []fabric.Publication{pub})))
	saw, err := ask(t, c)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(saw, "192.0.2.2"))
}

func TestPublicationsAreChecked(t *testing.T) {
	f := open(t, testConfig(t))
	a4, a6 := ep(2).Addr4, ep(2).Addr6
	good := fabric.Publication{Proto: "tcp", HostPort: 80, Addr: a4, Port: 80}
	for name, list := range map[string][]fabric.Publication{
		"protocol":  {{Proto: "sctp", HostPort: 80, Addr: a4, Port: 80}},
		"host port": {{Proto: "tcp", Addr: a4, Port: 80}},
		"port":      {{Proto: "tcp", HostPort: 80, Addr: a4}},
		"target":    {{Proto: "tcp", HostPort: 80, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}},
		"family":    {{Proto: "tcp", HostAddr: netip.MustParseAddr("192.0.2.1"), HostPort: 80, Addr: a6, Port: 80}},
		"twice":     {good, good},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Check(t, qt.ErrorIs(f.SetPublications(t.Context(), list), fabric.ErrConfig))
		})
	}
}

// Many ports are one transaction.
func TestManyPublications(t *testing.T) {
	w := newWorld(t, fabric.OutsideNone)
	var list []fabric.Publication
	for p := range uint16(2000) {
		list = append(list, fabric.Publication{Proto: "tcp", HostPort: 10000 + p, Addr: ep(3).Addr4, Port: 80})
	}
	qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), list)))
	serve(t, w.two, "10.77.0.3:80")
	_, err := dial(t, w.abroad, netip.MustParseAddrPort("192.0.2.1:11999"))
	qt.Check(t, qt.IsNil(err))
}

// Forwarding goes back to what it was when the last network that needs it goes.
func TestForwardingIsShared(t *testing.T) {
	cfg := testConfig(t)
	cfg.Outside = fabric.OutsideIPv4
	first, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	defer first.Close()
	cfg.Network, cfg.Prefix4, cfg.Prefix6 = "second", netip.MustParsePrefix("10.78.0.0/24"), netip.Prefix{}
	second, err := fabric.Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	defer second.Close()
	records := func() string {
		list, err := filepath.Glob(filepath.Join(cfg.Dir, "*.forwarding"))
		qt.Assert(t, qt.IsNil(err))
		for i := range list {
			list[i] = filepath.Base(list[i])
		}
		return strings.Join(list, " ")
	}
	qt.Check(t, qt.Equals(records(), "default.forwarding second.forwarding"))
	qt.Assert(t, qt.IsNil(first.Delete(t.Context())))
	qt.Check(t, qt.Equals(records(), "second.forwarding"))
	qt.Check(t, qt.Equals(sysctl(t, cfg.Host, "ipv4/ip_forward"), "1"))
	qt.Assert(t, qt.IsNil(second.Delete(t.Context())))
	checkClean(t, cfg)
}
