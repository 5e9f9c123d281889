package fabric_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/vishvananda/netlink"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// A machine that routes the network's prefixes to the host reaches endpoints if that is a gateway:
// as the host, or, where its address is kept, as itself, and is reached there.
func TestGateway(t *testing.T) {
	for _, outside := range []fabric.Outside{fabric.OutsideNone, fabric.OutsideIPv4} {
		t.Run(outside.String(), func(t *testing.T) {
			w := newWorld(t, outside)
			h := handle(t, w.abroad)
			link, err := h.LinkByName("wan0")
			qt.Assert(t, qt.IsNil(err))
			for _, r := range []struct{ dst, gw string }{{"10.77.0.0/16", "192.0.2.1"}, {"fd77::/64", "2001:db8::1"}} {
				addRoute(t, h, link, r.dst, r.gw)
			}
			four, six := serve(t, w.two, "10.77.0.3:82"), serve(t, w.two, "[fd77::3]:82")
			back4, back6 := serve(t, w.abroad, "192.0.2.2:80"), serve(t, w.abroad, "[2001:db8::2]:80")
			set := func(g fabric.Gateway, list ...fabric.Publication) {
				t.Helper()
				qt.Assert(t, qt.IsNil(w.f.SetGateway(g)))
				qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), list)))
			}
			sees := func(to netip.AddrPort, want string) {
				t.Helper()
				saw, err := dial(t, w.abroad, to)
				qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", to))
				qt.Check(t, qt.Equals(saw, want))
			}
			set(fabric.Gateway{On: true})
			sees(four, "10.77.0.1")
			sees(six, "fd77::1")

			keep := fabric.Gateway{On: true, Keep: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32"), netip.MustParsePrefix("2001:db8::2/128")}}
			far := fabric.Publication{Proto: "tcp", HostPort: 8082, Addr: ep(3).Addr4, Port: 82, Far: true}
			near := fabric.Publication{Proto: "tcp", HostPort: 8083, Addr: ep(3).Addr4, Port: 82}
			set(keep, far, near)
			sees(four, "192.0.2.2")
			sees(six, "2001:db8::2")
			// By a published port it is seen as the host: an answer could come by another gateway, which
			// knows nothing of the port.
			sees(netip.MustParseAddrPort("192.0.2.1:8082"), "10.77.0.1")
			sees(netip.MustParseAddrPort("192.0.2.1:8083"), "10.77.0.1")
			for to, want := range map[netip.AddrPort]string{back4: "10.77.0.2", back6: "fd77::2"} {
				saw, err := dial(t, w.one, to)
				qt.Assert(t, qt.IsNil(err))
				qt.Check(t, qt.Equals(saw, want))
			}

			// Another host is the gateway: its answer to what came by a port of this host would go there.
			set(fabric.Gateway{}, near)
			sees(netip.MustParseAddrPort("192.0.2.1:8083"), "192.0.2.2")
			set(fabric.Gateway{Elsewhere: keep.Keep}, near)
			sees(netip.MustParseAddrPort("192.0.2.1:8083"), "10.77.0.1")

			set(fabric.Gateway{}, far)
			sees(netip.MustParseAddrPort("192.0.2.1:8082"), "10.77.0.1")
			saw, err := dial(t, w.cfg.Host, netip.MustParseAddrPort("127.0.0.1:8082"))
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(saw, "10.77.0.1"))
			for _, to := range []netip.AddrPort{four, six} {
				_, err := dialWithin(t, w.abroad, to, 200*time.Millisecond)
				qt.Check(t, qt.IsNotNil(err))
			}
			set(fabric.Gateway{})
			qt.Check(t, qt.Equals(sysctl(t, w.cfg.Host, "ipv6/conf/all/forwarding"), "0"))
		})
	}
	w := newWorld(t, fabric.OutsideNone)
	for _, wrong := range []string{"10.77.3.0/24", "10.0.0.0/8", "fd77::/48", "192.0.2.1/24"} {
		err := w.f.SetGateway(fabric.Gateway{On: true, Keep: []netip.Prefix{netip.MustParsePrefix(wrong)}})
		qt.Check(t, qt.ErrorIs(err, fabric.ErrConfig), qt.Commentf("%s", wrong))
	}
}

// What an endpoint of another host sends before this host knows of the way there finds nobody, and is
// not answered: an answer would end a connection that has only begun too early.
func TestTooEarly(t *testing.T) {
	w := newWorld(t, fabric.OutsideNone)
	h := handle(t, w.abroad)
	link, err := h.LinkByName("wan0")
	qt.Assert(t, qt.IsNil(err))
	addRoute(t, h, link, "10.77.0.0/16", "192.0.2.1")
	elsewhere, err := netlink.ParseAddr("10.77.0.99/32")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(h.AddrAdd(link, elsewhere)))
	var app *net.UDPConn
	qt.Assert(t, qt.IsNil(w.two.Do(func() (err error) {
		app, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(10, 77, 0, 3), Port: 82})
		return err
	})))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(app.Close())) })
	send := func(from net.IP, text string) {
		t.Helper()
		qt.Assert(t, qt.IsNil(w.abroad.Do(func() error {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: from}, &net.UDPAddr{IP: net.IPv4(10, 77, 0, 3), Port: 82})
			if err != nil {
				return err
			}
			_, err = c.Write([]byte(text))
			return errors.Join(err, c.Close())
		})))
	}
	set := func(g fabric.Gateway) {
		t.Helper()
		far := fabric.Publication{Proto: "tcp", HostPort: 8082, Addr: ep(3).Addr4, Port: 82, Far: true}
		qt.Assert(t, qt.IsNil(w.f.SetGateway(g)))
		qt.Assert(t, qt.IsNil(w.f.SetPublications(t.Context(), []fabric.Publication{far})))
	}

	set(fabric.Gateway{})
	before := unreachables(t, w.cfg.Host)
	send(elsewhere.IP, "early")
	qt.Check(t, qt.Equals(unreachables(t, w.cfg.Host), before))
	send(nil, "stranger")
	qt.Check(t, qt.Equals(unreachables(t, w.cfg.Host), before+1), qt.Commentf("a stranger is told"))

	set(fabric.Gateway{On: true})
	send(elsewhere.IP, "early")
	send(nil, "stranger")
	qt.Assert(t, qt.IsNil(app.SetReadDeadline(time.Now().Add(time.Minute))))
	b := make([]byte, 100)
	n, from, err := app.ReadFromUDPAddrPort(b)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(b[:n]), "stranger"))
	qt.Check(t, qt.Equals(from.Addr().Unmap().String(), "10.77.0.1"))
}

// unreachables is how many "destination unreachable" a namespace has sent.
func unreachables(t *testing.T, ns *netns.NS) (n int) {
	t.Helper()
	var text []byte
	qt.Assert(t, qt.IsNil(ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})))
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		n, err := strconv.Atoi(fields[slices.Index(names, "OutDestUnreachs")])
		qt.Assert(t, qt.IsNil(err))
		return n
	}
	t.Fatal("no counters of ICMP")
	return 0
}
